"""Settings of the competitors that HM3 is compared with; `settings.SearchSettings` holds them."""

from __future__ import annotations

from dataclasses import dataclass

SPACES = ("parameters",)
"""Values of `search.space`: what the vectors of a general-purpose optimiser stand for."""


@dataclass
class EvolutionSettings:
    """Evolutionary algorithms: nsga2, nsga3 and de.

    Attributes:
        population: Size of the population; NSGA-III takes as many reference directions as fit.
    """

    population: int = 20


@dataclass
class CmaEsSettings:
    """CMA-ES in the space of parameters: cmaes.

    Attributes:
        groups: Groups of neighbouring layers with weights and densities of their own; 1 is the
            whole model, as many as there are layers is the paper's.
        generations: Generations under one preference, before the next one's turn.
    """

    groups: int = 2
    generations: int = 2
