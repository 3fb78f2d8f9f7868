"""Settings of the competitors that HM3 is compared with; `settings.SearchSettings` holds them."""

from __future__ import annotations

from dataclasses import dataclass

SPACES = ("parameters",)
"""Values of `search.space`: what the vectors of a general-purpose optimiser stand for."""


@dataclass
class EvolutionSettings:
    """Evolutionary algorithms: nsga2 and nsga3.

    Attributes:
        population: Size of the population; NSGA-III takes as many reference directions as fit.
    """

    population: int = 20
