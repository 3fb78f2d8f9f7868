"""Searchers, all through `Searcher.search(problem, budget) -> Archive`, under the same rules."""
