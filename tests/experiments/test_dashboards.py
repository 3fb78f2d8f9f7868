from __future__ import annotations

import csv
import importlib.util

import pytest

from hm3rl.run.finished import FinishedRun

if importlib.util.find_spec("wandb_workspaces") is None:
    pytest.skip("needs wandb-workspaces", allow_module_level=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces' own
def test_the_view_shows_what_runs_log_and_nothing_else(finished: FinishedRun, capsys):
    from experiments.dashboards.build import main, workspace

    view = workspace("me", "hm3rl", finished.objectives)
    shown = set()
    for section in view.sections:
        for panel in section.panels:
            for name in ("x", "y", "metrics"):
                value = getattr(panel, name, None)
                shown |= set(value if isinstance(value, list) else [value])
    with finished.folder.metrics.open() as stream:
        logged = {row["name"] for row in csv.DictReader(stream)}
    logged |= {"evaluations", "hypervolume", "evaluation/seconds", "evaluation/failed"}
    logged |= {f"score/{task}" for task in finished.objectives}
    names = {getattr(one, "name", one) for one in shown} - {None}
    assert "hypervolume" in names
    assert names <= logged
    main(["--entity", "me", "--print"])
    assert "translation and math" in capsys.readouterr().out
