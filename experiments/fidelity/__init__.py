"""How well few items rank candidates."""
