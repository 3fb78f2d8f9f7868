"""Numbers only: preferences, scalarisations, the archive of non-dominated candidates, indicators. No torch in here."""
