"""From a candidate to a plain checkpoint folder: weights, configuration, card, self-check."""
