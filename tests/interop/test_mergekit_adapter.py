"""Adapters in mergekit configurations."""

from __future__ import annotations

from dataclasses import replace

from hm3rl.interop.mergekit_yaml import from_mergekit, to_mergekit
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.candidate import Candidate


def test_an_adapter_is_written_as_mergekit_does_and_read_back(tiny_pool):
    pool = replace(tiny_pool, adapters=("a",))
    candidate = Candidate.whole(MergeRecipe.of("ties", {"a": 0.6, "c": 0.4}, density=0.5), 3)
    plain = to_mergekit(candidate, pool)
    models = [entry["model"] for entry in plain["models"]]
    assert models == [f"{pool.paths['base']}+{pool.paths['a']}", str(pool.paths["c"])]
    assert from_mergekit(plain, pool) == candidate
