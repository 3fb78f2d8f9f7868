from __future__ import annotations

import numpy as np
import pytest

from hm3rl.errors import InputError
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace


def make_space(
    limits: PathLimits,
    num_layers: tuple[int, ...] = (3, 3),
    can_follow: np.ndarray | None = None,
) -> PathSpace:
    m, depth = len(num_layers), max(num_layers)
    return PathSpace(
        members=tuple("abc"[:m]),
        num_layers=num_layers,
        limits=limits,
        context=np.eye(m, dtype=np.float32),
        descriptors=np.ones((m, depth, 2), dtype=np.float32),
        can_follow=np.ones((m, m), dtype=bool) if can_follow is None else can_follow,
    )


ANY = PathLimits(2, 4)
SAME = PathLimits(3, 3, actions="same_depth")


def test_the_first_action_is_a_stem_and_nothing_else() -> None:
    space = make_space(ANY)
    assert np.flatnonzero(space.mask([])).tolist() == [0, 1]


def test_a_fixed_stem_is_the_only_one_offered() -> None:
    space = make_space(PathLimits(2, 4, stem="b"))
    assert np.flatnonzero(space.mask([])).tolist() == [1]


def test_stop_only_between_shortest_and_longest() -> None:
    space = make_space(ANY)
    layer = space.layer_action(0, 1)
    assert [bool(space.mask([0, *[layer] * n])[space.stop]) for n in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert space.mask([0, *[layer] * 4]).sum() == 1


def test_same_depth_offers_layer_t_at_depth_t_and_stop_at_the_end_only() -> None:
    space = make_space(SAME)
    tokens = [1]
    for depth in range(3):
        legal = np.flatnonzero(space.mask(tokens))
        assert legal.tolist() == [space.layer_action(m, depth) for m in range(2)]
        tokens.append(int(legal[0]))
    assert np.flatnonzero(space.mask(tokens)).tolist() == [space.stop]


def test_members_that_cannot_follow_one_another_are_masked() -> None:
    apart = np.eye(2, dtype=bool)
    space = make_space(ANY, can_follow=apart)
    legal = np.flatnonzero(space.mask([1]))
    assert set(space.token_member[legal]) == {1}


def test_layers_a_member_does_not_have_are_masked() -> None:
    space = make_space(ANY, num_layers=(3, 2))
    assert not space.mask([0])[space.layer_action(1, 2)]
    assert space.mask([0])[space.layer_action(0, 2)]


def test_paths_survive_the_token_form() -> None:
    space = make_space(ANY)
    path = LayerPath.parse("b | a[0:2] + b[1] + a[0]")
    row = space.encode(path)
    assert row.tolist()[-1] == space.stop
    assert space.decode(row) == path
    assert space.offers(path)


def test_paths_with_strangers_or_too_many_layers_are_not_offered() -> None:
    space = make_space(ANY)
    assert not space.offers(LayerPath.parse("a | z[0:2]"))
    assert not space.offers(LayerPath.parse("a | a[0:3] + a[0:3]"))
    assert not space.offers(LayerPath.parse("a | a[0]"))
    with pytest.raises(ValueError, match="does not offer"):
        space.encode(LayerPath.parse("z | a[0:2]"))


@pytest.mark.parametrize("limits", [ANY, SAME, PathLimits(2, 4, stem="b")])
def test_rows_are_checked_like_single_paths(limits: PathLimits) -> None:
    apart = np.array([[True, False], [True, True]])
    space = make_space(limits, can_follow=apart)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, space.pad + 1, size=(3000, space.horizon))
    lengths = rng.integers(1, space.horizon - 1, size=3000)
    for row, length in zip(rows, lengths, strict=True):  # make most of them nearly legal
        row[0] = rng.integers(2)
        row[1:] = rng.integers(2, space.stop, size=space.horizon - 1)
        if limits is SAME:
            row[1:4] = [space.layer_action(int(rng.integers(2)), t) for t in range(3)]
            length = 3
        row[1 + length] = space.stop
        row[2 + length :] = space.pad
    expected = np.array([space.is_legal(row) for row in rows])
    assert 20 < expected.sum() < 3000
    np.testing.assert_array_equal(space.legal_rows(rows), expected)


def test_an_unknown_stem_and_unequal_depths_are_refused() -> None:
    with pytest.raises(InputError, match="stem 'z'"):
        make_space(PathLimits(2, 4, stem="z"))
    with pytest.raises(InputError, match="one depth"):
        make_space(SAME, num_layers=(3, 2))
