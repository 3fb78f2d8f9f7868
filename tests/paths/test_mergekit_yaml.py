"""mergekit configurations: exact where possible, refused with a reason elsewhere."""

from __future__ import annotations

import pytest

from hm3rl.errors import InputError
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.mergekit_yaml import to_mergekit


def whole(operator: str, weights: dict[str, float], **settings) -> Candidate:
    return Candidate.whole(MergeRecipe.of(operator, weights, **settings), 3)


def test_ties_merge(tiny_pool):
    plain = to_mergekit(whole("ties", {"a": 0.6, "c": 0.4}, density=0.5, scale=1.5), tiny_pool)
    assert plain == {
        "merge_method": "ties",
        "base_model": str(tiny_pool.paths["base"]),
        "models": [
            {"model": str(tiny_pool.paths["a"]), "parameters": {"weight": 0.6, "density": 0.5}},
            {"model": str(tiny_pool.paths["c"]), "parameters": {"weight": 0.4, "density": 0.5}},
        ],
        "parameters": {"normalize": True, "lambda": 1.5},
        "dtype": "float32",
    }


def test_linear_and_slerp(tiny_pool):
    linear = to_mergekit(whole("linear", {"a": 0.5, "b": 1.5}), tiny_pool)
    assert "base_model" not in linear
    assert linear["parameters"] == {"normalize": True}
    slerp = to_mergekit(whole("slerp", {"a": 0.25, "b": 0.75}), tiny_pool)
    assert slerp["base_model"] == str(tiny_pool.paths["a"])
    assert slerp["parameters"] == {"t": 0.75}


def test_path_through_sources(tiny_pool):
    path = LayerPath.parse("a | a[0:2] + b[1] + a[2]")
    plain = to_mergekit(Candidate(path), tiny_pool)
    assert plain["merge_method"] == "passthrough"
    ranges = [s["sources"][0]["layer_range"] for s in plain["slices"]]
    assert ranges == [[0, 2], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (whole("dare_ties", {"a": 0.5, "b": 0.5}, density=0.5), "random masks"),
        (whole("hm3_eq5", {"a": 0.5, "b": 0.5}), "no such method"),
        (Candidate(LayerPath.parse("a | b[0:3]")), "first and the norm from the last"),
        (Candidate(LayerPath.parse("a | a[0:3]"), head="b"), "head comes from another member"),
    ],
    ids=["random", "eq5", "stem", "head"],
)
def test_inexpressible_candidates_are_refused_with_the_reason(tiny_pool, candidate, reason):
    with pytest.raises(InputError, match=reason):
        to_mergekit(candidate, tiny_pool)


def test_paths_through_merged_members_are_refused(tiny_pool):
    recipe = MergeRecipe.of("linear", {"a": 1.0})
    candidate = Candidate.of(LayerPath.parse(f"a | a[0:2] + {recipe.name}[2]"), [recipe])
    with pytest.raises(InputError, match="path runs through merged members"):
        to_mergekit(candidate, tiny_pool)


def test_random_operator_without_dropping_is_expressible(tiny_pool):
    plain = to_mergekit(whole("dare_linear", {"a": 0.5, "b": 0.5}), tiny_pool)
    assert plain["merge_method"] == "dare_linear"
