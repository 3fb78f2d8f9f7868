"""The preference-conditioned agent: networks, offline and online learning, the surrogate."""
