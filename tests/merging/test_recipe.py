"""Recipes are values: equal content, equal key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hm3rl.errors import InputError
from hm3rl.merging.recipe import OPERATOR_TRAITS, MergeRecipe

weights = st.floats(0.05, 3.0)


@given(
    st.sampled_from(sorted(OPERATOR_TRAITS)),
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


def test_name_shows_the_first_eight_digits():
    recipe = MergeRecipe.of("linear", {"a": 1.0})
    assert recipe.name == f"merged@{recipe.key[:8]}"
    assert len(recipe.key) == 16


@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        ("tiess", {}, "unknown merge operator 'tiess'"),
        ("ties", {"density": 0.0}, "outside"),
        ("ties", {"scale": float("nan")}, "not a number"),
        ("dare_ties", {"seed": -1}, "negative"),
        ("slerp", {"weights": (("a", 1.0),)}, "exactly 2 experts, 1 have weight"),
        ("linear", {"weights": (("a", 1.0), ("b", -1.0))}, "sum to 0"),
        ("linear", {"weights": (("a", 1.0), ("a", 1.0))}, "twice"),
        ("linear", {"weights": (("a", float("inf")),)}, "inf"),
    ],
)
def test_bad_recipes_are_refused_with_a_reason(operator, settings, message):
    with pytest.raises(InputError, match=message):
        MergeRecipe(operator, **{"weights": (("a", 0.5), ("b", 0.5)), **settings})


def test_unknown_entries_in_a_recipe_file_are_named():
    with pytest.raises(InputError, match="wieghts"):
        MergeRecipe.from_dict({"operator": "linear", "wieghts": {"a": 1}})
