"""Evaluations needed for what another method has."""
