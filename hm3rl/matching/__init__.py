"""Units of models of different initialisation: what may be permuted, and what matches."""
