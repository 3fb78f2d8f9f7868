"""Scoring candidates: requests, forward passes, generation, the store, and the budgeted problem."""
