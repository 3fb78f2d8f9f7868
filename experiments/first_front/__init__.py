"""Question: is HM3 better than its ablations and than random search, at equal budget?"""
