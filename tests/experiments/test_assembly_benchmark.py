"""The assembly benchmark runs, compares models with mergekit's, and finds no copied byte."""

from __future__ import annotations

import json
import sys

import pytest

from experiments.benchmarks import assembly
from hm3rl.models.shallow import shallow_copy

pytest.importorskip("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(assembly, "CANDIDATES", 12)
    monkeypatch.setattr(assembly, "MERGEKIT_RUNS", 1)
    file = tmp_path / "assembly.json"
    monkeypatch.setattr(sys, "argv", ["assembly", "--shape", "tiny", "--json", str(file)])
    assembly.main()
    found = json.loads(file.read_text())
    assert set(found) == {"ratio", "seconds_ours", "seconds_mergekit", "added_bytes"}
    assert found["added_bytes"] == 0
    assert found["ratio"] == pytest.approx(found["seconds_mergekit"] / found["seconds_ours"])
    assert "| added bytes |" in capsys.readouterr().out


def test_a_copied_weight_would_be_counted(tiny_pool):
    model = shallow_copy(tiny_pool.model("a"))
    before = assembly.storages(model)
    head = model.lm_head.weight.detach().clone()
    model.register_buffer("copied", head, persistent=False)
    added = assembly.storages(model)
    assert sum(added.values()) - sum(before.values()) == head.nbytes
