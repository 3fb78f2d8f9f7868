"""HM3 against grid search and evolution at equal budget; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Study
from experiments.common.report import write_methods_only

ROWS = ("hm3", "grid", "de", "cmaes", "nsga2")

STUDY = Study(
    name="hm3_table7",
    variants={name: method(name, {300: 5}) for name in ROWS},
    write=write_methods_only,
    runs="fronts",
    adds=True,
)
