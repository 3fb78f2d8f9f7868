"""Options of the searchers that ship: each has its own node `search`, with what it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from hm3rl.config.values import choice, number


@dataclass
class SearcherSettings:
    """What every searcher has; a searcher of one's own adds its options in a subclass.

    Attributes:
        name: The searcher; chosen by `search=NAME`.
    """

    name: str = ""


@dataclass
class MmMoSizes:
    """Sizes and switches of MM-MO.

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
class ParameterSettings:
    """The parameter level: what is searched there.

    Attributes:
        operators: Merge operators to choose from.
        scale_min: Smallest scale of the merged task vector.
        scale_max: Largest scale of the merged task vector.
        weights: `free` (each weight uniform in [0, 1], as MAP's scaling coefficients; scale 1, and
            TIES does not divide by the weights that agree), or `simplex` (weights sum to 1, the
            scale is searched between the two above).
        density_min: Smallest share of a task vector that is kept (TIES, DARE).
        density_max: Largest share of a task vector that is kept.
        warm_up: Share of the level's budget drawn at random before elites are varied, or at most
            before the Gaussian processes are asked.
        members: How many of the best merged models join the pool for the architecture level.
        source: `search`, or `preference`: one merge Theta(lambda) for each of
            `agent.preferences` preferences (HM3 (5)), by the first operator, with the preference
            (snapped to a lattice) as weights and the middles of both ranges.
        sampler: What spends the level's budget with `source=search`: `gp` (batches of the largest
            expected hypervolume improvement under Gaussian processes), `elites` (random recipes,
            then variations of the best), or `mm_mo` (Bayesian optimisation of DARE-TIES merges;
            operators, ranges and warm-up above do not apply).
        mm_mo: Its sizes, with `sampler=mm_mo`.
    """

    operators: list[str] = field(default_factory=lambda: ["task_arithmetic"])
    scale_min: float = number(0.6)
    scale_max: float = number(3.0)
    weights: str = choice("free", "simplex")
    density_min: float = number(0.2, least=0.001, most=1)
    density_max: float = number(0.9, least=0.001, most=1)
    warm_up: float = number(0.5, least=0, most=1)
    members: int = number(16, least=1)
    source: str = choice("search", "preference")
    sampler: str = choice("gp", "elites", "mm_mo")
    mm_mo: MmMoSizes = field(default_factory=MmMoSizes)


@dataclass
class MergingSettings(SearcherSettings):
    """Searchers that merge models as HM3's parameter level does: `parameter_only`, `grid`.

    Attributes:
        parameter: The parameter level.
    """

    parameter: ParameterSettings = field(default_factory=ParameterSettings)


@dataclass
class OverPathsSettings(MergingSettings):
    """Searchers over paths: `random`.

    Attributes:
        levels: What paths are made of: `both` (HM3's parameter level comes first, with its share,
            and the best merged models join the experts) or `paths` (sources alone).
        parameter_share: Share of the budget for the parameter level, with `levels=both`; null:
            0.2, more where that is little for so many experts (`level_sampler.level_share`).
    """

    levels: str = choice("both", "paths")
    parameter_share: float | None = number(None, above=0, below=1)


@dataclass
class HM3Settings(MergingSettings):
    """HM3 and its ablations: `hm3`, `architecture_only`, `no_offline`.

    Attributes:
        parameter_share: Share of the budget for the parameter level; null: 0.2, more where that
            is little for so many experts (`level_sampler.level_share`).
        offline_share: Share of the budget for the offline phase; the rest is online.
    """

    name: str = "hm3"
    parameter_share: float | None = number(None, above=0, below=1)
    offline_share: float = number(0.2, above=0, below=1)


@dataclass
class EvolutionSettings(MergingSettings):
    """Differential evolution: `de`.

    Attributes:
        population: Size of the population.
    """

    population: int = number(20, least=4)


@dataclass
class NsgaSettings(OverPathsSettings):
    """Genetic algorithms: `nsga2`, `nsga3`.

    Attributes:
        population: Size of the population; NSGA-III takes as many reference directions as fit.
        space: What their vectors stand for: `parameters` (merge recipes) or `paths`.
    """

    population: int = number(20, least=4)
    space: str = choice("parameters", "paths")


@dataclass
class CmaEsSettings(SearcherSettings):
    """CMA-ES in the space of parameters: cmaes.

    Attributes:
        groups: Groups of neighbouring layers with weights and densities of their own; 1 is the
            whole model, as many as there are layers is the paper's.
        generations: Generations under one preference, at least, before the next one's turn; the
            size of the populations follows from the budget.
    """

    groups: int = number(2, least=1)
    generations: int = number(10, least=1)


@dataclass
class DataFlowSettings(OverPathsSettings):
    """CMA-ES in the data flow space: cmaes_dfs.

    Attributes:
        repetitions: r, how often the sequence of all layers is laid out (not for same-depth paths).
        generations: Generations under one preference, at least, before the next one's turn; the
            size of the populations follows from the budget.
        scale_max: Largest factor on the states that one member hands to another, its reciprocal the
            smallest; 1: none is evolved.
    """

    repetitions: int = number(3, least=1)
    generations: int = number(10, least=1)
    scale_max: float = number(1.0, least=1)


@dataclass
class RMMSettings(OverPathsSettings):
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
class DepthWiseSettings(OverPathsSettings):
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
class MmMoSettings(SearcherSettings, MmMoSizes):
    """MM-MO: `mm_mo`, with the sizes that its paper gives.

    Attributes:
        samples: Quasi-Monte-Carlo samples of the acquisition function.
    """

    samples: int = number(128, least=1)


@dataclass
class MapSettings(SearcherSettings):
    """MAP: map.

    Attributes:
        sample: Share of the budget for random coefficients, to which surrogates are first fitted.
        batch: Points of the surrogates' front evaluated between two fits; 0: all of it.
        largest: Largest scaling coefficient of a task vector.
    """

    sample: float = number(0.4, least=0, most=1)
    batch: int = number(10, least=0)
    largest: float = number(1.0, least=0.001)


@dataclass
class LanguageModelSettings:
    """A language model that is asked in words.

    The key of an endpoint is no option: it comes from the environment variable OPENAI_API_KEY.

    Attributes:
        model: Its name at the endpoint; without an endpoint the folder of a transformers model, or
            a name such as smollm2:base.
        endpoint: Address of a server that speaks OpenAI's chat completions, such as
            http://localhost:8000/v1; empty: the model is run here.
        timeout: Seconds that the endpoint has for an answer.
        retries: How often a question is asked again when there was no answer, or none that can be
            used.
        tokens: Most tokens of an answer.
    """

    model: str = ""
    endpoint: str = ""
    timeout: float = number(60.0, above=0)
    retries: int = number(2, least=0, most=100)
    tokens: int = number(1024, least=1)


@dataclass
class MohollSettings(SearcherSettings):
    """MOHOLLM: moholl.

    Attributes:
        proposer: Who proposes blends inside a region: `surrogate` (expected hypervolume improvement
            under a Gaussian process), `random` (uniform), or `llm` (a language model).
        groups: Groups of neighbouring layers that are blended apart, and the stem; 0: the whole
            model is one blend.
        llm: The language model, with `proposer=llm`.
    """

    proposer: str = choice("surrogate", "random", "llm")
    groups: int = number(2, least=0)
    llm: LanguageModelSettings = field(default_factory=LanguageModelSettings)
