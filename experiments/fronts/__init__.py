"""All methods at equal budgets."""
