"""The model a user gets for a preference."""
