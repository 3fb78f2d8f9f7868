"""Pools of tiny experts that nobody tuned on; see README.md."""
