"""Competitors on the same problem and budget, one file each."""
