"""What the agent's parts are worth on the tiny zoo."""
