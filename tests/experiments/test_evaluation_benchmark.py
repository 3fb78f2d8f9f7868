"""The evaluation benchmark compares like with like; its workload is what it says."""

from __future__ import annotations

import json

from experiments.benchmarks.evaluation import Bench, measure
from experiments.benchmarks.workloads.build import WORKLOAD
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.code import CodeTask


def test_the_workload_is_64_different_rollouts_and_64_neighbours_of_one_path() -> None:
    workload = json.loads(WORKLOAD.read_text(encoding="utf-8"))
    centre = LayerPath.parse(workload["centre"])
    assert len({LayerPath.parse(text) for text in workload["rollouts"]}) == 64
    neighbours = {LayerPath.parse(text) for text in workload["neighbours"]}
    assert len(neighbours) == 64
    for path in neighbours:
        changed = sum(a != b for a, b in zip(path.refs, centre.refs, strict=True))
        assert 1 <= changed <= 3 and path.stem == centre.stem
    for name, recipe in workload["recipes"].items():
        assert MergeRecipe.from_dict(recipe).name == name


def test_both_ways_are_measured_and_must_agree() -> None:
    workload = json.loads(WORKLOAD.read_text(encoding="utf-8"))
    names = ("translation", "math", "code")
    members = MemberSet(ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in names}))
    for recipe in workload["recipes"].values():
        members.add(MergeRecipe.from_dict(recipe))
    task = CodeTask(n_search=12)
    bench = Bench(members, workload["neighbours"][:3], [task])
    row = measure(bench, repeats=1, generated=(8,))
    assert row["layer_forwards_ours"] < row["layer_forwards_one_by_one"]
    assert 1 < row["count_ratio"] < 3 and row["max_relative_diff"] <= 1e-5
    assert row["ratio"] > 0 and row["cpu_ratio"] > 0 and row["generation"][8]["ratio"] > 0
