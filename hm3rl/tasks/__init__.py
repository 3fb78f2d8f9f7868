"""What models are scored on: items in fixed splits, metrics, and the sandbox for programs."""
