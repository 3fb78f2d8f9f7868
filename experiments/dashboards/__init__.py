"""A saved wandb view for a project of hm3rl runs."""
