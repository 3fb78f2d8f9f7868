from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("mo_gymnasium") is None:
    pytest.skip("needs mo-gymnasium", allow_module_level=True)

# MO-Gymnasium's own boxes are wider than their type.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

from experiments.agent_checks import environments, synthetic, table  # noqa: E402
from experiments.agent_checks.run import PROBLEMS, run_one  # noqa: E402


def test_the_known_bests_are_those_of_the_literature() -> None:
    deep = environments.known("deep_sea_treasure")["agent"]
    assert deep["hypervolume"] == pytest.approx(359.264, abs=1e-3)
    assert deep["utility"] == pytest.approx(5.5423, abs=1e-4)
    assert environments.known("fruit_tree")["agent"]["utility"] == pytest.approx(5.8915, abs=1e-4)
    concave = environments.known("concave")
    assert concave["weighted_sum"]["points"] == 2
    assert concave["tchebycheff"]["points"] == 10


def test_enumeration_agrees_with_the_environments_own_front() -> None:
    protocol = environments.PROTOCOLS["deep_sea_treasure"]
    found = environments.reachable_returns(protocol.make(), environments.GAMMA)
    own = np.array(protocol.make().unwrapped.pareto_front(environments.GAMMA))  # type: ignore[attr-defined]
    np.testing.assert_allclose(found[found[:, 0].argsort()], own[own[:, 0].argsort()], rtol=1e-6)


def test_the_preferences_are_spread_over_the_simplex() -> None:
    for k in (2, 6):
        goals = environments.riesz(k)
        assert goals.shape == (100, k)
        np.testing.assert_allclose(goals.sum(axis=1), 1.0)
        for corner in np.eye(k):
            assert (np.abs(goals - corner).sum(axis=1) < 1e-9).any()


def test_a_shrunk_run_has_every_measure_of_the_table() -> None:
    quick = synthetic.replace(
        synthetic.FULL,
        hidden=16,
        embedding=8,
        pretrain_steps=20,
        distil_steps=40,
        acquisition=synthetic.replace(synthetic.FULL.acquisition, proposals=100, samples=8),
    )
    found = synthetic.run(synthetic.Size(5, 48, 32), "full", 0, settings=quick)
    assert found["evaluations"] == 80
    assert set(table.SHOWN["synthetic"]) <= set(found)
    assert 0.8 < found["archive"] <= 1.0
    assert found["decoded"] > 0.9


def test_tables_show_means_with_intervals(tmp_path: Path, capsys, monkeypatch) -> None:
    for seed, value in enumerate((0.9, 1.0)):
        file = tmp_path / "synthetic" / "full" / f"{seed}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"greedy": value, "seconds": 3.0}))
    monkeypatch.setattr(
        sys, "argv", ["table", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    table.main()
    assert "| full | 2 | 0.950 ± 0.635 |" in capsys.readouterr().out
    lines = (tmp_path / "out" / "checks.csv").read_text().splitlines()
    assert lines[0] == "problem,variant,seed,metric,value"
    assert "synthetic,full,1,greedy,1.0" in lines
    assert not any("seconds" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("problem", list(environments.PROTOCOLS))
def test_shrunk_environments_come_near_the_known_best(problem: str) -> None:
    variant = PROBLEMS[problem][0]
    best = environments.known(problem)[variant]
    found = environments.run(problem, variant, seed=0, share=0.3)
    assert found["utility"] > 0.9 * best["utility"]
    assert found["points"] >= 0.5 * best["points"]


@pytest.mark.slow
def test_the_agent_nearly_solves_the_synthetic_merge() -> None:
    found = run_one("synthetic", "full", 0)
    assert found["evaluations"] == 500 + 512
    assert found["greedy"] > 0.85
    assert found["decoded"] > 0.97
