"""The study of matched pairs, on models that learn nothing, and its sums."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from experiments.matching import run as study
from experiments.matching.run import Row, barrier, between, main, table
from hm3rl.models.shallow import named_tensors


def test_a_shrunk_run_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["--shrink", "--root", str(tmp_path)])
    results = tmp_path / "results"
    with (results / "lines.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["method"], row["split"]) for row in rows} == {
        (method, split) for method in study.METHODS for split in study.SPLITS
    }
    assert {row["alpha"] for row in rows} == {"0.0", "0.5", "1.0"}
    ends = {row["loss"] for row in rows if row["alpha"] == "1.0" and row["split"] == "test"}
    assert max(map(float, ends)) - min(map(float, ends)) < 1e-3  # matching changes no function
    with (results / "units.csv").open() as stream:
        assert [row["gamma"] for row in csv.DictReader(stream)] == ["0.0", "0.5", "1.0"]
    assert (results / "table.md").read_text() in capsys.readouterr().out


def test_the_line_ends_in_both_models(tiny_pool):
    one, other = tiny_pool.model("a"), tiny_pool.model("b")
    for alpha, wanted in ((0.0, one), (1.0, other)):
        found = named_tensors(between(one, other, alpha))
        for name, tensor in named_tensors(wanted).items():
            assert torch.allclose(found[name], tensor)
    name = "model.layers.0.mlp.up_proj.weight"
    half = (named_tensors(one)[name] + named_tensors(other)[name]) / 2
    assert torch.allclose(named_tensors(between(one, other, 0.5))[name], half)


def line(losses: list[float], method: str = study.NONE, seed: int = 0) -> list[Row]:
    alphas = [place / (len(losses) - 1) for place in range(len(losses))]
    pairs = list(zip(alphas, losses, strict=True))
    return [Row(method, "", seed, s, a, loss, 0.5) for s in study.SPLITS for a, loss in pairs]


def test_a_barrier_is_measured_from_the_straight_line():
    assert barrier(line([1.0, 2.0, 2.0])[:3]) == pytest.approx(0.5)
    assert barrier(line([1.0, 1.2, 3.0])[:3]) == 0


def test_the_table_has_means_and_extremes():
    rows = [
        row
        for method in study.METHODS
        for seed, middle in enumerate((2.0, 4.0))
        for row in line([1.0, middle, 1.0], method, seed)
    ]
    cells = table(rows).splitlines()[2].split(" | ")
    assert cells[2:4] == ["3.000 (2.000 to 4.000)", "2.000 (1.000 to 3.000)"]


def test_the_readme_names_the_command():
    readme = (Path(study.__file__).parent / "README.md").read_text()
    assert "python -m experiments.matching.run" in readme
    assert study.TASK in readme
