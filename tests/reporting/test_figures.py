from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from hm3rl.reporting.figures import plot_front, plot_hypervolume

ROWS = [
    {"key": "s", "phase": "sources", "failed": "0", "evaluations": "0", "hypervolume": "0.2"}
    | {"math": "1.0", "code": "0.2", "text": "0.1"},
    {"key": "a", "phase": "parameter", "failed": "0", "evaluations": "1", "hypervolume": "0.3"}
    | {"math": "0.6", "code": "0.5", "text": "0.4"},
    {"key": "b", "phase": "online", "failed": "0", "evaluations": "2", "hypervolume": "0.5"}
    | {"math": "0.8", "code": "0.7", "text": "0.6"},
    {"key": "c", "phase": "online", "failed": "1", "evaluations": "3", "hypervolume": "0.5"}
    | {"math": "0.0", "code": "0.0", "text": "0.0"},
]


@pytest.mark.parametrize("objectives", [("math",), ("math", "code"), ("math", "code", "text")])
def test_the_front_is_drawn_for_any_number_of_tasks(tmp_path: Path, objectives: tuple[str, ...]):
    target = tmp_path / "pareto.png"
    plot_front(ROWS, objectives, ["b"], {"mathexpert": [1.0] * len(objectives)}, target)
    height, width, _ = matplotlib.image.imread(target).shape
    assert width > height if len(objectives) == 3 else width > 300


def test_uniform_blends_are_drawn_where_there_are_any(tmp_path: Path):
    pictures = []
    for references in ({}, {"uniform 1": [0.4, 0.4], "uniform 0.5": [0.3, 0.3]}):
        target = tmp_path / "pareto.png"
        plot_front(ROWS, ("math", "code"), ["b"], {"m": [1.0, 0.2]}, target, references=references)
        pictures.append((matplotlib.image.imread(target)[..., :3].max(axis=2) < 0.1).sum())
    assert pictures[1] > pictures[0]


def test_the_hypervolume_curve_is_drawn(tmp_path: Path):
    target = tmp_path / "hypervolume.png"
    plot_hypervolume(ROWS, target, 0.2)
    picture = matplotlib.image.imread(target)
    assert picture.min() < 0.2 and picture.max() == 1.0  # there is ink on white
