"""Two to five experts and objectives."""
