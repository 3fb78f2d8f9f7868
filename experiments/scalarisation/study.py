"""The scalarisation of the agent, crossed with the screening that uses it; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

TCHEBYCHEFF = ("agent.scalarisation=tchebycheff", "agent.critic=scalar")
UTILITY = ("agent.acquisition.function=utility",)
SEEDS = {100: 5}

STUDY = Study(
    name="scalarisation",
    variants={
        "hm3": method("hm3", SEEDS),
        "scalar_critic": Variant(("agent.critic=scalar",), SEEDS),
        "tchebycheff": Variant(TCHEBYCHEFF, SEEDS),
        "utility": Variant(UTILITY, SEEDS),
        "tchebycheff_utility": Variant((*TCHEBYCHEFF, *UTILITY), SEEDS),
    },
    write=write_methods_only,
    runs="fronts",
    adds=True,
)
