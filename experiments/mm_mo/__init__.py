"""MM-MO and its own ablations."""
