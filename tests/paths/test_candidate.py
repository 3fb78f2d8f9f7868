"""Candidates carry what they refer to; their keys follow content."""

from __future__ import annotations

import json

import pytest

from hm3rl.errors import InputError
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.alignment_kind import read_scales, write_scales
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath

HASHES = {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64, "base": "0" * 64}
RECIPE = MergeRecipe.of("ties", {"a": 0.5, "b": 0.5}, density=0.4)
OTHER = MergeRecipe.of("ties", {"a": 0.5, "c": 0.5}, density=0.4)


def path(text: str) -> LayerPath:
    return LayerPath.parse(text.replace("M", RECIPE.name))


def test_of_keeps_only_recipes_referred_to():
    candidate = Candidate.of(path("a | a[0:2] + M[2]"), [OTHER, RECIPE])
    assert candidate.recipes == (RECIPE,)
    assert Candidate.of(path("a | a[0:3]"), [OTHER, RECIPE]).recipes == ()


def test_recipes_must_be_the_ones_referred_to():
    with pytest.raises(InputError, match="refers to the merged members"):
        Candidate(path("a | M[0]"))
    with pytest.raises(InputError, match="carries recipes"):
        Candidate(path("a | a[0]"), (RECIPE,))


def test_json_round_trip_keeps_the_key():
    candidate = Candidate.of(path("M | a[0:2] + M[2]"), [RECIPE], head="b")
    again = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
    assert again == candidate
    assert again.key(HASHES) == candidate.key(HASHES)


def test_key_changes_with_everything_that_counts():
    candidates = [
        Candidate(path("a | a[0:3]")),
        Candidate(path("b | a[0:3]")),
        Candidate(path("a | a[0:2] + b[2]")),
        Candidate(path("a | a[0:3]"), head="b"),
        Candidate.of(path("a | a[0:2] + M[2]"), [RECIPE]),
        Candidate.whole(RECIPE, 3),
        Candidate.whole(OTHER, 3),
    ]
    keys = [candidate.key(HASHES) for candidate in candidates]
    assert len(set(keys)) == len(keys)


def test_key_follows_the_sources_it_uses_and_no_others():
    candidate = Candidate.whole(RECIPE, 3)
    key = candidate.key(HASHES)
    for name, changes in {"a": True, "b": True, "base": True, "c": False}.items():
        assert (candidate.key({**HASHES, name: "f" * 64}) != key) is changes


def test_naming_the_stem_as_head_is_the_default():
    assert Candidate(path("a | a[0]"), head="a") == Candidate(path("a | a[0]"))


def test_unknown_source_and_alignment_are_refused():
    with pytest.raises(InputError, match="'z', which is no source"):
        Candidate(path("z | a[0]")).key(HASHES)
    with pytest.raises(InputError, match="unknown alignment 'bent'"):
        Candidate(path("a | a[0]"), alignment="bent")


def test_keys_of_unaligned_candidates_are_what_they_always_were():
    """Stores of earlier versions stay valid."""
    assert Candidate(path("a | a[0:2] + b[2]")).key(HASHES) == "a6cb7a3bad5417dd"
    assert Candidate.of(path("b | M[0:2] + b[2]"), [RECIPE]).key(HASHES) == "63c25f4157f94273"


def test_alignment_is_part_of_the_key_and_of_the_plain_data():
    keys = set()
    for alignment in ("none", "scalar@12345678", "scalar@12345679", "full@12345678"):
        candidate = Candidate(path("a | a[0:2] + b[2]"), alignment=alignment)
        assert Candidate.from_dict(candidate.to_dict()) == candidate
        keys.add(candidate.key(HASHES))
    assert len(keys) == 4


def test_given_scales_are_written_in_the_candidate_one_for_each_seam():
    stitch_points = path("a | a[0] + b[1] + a[2]")
    candidate = Candidate(stitch_points, alignment=write_scales([0.95, 1.23456]))
    assert candidate.alignment == "scales@0.95,1.23"
    assert read_scales(candidate.alignment) == (0.95, 1.23)
    assert Candidate.from_dict(candidate.to_dict()) == candidate
    assert candidate.key(HASHES) != Candidate(stitch_points, alignment="scales@0.95,1.24").key(
        HASHES
    )
    assert Candidate(stitch_points, alignment="scales@1,1") == Candidate(stitch_points)
    with pytest.raises(InputError, match="has 2 stitch points, but 3 scales are given"):
        Candidate(stitch_points, alignment="scales@1,2,3")
    for wrong in ("scales@0,1", "scales@a,b", "scales@-1,1", "scales@inf,1"):
        with pytest.raises(InputError, match="no positive factors"):
            Candidate(stitch_points, alignment=wrong)


def test_a_path_without_seams_has_no_alignment():
    assert Candidate(path("a | a[0:3]"), alignment="full@12345678") == Candidate(path("a | a[0:3]"))


def test_equal_weights_have_one_key_however_they_are_spelled():
    hashes = {"base": "0", "a": "1", "b": "2"}
    half, other = (
        MergeRecipe.of("task_arithmetic", weights) for weights in ({"a": 0.5}, {"a": 0.25, "b": 1})
    )
    blended = LayerPath.parse("{a: 0.5} | {a: 0.5}[0] + {a: 0.25, b: 1}[1] + a[2]")
    merged = LayerPath.parse(f"{half.name} | {half.name}[0] + {other.name}[1] + a[2]")
    one, two = Candidate.of(blended), Candidate.of(merged, [half, other])
    assert one.key(hashes) == two.key(hashes)
    assert one.sources == two.sources == {"base", "a", "b"}
    whole = Candidate(LayerPath.whole("{a: 0.5}", 3))
    assert whole.key(hashes) == Candidate.whole(half, 3).key(hashes) != one.key(hashes)
    assert Candidate(LayerPath.whole("{a: 1}", 3)) == Candidate(LayerPath.whole("a", 3))
    assert Candidate.from_dict(one.to_dict()) == one
