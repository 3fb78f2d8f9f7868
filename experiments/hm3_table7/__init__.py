"""HM3's Table 7: equal budget against grid search and differential evolution."""
