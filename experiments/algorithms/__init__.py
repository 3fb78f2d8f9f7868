"""Algorithms by name on one small problem."""
