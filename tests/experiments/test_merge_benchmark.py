"""The merge benchmark on a tiny shape: its parts, not its numbers."""

from __future__ import annotations

import mmap
from time import sleep

import pytest
import torch

from experiments.benchmarks import merge
from experiments.benchmarks.memory import PeakMemory
from experiments.benchmarks.shapes import EXPERTS, make_sources
from hm3rl.models.pool import ModelPool


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_sources("tiny", tmp_path_factory.mktemp("sources"))


def test_sources_are_bf16_siblings(folders):
    pool = ModelPool.load(folders["base"], {e: folders[e] for e in EXPERTS}, dtype=torch.bfloat16)
    base, expert = pool.tensors("base"), pool.tensors("a")
    apart = torch.cat([(expert[n].float() - base[n].float()).flatten() for n in base])
    assert 0.0005 < apart.std().item() < 0.002


@pytest.mark.parametrize("operator", merge.OPERATORS)
def test_ours_is_measured_for_first_and_later_candidates(operator, folders, monkeypatch):
    monkeypatch.setattr(merge, "COPIED", 1 << 20)
    found = merge.measure_ours(folders, operator)
    assert min(*found["first"], *found["later"], found["floor"]) > 0
    assert found["entries"] == sum(
        t.numel()
        for t in ModelPool.load(folders["base"], {"a": folders["a"]}).tensors("a").values()
    )
    assert (found["kept_bytes"] > 0) == (operator == "ties")


def test_recipes_differ_in_everything_an_operator_listens_to():
    recipes = [merge.recipe("dare_ties", number) for number in range(len(merge.WEIGHTS))]
    for name in ("weights", "density", "seed"):
        assert len({getattr(recipe, name) for recipe in recipes}) == len(recipes)


def test_rows_and_table(tmp_path, monkeypatch):
    measured = {
        "ours": {
            "first": [2, 2],
            "later": [0.5, 0.8],
            "floor": 0.1,
            "first_peak": 1e9,
            "later_peak": 2e9,
        },
        "mergekit": {"spent": [20.0, 24.0], "peak": 3e9},
    }
    monkeypatch.setattr(merge, "measure", lambda tool, *_: measured[tool])
    rows = merge.rows_of("tiny", "ties", tmp_path, 1)
    assert [(row["candidate"], row["ratio"]) for row in rows] == [("first", 10.0), ("later", 40.0)]
    assert (
        "| tiny | ties | later | 0.500 | 20.0 | 40 | 30 | 0.100 | 5.0 | 2.00 | 3.00 |"
        in merge.table(rows)
    )


def test_peak_memory_counts_what_a_block_allocates():
    """Pages of its own: an allocator could hand out memory that an earlier test gave back to it."""
    size = 64 * 2**20
    with PeakMemory(0.001) as memory:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
            pages[:: mmap.PAGESIZE] = b"1" * (size // mmap.PAGESIZE)
            sleep(0.05)
    assert memory.peak - memory.before > 0.9 * size
