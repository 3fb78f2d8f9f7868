"""Aligning hidden states."""
