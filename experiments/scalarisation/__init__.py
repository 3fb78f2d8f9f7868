"""Weighted sum against Tchebycheff."""
