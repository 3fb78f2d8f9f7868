"""Recipes are values: equal content, equal key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hm3rl.errors import InputError
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.traits import operator_names

weights = st.floats(0.05, 3.0)


@given(
    st.sampled_from(sorted(operator_names())),
    weights,
    weights,
    st.floats(0.1, 1.0),
    st.floats(0.1, 3.0),
    st.integers(0, 9),
)
def test_survives_its_own_json(operator, first, second, density, scale, seed):
    recipe = MergeRecipe.of(
        operator, {"x": first, "y": second}, density=density, scale=scale, seed=seed
    )
    again = MergeRecipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.key == recipe.key


def test_ignored_settings_do_not_change_the_key():
    plain = MergeRecipe.of("task_arithmetic", {"a": 0.5, "b": 0.5})
    noisy = MergeRecipe.of(
        "task_arithmetic", {"b": 0.5, "c": 0.0, "a": 0.1 + 0.4}, density=0.3, seed=7
    )
    assert noisy == plain
    assert noisy.key == plain.key


def test_heeded_settings_change_the_key():
    recipes = [
        MergeRecipe.of("dare_ties", {"a": 0.5, "b": 0.5}, **settings)
        for settings in (
            {},
            {"density": 0.5},
            {"scale": 2.0},
            {"seed": 1, "density": 0.5},
            {"normalise": False},
            {"densities": (("a", 0.2),)},
        )
    ]
    assert len({recipe.key for recipe in recipes}) == len(recipes)


def test_equal_densities_of_all_experts_are_the_common_density():
    single = MergeRecipe.of("ties", {"a": 1, "b": 1}, density=0.4)
    spelt = MergeRecipe.of("ties", {"a": 1, "b": 1}, densities=(("b", 0.4), ("a", 0.4)))
    assert spelt == single


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        (MergeRecipe.of("linear", {"a": 1.0}), "c11b04bf2e3eadc3"),
        (
            MergeRecipe.of("task_arithmetic", {"math": 0.5, "code": 0.3}, scale=1.7),
            "bd94bed4e26ce0d5",
        ),
        (
            MergeRecipe.of("ties", {"a": 0.5, "c": 0.25}, density=0.4, scale=1.5),
            "31243cf0932a27fb",
        ),
        (
            MergeRecipe.of("dare_ties", {"a": 0.6, "b": 0.4}, density=0.7, seed=3),
            "f0594ac061a490e2",
        ),
        (MergeRecipe.of("slerp", {"a": 0.5, "b": 0.3}), "044a03641c0be6d0"),
        (MergeRecipe.of("hm3_eq5", {"a": 0.5, "b": 0.3}, density=0.3), "bef71935e9a5be6b"),
        (MergeRecipe.of("ties", {"a": 1, "b": 1}, densities=(("a", 0.1),)), "af20bfb5ece2ce56"),
        (MergeRecipe.of("dare_linear", {"a": 0.5, "b": 0.5}, density=0.5), "5b4c5e944acaf446"),
        (MergeRecipe.of("task_arithmetic", {}), "466e5ba20b61e6e3"),
    ],
)
def test_keys_of_stored_recipes_do_not_change(recipe, key):
    assert recipe.key == key


def test_profiles_survive_their_own_json():
    recipe = MergeRecipe.of(
        "della",
        {"a": [0, 0.3, 0.7, 1], "b": {"attention": 0.5, "mlp": [0.1, 0.9], "rest": 0.2}, "c": 1},
        densities={"a": [0.4, 0.6], "b": 0.5},
        density=0.7,
        epsilon=0.1,
    )
    plain = json.loads(json.dumps(recipe.to_dict()))
    assert plain["weights"]["a"] == [0.0, 0.3, 0.7, 1.0]
    assert plain["densities"] == {"a": [0.4, 0.6], "b": 0.5}
    assert MergeRecipe.from_dict(plain) == recipe
    assert MergeRecipe.from_dict(plain).key == recipe.key


def test_weight_of_an_expert_with_a_profile_is_its_mean():
    recipe = MergeRecipe.of("ties", {"a": [0, 0.5, 1], "b": {"mlp": [0, 1], "rest": 0.2}})
    assert dict(recipe.weights) == {"a": 0.5, "b": 0.3}
    assert recipe.experts == ("a", "b")
    balanced = MergeRecipe.of("task_arithmetic", {"a": [-1, 1], "b": [0, 0]})
    assert balanced.weights == (("a", 0.0),)


def test_equal_profiles_are_equal_recipes():
    plain = MergeRecipe.of("ties", {"a": 0.5, "b": 1}, density=0.4)
    flat = {"a": {"attention": [0.5, 0.5], "rest": 0.5}, "b": [1, 1, 1]}
    assert MergeRecipe.of("ties", flat, density=0.4) == plain
    long = MergeRecipe.of("ties", {"a": [0, 0.25, 0.5, 0.75, 1], "b": 1})
    short = MergeRecipe.of("ties", {"a": [0.1 - 0.1, 1], "b": 1})
    assert long == short
    assert long.key == short.key
    assert MergeRecipe.of("ties", {"a": [0, 0.25, 1], "b": 1}) != short
    kept = MergeRecipe.of("ties", {"a": 1}, densities={"a": [0.1, 0.2]}, density=0.3)
    assert kept == MergeRecipe.of("ties", {"a": 1}, densities={"a": [0.1, 0.2]}, density=0.9)


def test_own_parameters_have_defaults_that_fit_the_density_and_are_reset_elsewhere():
    weights = {"a": 1, "b": 1}
    assert MergeRecipe.of("della", weights, density=0.5).epsilon == 0.15
    assert MergeRecipe.of("della", weights, density=0.9).epsilon == pytest.approx(0.09)
    assert MergeRecipe.of("della", weights).epsilon == 0.0
    assert MergeRecipe.of("breadcrumbs", weights, density=0.5).gamma == 0.01
    assert MergeRecipe.of("breadcrumbs", weights, density=0.995).gamma == pytest.approx(0.005)
    assert MergeRecipe.of("breadcrumbs", weights, gamma=0.3).gamma == 0.0
    assert MergeRecipe.of("ties", weights, epsilon=0.1, gamma=0.1) == MergeRecipe.of(
        "ties", weights
    )
    other = MergeRecipe.of("della", weights, density=0.5, epsilon=0.2)
    assert other.key != MergeRecipe.of("della", weights, density=0.5).key


def test_model_stock_ignores_how_large_the_weights_are():
    assert MergeRecipe.of("model_stock", {"a": 0.2, "b": 3, "c": 0}) == MergeRecipe.of(
        "model_stock", {"a": 1, "b": 1}
    )


def test_name_shows_the_first_eight_digits():
    recipe = MergeRecipe.of("linear", {"a": 1.0})
    assert recipe.name == f"merged@{recipe.key[:8]}"
    assert len(recipe.key) == 16


@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        ("tiess", {}, "unknown operator 'tiess'"),
        ("ties", {"density": 0.0}, "outside"),
        ("ties", {"scale": float("nan")}, "not a number"),
        ("dare_ties", {"seed": -1}, "negative"),
        ("slerp", {"weights": (("a", 1.0),)}, "exactly 2 experts, 1 have weight"),
        ("linear", {"weights": (("a", 1.0), ("b", -1.0))}, "sum to 0"),
        ("linear", {"weights": (("a", 1.0), ("a", 1.0))}, "twice"),
        ("linear", {"weights": (("a", float("inf")),)}, "inf"),
        ("linear", {"weights": (("a", "1e-3"),)}, "'1e-3'"),
        ("model_stock", {"weights": (("a", 1.0),)}, "at least 2 experts, 1 has weight"),
        ("multi_slerp", {"weights": (("a", 1.0), ("b", -0.1))}, "negative weight"),
        ("della", {"density": 0.5, "epsilon": 0.5}, "epsilon must be below 0.5"),
        ("della", {"density": 0.9, "epsilon": 0.15}, "epsilon must be below 0.1"),
        ("breadcrumbs", {"density": 0.8, "gamma": 0.3}, r"gamma 0.3 is outside \[0, 0.2\]"),
    ],
)
def test_bad_recipes_are_refused_with_a_reason(operator, settings, message):
    with pytest.raises(InputError, match=message):
        MergeRecipe(operator, **{"weights": (("a", 0.5), ("b", 0.5)), **settings})


def test_unknown_entries_in_a_recipe_file_are_named():
    with pytest.raises(InputError, match="wieghts"):
        MergeRecipe.from_dict({"operator": "linear", "wieghts": {"a": 1}})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "neither a number nor a list"),
        ([0.5, "x"], "neither a number nor a list"),
        ({"attention": 1.0}, "lacks `rest`"),
        ({"rest": 1.0, "mpl": 0.5}, "names 'mpl'"),
        ([1.0, float("nan")], "finite"),
    ],
)
def test_bad_profiles_are_refused_with_a_reason(value, message):
    with pytest.raises(InputError, match=message):
        MergeRecipe.of("ties", {"a": value, "b": 1.0})


def test_density_profiles_are_checked_anchor_by_anchor():
    with pytest.raises(InputError, match=r"density 1\.2 is outside"):
        MergeRecipe.of("ties", {"a": 1.0}, densities={"a": [0.5, 1.2]})


@pytest.mark.parametrize(
    ("entry", "value"),
    [("density", "high"), ("density", None), ("seed", 1.5), ("scale", True), ("weights", ["a"])],
)
def test_entries_of_the_wrong_type_are_named(entry, value):
    plain = {"operator": "ties", "weights": {"a": 1.0}, entry: value}
    with pytest.raises(InputError, match=f"the merge recipe's {entry}"):
        MergeRecipe.from_dict(plain)
