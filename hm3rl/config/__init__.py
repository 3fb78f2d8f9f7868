"""Configuration: schema, composition, ranges; dataclasses and Hydra, no torch."""
