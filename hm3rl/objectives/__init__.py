"""Numbers only, no torch: preferences, scalarisations, indicators, the archive."""
