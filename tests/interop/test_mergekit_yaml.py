"""mergekit configurations: exact where possible, refused with a reason elsewhere."""

from __future__ import annotations

import pytest
import yaml

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_yaml import from_mergekit, to_mergekit
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath


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
        (Candidate(LayerPath.parse("a | {a: 0.5}[1] + a[0] + a[2]")), "in the model's order"),
    ],
    ids=["random", "eq5", "stem", "head", "order"],
)
def test_inexpressible_candidates_are_refused_with_the_reason(tiny_pool, candidate, reason):
    with pytest.raises(InputError, match=reason):
        to_mergekit(candidate, tiny_pool)


def test_blended_layers_are_task_arithmetic_with_a_weight_for_each(tiny_pool):
    path = LayerPath.parse("{a: 0.3} | {a: 0.2, c: 0.9}[0] + c[1] + base[2]")
    plain = to_mergekit(Candidate(path), tiny_pool)
    assert plain["merge_method"] == "task_arithmetic"
    assert [m["parameters"]["weight"] for m in plain["models"]] == [
        [{"filter": ".layers.", "value": [0.2, 0.0, 0.0]}, {"value": 0.3}],
        [{"filter": ".layers.", "value": [0.9, 1.0, 0.0]}, {"value": 0.0}],
    ]


def test_paths_through_merged_members_are_refused(tiny_pool):
    recipe = MergeRecipe.of("linear", {"a": 1.0})
    candidate = Candidate.of(LayerPath.parse(f"a | a[0:2] + {recipe.name}[2]"), [recipe])
    with pytest.raises(InputError, match="path runs through merged members"):
        to_mergekit(candidate, tiny_pool)


def test_random_operator_without_dropping_is_expressible(tiny_pool):
    plain = to_mergekit(whole("dare_linear", {"a": 0.5, "b": 0.5}), tiny_pool)
    assert plain["merge_method"] == "dare_linear"


BY_BLOCK = {"attention": [0.2, 0.9], "mlp": 0.7, "rest": [0.5, 0.1, 0.4]}


@pytest.mark.parametrize(
    "candidate",
    [
        whole("linear", {"a": 0.5, "b": 1.5}),
        whole("linear", {"a": BY_BLOCK, "b": 1.5}, normalise=False),
        whole("slerp", {"a": 0.25, "b": 0.75}),
        whole("slerp", {"a": [1.0, 0.5, 0.8], "b": [0.0, 0.5, 0.2]}),
        whole("multi_slerp", {"a": 0.2, "b": 0.3, "c": 0.4}),
        whole("karcher", {"a": 1.0, "b": 1.0, "c": 1.0}),
        whole("task_arithmetic", {"a": BY_BLOCK, "c": [0.0, 0.3]}, scale=1.7),
        whole("ties", {"a": 0.5, "b": 0.3}, densities={"a": [0.3, 0.9], "b": 0.6}, scale=0.8),
        whole("ties", {"a": 0.5, "b": 0.3}, density=0.4, normalise=False),
        whole("dare_linear", {"a": 0.5, "b": 0.3}),
        whole("dare_ties", {"a": 0.5, "b": 0.3}, scale=0.7),
        whole("della", {"a": 0.5, "b": 0.3}),
        whole("della_linear", {"a": 0.5, "b": 0.3}),
        whole("breadcrumbs", {"a": 0.5, "b": 0.3}, density=0.6, gamma=0.1),
        whole("breadcrumbs_ties", {"a": 0.5, "b": 0.3}, density=0.6, gamma=0.05),
        whole("model_stock", {"a": 1.0, "b": 1.0}),
        Candidate(LayerPath.parse("a | a[0:2] + b[1] + b[1] + a[2]")),
        Candidate.whole("base", 3),
    ],
    ids=lambda c: str(c.recipes[0].operator if c.recipes else c.path),
)
def test_there_and_back(tiny_pool, candidate):
    plain = yaml.safe_load(yaml.safe_dump(to_mergekit(candidate, tiny_pool)))
    assert from_mergekit(plain, tiny_pool) == candidate


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_model": "elsewhere"}, "elsewhere is no source"),
        ({"base_model": "A"}, "base_model is"),
        ({"merge_method": "linear", "base_model": "BASE", "models": "WITH_BASE"}, "like an expert"),
    ],
)
def test_files_about_other_models_are_no_candidates(tiny_pool, changes, reason):
    candidate = whole("task_arithmetic", {"a": 0.5, "b": 0.5})
    plain = to_mergekit(candidate, tiny_pool) | changes
    folders = {name: str(tiny_pool.paths[name]) for name in tiny_pool.names}
    plain["base_model"] = {"BASE": folders["base"], "A": folders["a"]}.get(
        plain["base_model"], plain["base_model"]
    )
    if plain["models"] == "WITH_BASE":
        plain["models"] = [
            {"model": folders[n], "parameters": {"weight": 1}} for n in ("base", "a")
        ]
        plain["parameters"] = {}
    with pytest.raises(InputError, match=reason):
        from_mergekit(plain, tiny_pool)


def test_stacks_of_merges_are_for_hm3rl_merge(tiny_pool):
    folders = {name: str(tiny_pool.paths[name]) for name in tiny_pool.names}
    sources = [{"model": folders[n], "layer_range": [0, 2]} for n in ("a", "b")]
    plain = {
        "merge_method": "linear",
        "slices": [{"sources": sources}],
        "parameters": {"weight": 1.0},
    }
    with pytest.raises(InputError, match="stacks merges") as caught:
        from_mergekit(plain, tiny_pool)
    assert "hm3rl merge" in caught.value.remedy
    ends = [
        {"sources": [{"model": folders["a"], "layer_range": [0, 2]}]},
        {"sources": [{"model": folders["b"], "layer_range": [2, 3]}]},
    ]
    with pytest.raises(InputError, match="embedding and its final norm"):
        from_mergekit({"merge_method": "passthrough", "slices": ends}, tiny_pool)


def test_depths_that_mergekit_cannot_configure_are_refused(save_pool, family_configs, tmp_path):
    plain = {**family_configs["qwen2"].to_dict(), "use_sliding_window": False, "layer_types": None}
    folders = save_pool(tmp_path, type(family_configs["qwen2"])(**plain), ("a",))
    pool = ModelPool.load(folders["base"], {"a": folders["a"]})
    assert to_mergekit(Candidate(LayerPath.parse("a | a[0] + a[0] + a[2:4]")), pool)["slices"]
    with pytest.raises(InputError, match="it has 5 layers"):
        to_mergekit(Candidate(LayerPath.parse("a | a[0] + a[0:4]")), pool)
