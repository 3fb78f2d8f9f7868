"""MOHOLLM's regions without a language model, beside other searches; see README.md."""

from __future__ import annotations

from experiments.common.methods import METHODS
from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

SEEDS = {100: 5}

LAYER_BO = ("plugins=[experiments.pools.searchers]", "search=layer_bo", "search.groups=2")
"""Bayesian optimisation over the same blends without regions, after a parameter level."""

STUDY = Study(
    name="moholl",
    variants={
        "moholl_surrogate": Variant(("search=moholl",), SEEDS),
        "moholl_random": Variant(("search=moholl", "search.proposer=random"), SEEDS),
        "layer_bo": Variant(LAYER_BO, SEEDS),
        "nsga2": Variant(METHODS["nsga2"], SEEDS),
        "parameter_only": Variant(METHODS["parameter_only"], SEEDS),
        "none": Variant(("agent=none",), SEEDS),
        "hm3": Variant(METHODS["hm3"], SEEDS),
    },
    write=write_methods_only,
    adds=True,
)
