"""Vectors stand for legal paths, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.paths.limits import PathLimits
from hm3rl.search.path_encoding import DataFlowEncoding, DepthEncoding
from tests.envs.test_cursor import space
from tests.search.formula_paths import path_problem

PROBLEM = path_problem()
LIMITS = {
    "any": PathLimits(1, 5),
    "fixed": PathLimits(3, 3),
    "long": PathLimits(5, 9),
    "same": PathLimits(3, 3, actions="same_depth"),
    "stem": PathLimits(2, 4, stem="b"),
}


def text(encoding: DepthEncoding | DataFlowEncoding, *vector: float) -> str:
    return str(encoding.decode(np.array(vector, dtype=np.float64)).path)


def test_depth_vectors_name_stem_members_and_how_often():
    encoding = DepthEncoding(PROBLEM, space(LIMITS["any"]))
    assert text(encoding, 1, 0, 1, 1, 1, 0, 2) == "b | a[0] + b[2] + b[2]"
    assert text(encoding, 0, 0, 0, 0, 2, 2, 2) == "a | a[0] + a[0:2] + a[1:3]"
    assert text(encoding, 0, 0, 1, 0, 0, 0, 0) == "a | a[2]"  # one layer at least
    same = DepthEncoding(PROBLEM, space(LIMITS["same"]))
    assert len(same.lower) == 4 and text(same, 1, 0, 1, 0) == "b | a[0] + b[1] + a[2]"


def test_depth_vectors_beyond_the_limits_are_mended_from_the_last_depth():
    fixed = DepthEncoding(PROBLEM, space(LIMITS["fixed"]))
    assert text(fixed, 0, 0, 0, 0, 2, 1, 2) == "a | a[0:3]"
    assert text(fixed, 0, 0, 0, 0, 1, 0, 0) == "a | a[0:3]"
    assert text(fixed, 0, 0, 0, 0, 2, 0, 1) == "a | a[0] + a[0] + a[2]"
    long = DepthEncoding(PROBLEM, space(LIMITS["long"]))
    assert text(long, 0, 0, 0, 0, 0, 0, 1) == "a | a[0:2] + a[1:3] + a[2]"


def test_the_indicator_walks_the_repeated_sequence_of_all_layers():
    encoding = DataFlowEncoding(PROBLEM, space(LIMITS["any"]), repetitions=2)
    assert len(encoding.lower) == 2 + 2 * 6
    values = -0.1 * np.arange(1, 13)
    values[[0, 5, 7]] = 0.5  # a[0] and b[2] of the first round, a[1] of the second
    assert text(encoding, -1, 1, *values) == "b | a[0] + b[2] + a[1]"
    assert text(encoding, 1, 0, *-np.arange(1, 13)) == "a | a[0]"  # the highest of none
    assert text(encoding, 1, 0, *np.arange(1, 13)) == "a | a[1:3] + b[0:3]"  # the five highest
    for member, name in enumerate("ab"):
        assert str(encoding.decode(encoding.whole(member, 0.5)).path) == f"{name} | {name}[0:3]"


def test_with_same_depth_paths_the_highest_entry_of_each_depth_wins():
    encoding = DataFlowEncoding(PROBLEM, space(LIMITS["same"]), repetitions=3)
    assert len(encoding.lower) == 2 + 6
    assert text(encoding, 0, 1, -1, 0.5, -1, -0.5, 0.4, -2) == "b | b[0] + a[1:3]"
    assert str(encoding.decode(encoding.whole(1, 0.5)).path) == "b | b[0:3]"


def test_scales_stand_at_the_seams_and_follow_from_two_numbers_a_member():
    """u of the member handing on and v of the one taking over; the embedding hands on unscaled."""
    encoding = DataFlowEncoding(PROBLEM, space(LIMITS["same"]), repetitions=1, scale_max=4.0)
    assert len(encoding.lower) == 2 + 6 + 4
    indicator = [0, 1, 1, -1, 1, -1, 1, -1]  # b's embedding, then a[0], b[1], a[2]
    u, v = [1.0, -0.5], [0.5, 0.0]
    candidate = encoding.decode(np.array([*indicator, *u, *v]))
    assert str(candidate.path) == "b | a[0] + b[1] + a[2]"
    # a to b: 4 ** ((1 + 0) / 2), b to a: 4 ** ((-0.5 + 0.5) / 2)
    assert candidate.alignment == "scales@1,2,1"
    assert encoding.decode(np.array([*indicator, 0, 0, 0, 0])).alignment == "none"
    whole = encoding.decode(encoding.whole(1, 0.5))
    assert str(whole.path) == "b | b[0:3]" and whole.alignment == "none"
    beyond = encoding.decode(np.array([*indicator, 9, 9, 9, 9]))
    assert beyond.alignment == "scales@1,4,4"


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("kind", ["depth", "flow"])
def test_whatever_is_drawn_is_legal_and_much_of_it_is_reached(kind: str, limits: str):
    where = space(LIMITS[limits])
    encoding = (
        DepthEncoding(PROBLEM, where) if kind == "depth" else DataFlowEncoding(PROBLEM, where, 3)
    )
    rng = np.random.default_rng(0)
    drawn = encoding.sample(100, rng)
    assert (drawn >= encoding.lower).all() and (drawn <= encoding.upper).all()
    uniform = rng.uniform(encoding.lower, encoding.upper, size=drawn.shape)
    paths = {encoding.decode(vector).path for vector in [*drawn, *uniform]}
    assert all(LIMITS[limits].allows(path) for path in paths) and len(paths) >= 12
    lengths = {path.length for path in paths}
    # A random indicator has half of all layers on, so short paths are rare.
    assert kind == "flow" or lengths >= set(range(where.min_length, min(where.max_length, 6) + 1))


def test_what_cannot_follow_is_left_out_and_a_path_too_short_is_the_whole_stem():
    torn = space(LIMITS["fixed"])
    torn = type(torn)(**{**vars(torn), "can_follow": np.eye(2, dtype=bool)})
    depth = DepthEncoding(PROBLEM, torn)
    assert text(depth, 1, 0, 1, 0, 1, 1, 1) == "b | b[0:3]"
    flow = DataFlowEncoding(PROBLEM, torn, 1)
    assert text(flow, 1, 0, 1, 1, 1, 1, 1, 1) == "a | a[0:3]"
