"""How the four tiny models of the package were trained, and what they show when merged."""
