"""MM-MO at its published budget, without its parts, and random merges; see README.md."""

from __future__ import annotations

from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

SEEDS = {30: 5}
PARTS = ("weak_to_strong", "fisher", "sparsity")

STUDY = Study(
    name="mm_mo",
    variants={
        "mm_mo": Variant(("search=mm_mo",), SEEDS),
        **{
            f"no_{part}": Variant(("search=mm_mo", f"search.{part}=false"), SEEDS) for part in PARTS
        },
        "latin_hypercube": Variant(("search=mm_mo", "search.initial=30"), SEEDS),
        "random_merges": Variant(("search=parameter_only", "search.parameter.warm_up=1.0"), SEEDS),
    },
    write=write_methods_only,
    runs="fronts",
    adds=True,
)
