"""What matching units does to the line between two models that were initialised differently."""
