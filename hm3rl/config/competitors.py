"""Settings of the competitors that HM3 is compared with; `settings.SearchSettings` holds them."""

from __future__ import annotations

from dataclasses import dataclass, field

from hm3rl.config.values import number

SPACES = ("parameters", "paths")
"""Values of `search.space`: what the vectors of a general-purpose optimiser stand for."""


@dataclass
class EvolutionSettings:
    """Evolutionary algorithms: nsga2, nsga3 and de.

    Attributes:
        population: Size of the population; NSGA-III takes as many reference directions as fit.
    """

    population: int = number(20, least=4)


@dataclass
class CmaEsSettings:
    """CMA-ES in the space of parameters: cmaes.

    Attributes:
        groups: Groups of neighbouring layers with weights and densities of their own; 1 is the
            whole model, as many as there are layers is the paper's.
        generations: Generations under one preference, before the next one's turn.
    """

    groups: int = number(2, least=1)
    generations: int = number(2, least=1)


LEVELS = ("both", "paths")
"""Values of `search.levels`: what a competitor over paths may stitch."""


@dataclass
class DataFlowSettings:
    """CMA-ES in the data flow space: cmaes_dfs.

    Attributes:
        repetitions: r, how often the sequence of all layers is laid out (not for same-depth paths).
        generations: Generations under one preference, before the next one's turn.
        scale_max: Largest factor on the states that one member hands to another, its reciprocal the
            smallest; 1: none is evolved.
    """

    repetitions: int = number(3, least=1)
    generations: int = number(2, least=1)
    scale_max: float = number(1.0, least=1)


@dataclass
class RMMSettings:
    """Reinforced model merging: PPO on a cursor's moves.

    Attributes:
        operators: With levels=paths, one merge of all experts alike by each of them is a member.
        preferences: 0: one agent that is shown a preference drawn for each episode; 1: equal
            weights, the paper's mean; N > 1: N agents in turn, each for a preference of its own.
        episodes: Episodes side by side, from which one update learns.
        epochs: PPO epochs for one update.
        learning_rate: PPO's step size.
        clip_range: PPO's clip.
        entropy: PPO's entropy bonus.
        gamma: Discount for each step of the cursor.
        hidden: Width of both layers of actor and critic.
    """

    operators: list[str] = field(default_factory=lambda: ["task_arithmetic", "ties", "dare_ties"])
    preferences: int = number(0, least=0)
    episodes: int = number(4, least=1)
    epochs: int = number(40, least=1)
    learning_rate: float = number(3e-4, above=0)
    clip_range: float = number(0.2, above=0)
    entropy: float = number(1e-4, least=0)
    gamma: float = number(0.99, least=0, most=1)
    hidden: int = number(64, least=1, most=65_536)


@dataclass
class DepthWiseSettings:
    """Depth-wise integration: brackets of successive halving proposed by a random forest.

    Attributes:
        starters: Candidates that enter a bracket.
        eta: One of so many goes on from a rung, and is asked so many times the items.
        rungs: Fidelities of a bracket, the last of which is all items.
        warm_up: Candidates scored before the forest proposes; until then all are random.
        random_share: Share of random candidates afterwards (SMAC's for several fidelities).
        proposals: Candidates among which the forest chooses a bracket's, half random, half local.
        elites: Best candidates under each preference around which the local ones are sought.
    """

    starters: int = number(9, least=1)
    eta: int = number(3, least=2)
    rungs: int = number(3, least=1)
    warm_up: int = number(10, least=2)
    random_share: float = number(0.2, least=0, most=1)
    proposals: int = number(400, least=1)
    elites: int = number(3, least=1)


@dataclass
class MmMoSettings:
    """MM-MO: mm_mo, and HM3's parameter level with `search.parameter.sampler=mm_mo`.

    Attributes:
        initial: Evaluations before the first model.
        batch: q, evaluations in one round.
        weak_to_strong: Whether proposals are crossed with the best evaluated so far.
        fisher: Whether proposals and their crossings are screened by Fisher information; off: one
            of each family is taken at random.
        sparsity: Whether the distance from the base is an objective of its own.
        samples: Quasi-Monte-Carlo samples of the acquisition function.
        restarts: Starting points of the acquisition function's optimisation.
        steps: Most steps from each.
    """

    initial: int = number(10, least=2)
    batch: int = number(4, least=1)
    weak_to_strong: bool = True
    fisher: bool = True
    sparsity: bool = True
    samples: int = number(16, least=1)
    restarts: int = number(2, least=1)
    steps: int = number(20, least=1)


@dataclass
class MapSettings:
    """MAP: map.

    Attributes:
        sample: Share of the budget for random coefficients, to which surrogates are first fitted.
        batch: Points of the surrogates' front evaluated between two fits; 0: all of it.
        largest: Largest scaling coefficient of a task vector.
    """

    sample: float = number(0.4, least=0, most=1)
    batch: int = number(10, least=0)
    largest: float = number(1.0, least=0.001)
