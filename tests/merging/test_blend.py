from __future__ import annotations

import pytest

from hm3rl.errors import InputError
from hm3rl.merging.blend import blend_name, blend_of, is_blend
from hm3rl.merging.recipe import MergeRecipe, blend_recipe


def test_equal_blends_have_one_name():
    name = blend_name({"math": 0.70001, "code": 0.4, "idle": 0.00001})
    assert name == blend_name({"code": 0.4, "math": 0.7}) == "{code: 0.4, math: 0.7}"
    assert blend_of(name) == {"code": 0.4, "math": 0.7}


def test_one_whole_expert_and_none_are_sources():
    assert blend_name({"math": 1.0, "code": 0.0}) == "math"
    assert blend_name({"math": 0.0}) == blend_name({}) == "base"
    assert blend_name({"math": 0.5}) == "{math: 0.5}"
    assert is_blend("{math: 0.5}") and not is_blend("math") and not is_blend("merged@3fa9c1d2")


def test_a_blend_is_task_arithmetic():
    recipe = blend_recipe("{math: 0.7, code: 0.4}")
    assert recipe == MergeRecipe.of("task_arithmetic", {"code": 0.4, "math": 0.7})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{math 0.5}", "math 0.5"),
        ("{math: half}", "math: half"),
        ("{math: inf}", "math: inf"),
        ("{math: 0.5, math: 0.1}", "math twice"),
        ("math", "no blend"),
    ],
)
def test_what_is_no_blend_is_named(text: str, named: str):
    with pytest.raises(InputError, match=named):
        blend_of(text)
