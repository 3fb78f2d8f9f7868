"""Right answers against short ones: merging an expert that thinks with one that does not."""
