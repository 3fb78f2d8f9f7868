"""Preferences no training saw."""
