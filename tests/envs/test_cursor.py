"""The cursor's moves, its masks and its episodes."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.envs.cursor import ROUNDS, Cursor, CursorVecEnv
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace

SKIP, BACK = 2, 3


def space(limits: PathLimits | None = None, num_layers: tuple[int, int] = (3, 3)) -> PathSpace:
    return PathSpace(
        members=("a", "b"),
        num_layers=num_layers,
        limits=limits or PathLimits(1, 5),
        context=np.zeros((2, 1), np.float32),
        descriptors=np.zeros((2, 3, 0), np.float32),
        can_follow=np.ones((2, 2), dtype=bool),
    )


def walk(cursor: Cursor, *actions: int) -> Cursor:
    for action in actions:
        assert cursor.mask()[action]
        cursor.act(action)
    return cursor


def test_layers_skips_and_going_back_make_the_path():
    cursor = walk(Cursor(space()), 1, 0, 1, BACK, 0, SKIP)
    assert cursor.ended
    assert cursor.path == LayerPath.parse("b | a[0] + b[1] + a[1]")
    assert cursor.taken.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_masks_keep_the_limits():
    cursor = walk(Cursor(space(PathLimits(3, 3))), 0)
    assert not cursor.mask()[SKIP] and not cursor.mask()[BACK]  # too short, before the first
    cursor = walk(cursor, 0, BACK, 1, 0)
    assert cursor.mask().tolist() == [False, False, True, True]  # three layers are the most
    assert walk(cursor, SKIP).path == LayerPath.parse("a | a[0] + b[0] + a[1]")
    same = walk(Cursor(space(PathLimits(3, 3, actions="same_depth", stem="b"))), 1, 0)
    assert same.mask().tolist() == [True, True, False, False]
    assert Cursor(same.space).mask().tolist() == [False, True, False, False]


@pytest.mark.parametrize("limits", [PathLimits(1, 5), PathLimits(2, 3), PathLimits(3, 3)])
def test_random_walks_end_in_legal_paths_within_the_rounds(limits: PathLimits):
    rng = np.random.default_rng(0)
    for _ in range(50):
        cursor = Cursor(space(limits))
        while not cursor.ended:
            walk(cursor, int(rng.choice(np.flatnonzero(cursor.mask()))))
        assert cursor.path is not None and limits.allows(cursor.path)
        assert cursor.steps <= ROUNDS * 3


def test_a_path_that_could_not_get_long_enough_is_none():
    # From b's only layer nothing leads on, and the rounds are too few to repeat it nine times.
    ragged = space(PathLimits(9, 9), num_layers=(3, 1))
    blocked = PathSpace(**{**vars(ragged), "can_follow": np.eye(2, dtype=bool)})
    cursor = walk(Cursor(blocked), 1)
    while not cursor.ended:
        walk(cursor, int(np.flatnonzero(cursor.mask())[0]))
    assert cursor.path is None and cursor.steps <= ROUNDS * 3


def test_episodes_that_end_together_are_scored_together_and_paid_by_preference():
    calls: list[list[LayerPath]] = []

    def score(paths: list[LayerPath]) -> list[np.ndarray | None]:
        calls.append(paths)
        return [np.array([1.0, 0.5]), None][: len(paths)]

    preference = np.array([0.25, 0.75])
    env = CursorVecEnv(space(), score, Utility(), 2, lambda: preference, 2)
    first = env.reset()
    assert first.shape == (2, 3 * 2 + 4 + 2 + 2) and env.observation_space.contains(first[0])
    for actions in ([0, 1], [0, 1], [1, SKIP]):
        _, rewards, dones, _ = env.step(np.array(actions))
        assert not dones.any() and not rewards.any()
    after, rewards, dones, infos = env.step(np.array([0, SKIP]))
    assert dones.all() and len(calls) == 1
    assert calls[0] == [LayerPath.parse("a | a[0] + b[1] + a[2]"), LayerPath.parse("b | b[0]")]
    assert rewards == pytest.approx([0.25 * 1.0 + 0.75 * 0.5, 0.0])  # the second is not covered
    assert (after == first).all() and not (infos[0]["terminal_observation"] == first[0]).all()
    assert np.stack(env.env_method("action_masks")).tolist() == env.action_masks().tolist()
