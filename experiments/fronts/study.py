"""All methods, the same problem, the same budgets; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Study
from experiments.common.report import write_methods_only

LONG = {100: 5, 300: 5}
SHORT = {30: 5, 100: 5}
"""For methods made for few evaluations."""

STUDY = Study(
    name="fronts",
    variants={
        "hm3": method("hm3", LONG),
        "parameter_only": method("parameter_only", LONG),
        "random": method("random", LONG),
        "nsga2": method("nsga2", LONG),
        "nsga2_paths": method("nsga2_paths", LONG),
        "cmaes_dfs": method("cmaes_dfs", LONG),
        "rmm": method("rmm", LONG),
        "depth_wise": method("depth_wise", LONG),
        "mm_mo": method("mm_mo", SHORT),
        "map": method("map", SHORT),
    },
    write=write_methods_only,
    shrunk_seeds=2,
    adds=True,
)
