"""All methods, the same problem, the same budgets; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Study
from experiments.common.report import write_methods_only

LONG = {100: 5, 300: 5}

STUDY = Study(
    name="fronts",
    variants={
        "hm3": method("hm3", LONG),
        "parameter_only": method("parameter_only", LONG),
        "random": method("random", LONG),
        "nsga2": method("nsga2", LONG),
        "cmaes": method("cmaes", LONG),
    },
    write=write_methods_only,
    shrunk_seeds=2,
)
