"""Checks of the agent against problems of known answers."""
