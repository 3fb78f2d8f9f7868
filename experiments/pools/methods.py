"""The methods that are compared on pools, as Hydra overrides, and how a pool becomes a search."""

from __future__ import annotations

from pathlib import Path

from experiments.common.methods import METHODS as COMMON
from experiments.common.methods import UNPLANNED
from experiments.pools.plugin import N_SEARCH, N_TEST
from experiments.pools.pools import ZOO, Pool
from experiments.pools.train import BASE, MODELS
from hm3rl.config.words import quoted
from hm3rl.search.model_based import FIRST

PLUGINS = ("experiments.pools.plugin", "experiments.pools.searchers")

WARM_UP = 0.25
"""Most of the budget of `parameter_only` that is drawn at random (`tuning.csv`)."""

PRIORS = Path("runs/pools_priors").resolve()
"""Where `transfer.py` puts a prior for each development pool."""

POOL = "POOL"
"""Stands for a pool's name in the words of a method."""

METHODS: dict[str, tuple[str, ...]] = {
    "hm3": COMMON["hm3"],
    "none_members": (
        "agent=unguided",
        "agent.critic_warm_up=0",
        "agent.replay_steps=0",
        "agent.pretrain_steps=0",
        "agent.distil_steps=0",
        "agent.model_generated=0",
        "agent.acquisition.explore_share=0",
    ),
    "no_offline": COMMON["no_offline"],
    "psl": ("agent=psl",),
    "none": ("agent=none",),
    "layerwise": ("agent=layerwise",),
    "layerwise_no_ppo": ("agent=layerwise", "agent.ppo=false"),
    "autoregressive": ("agent=layerwise", "agent.rollouts=0"),
    "psl_prior": ("agent=psl", f"agent.prior={PRIORS}/{POOL}.zip"),
    "none_prior": ("agent=none", f"agent.prior={PRIORS}/{POOL}.zip"),
    "parameter_only": (*COMMON["parameter_only"], f"search.parameter.warm_up={WARM_UP}"),
    "layer_bo": ("search=layer_bo", "search.groups=2"),
    "layer_bo_every": ("search=layer_bo", "search.groups=0"),
    "layer_bo_trust": ("search=layer_bo", "search.groups=0", "search.regions=2"),
    "layer_bo_saas": ("search=layer_bo", "search.groups=0", "search.sparse=true"),
    "annealing": ("search=annealing",),
    "depth_wise": COMMON["depth_wise"],
    "map": COMMON["map"],
    "nsga2": COMMON["nsga2"],
    "random": COMMON["random"],
    "uniform": ("search=uniform",),
    "multitask": (),
}
"""All that stands in a row of the tables. Equal budgets; `uniform` uses three evaluations of it,
`multitask` (`multitask.py`) trains instead of searching."""

PLANNED = {
    name: name
    not in (
        *UNPLANNED,
        "psl",
        "none",
        "layerwise",
        "layerwise_no_ppo",
        "autoregressive",
        "psl_prior",
        "none_prior",
        "uniform",
        "multitask",
        "parameter_only",
    )
    for name in METHODS  # parameter_only has a rule of its own, see `runs`
}
"""Whether a method's decisions depend on its budget: it is then run at every budget, else once."""


def words_of(method: str, pool: Pool) -> list[str]:
    """What a method adds to the overrides of a pool."""
    return [word.replace(f"/{POOL}.zip", f"/{pool.name}.zip") for word in METHODS[method]]


def runs(method: str, pool: Pool, budgets: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """The searches that give a method's results at some budgets.

    `parameter_only` divides its budget only where the share `WARM_UP` of it is too small for the
    first sample: it draws 4 (N + 1) merges of N experts, then whatever the model chooses, ten at a
    time.

    Args:
        method: Key of `METHODS`.
        pool: The pool.
        budgets: Evaluations.

    Returns:
        Pairs of the budget that a search has, and the budgets that are read off it, largest last.
    """
    ordered = tuple(sorted(set(budgets)))
    if PLANNED[method]:
        return [(budget, (budget,)) for budget in ordered]
    alone: tuple[int, ...] = ()
    if method == "parameter_only":
        first = FIRST * (len(pool.experts) + 1)
        alone = tuple(budget for budget in ordered if round(budget * WARM_UP) < first)
    shared = tuple(budget for budget in ordered if budget not in alone)
    found = [(budget, (budget,)) for budget in alone]
    return found + ([(shared[-1], shared)] if shared else [])


def overrides(
    pool: Pool, models: Path = MODELS, n_search: int = N_SEARCH, n_test: int = N_TEST
) -> list[str]:
    """A pool as the overrides of a search; `hm3rl search` takes them, and `hm3rl.api.search`.

    Args:
        pool: The pool.
        models: Folder of the published models.
        n_search: Search items of each task.
        n_test: Held-out items of each task.

    Returns:
        The words; method, budget and seed are still to be added.
    """
    shipped = pool.name == ZOO

    def place(name: str) -> str:
        return f"zoo:{name}" if shipped else quoted(str((models / name).resolve()))

    words = ["pool=own", "tasks=own", f"plugins=[{','.join(PLUGINS)}]", f"pool.base={place(BASE)}"]
    words += [f"+pool.experts.{name}={place(name)}" for name in pool.experts]
    for task in pool.tasks:
        words += [
            f"+tasks.{task}.kind={task}",
            f"+tasks.{task}.search_items={n_search}",
            f"+tasks.{task}.test_items={n_test}",
        ]
    # Programs are made of the words of our own vocabulary, by models that we trained.
    return [*words, "threads=1", "evaluation.isolation=warn"]
