"""hm3 without one of its parts, everything else equal; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

SEEDS = {300: 5}

STUDY = Study(
    name="agent_ablations",
    variants={
        "hm3": method("hm3", SEEDS),
        "no_offline": method("no_offline", SEEDS),
        "no_screening": Variant(("agent.acquisition.enabled=false",), SEEDS),
        "stem_fixed": Variant(("paths.stem=translation",), SEEDS),
        "one_merged_member": Variant(("search.parameter.members=1",), SEEDS),
        "likelihood_critic": Variant(("agent.likelihood_weight=0.5",), SEEDS),
    },
    write=write_methods_only,
    runs="fronts",
    adds=True,
)
