"""What predicts a path's scores: features, models, acquisition, local search."""
