from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.errors import InputError
from hm3rl.merging.blend import blend_of, is_blend
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits

L, N = 3, 2
STOP = L
SAME = PathLimits(L, L, actions="same_depth")
ANY = PathLimits(1, 4)


class Scores:
    """Mean coefficient of each expert over the layers; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, paths: list[LayerPath]) -> np.ndarray:
        self.asked.append([str(path) for path in paths])
        return np.array([np.mean([_row(ref.member) for ref in path.refs], 0) for path in paths])


def _row(name: str) -> list[float]:
    known = blend_of(name) if is_blend(name) else {name: 1.0}
    return [known.get(expert, 0.0) for expert in "ab"]


def make_env(limits: PathLimits = SAME, largest: float = 1.0, **options: Any) -> BlendPathEnv:
    return BlendPathEnv(BlendSpace(("a", "b"), L, largest), Scores(), 2, limits, **options)


def act(layer: int, *blend: float) -> dict[str, Any]:
    return {"layer": np.int64(layer), "blend": np.array(blend or (0.0, 0.0), dtype=np.float32)}


def asked(env: BlendPathEnv) -> list[list[str]]:
    assert isinstance(env.score_paths, Scores)
    return env.score_paths.asked


def test_an_episode_pays_at_its_end_under_its_preference() -> None:
    env = make_env(ANY, length_cost=0.01)
    start, _ = env.reset(options={"preference": np.array([0.75, 0.25])})
    assert not start["blends"].any() and start["length"] == 0
    for action in (act(2, 0.5, 0.25), act(2, 1.0, 0.0), act(0, 0.2, 0.4)):
        _, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert not info["vector_reward"].any()
    seen, reward, terminated, truncated, info = env.step(act(STOP, 0.9, 0.9))
    assert terminated and not truncated
    np.testing.assert_allclose(info["vector_reward"], [0.6, 0.2])
    assert type(reward) is float
    assert reward == pytest.approx(0.75 * 0.6 + 0.25 * 0.2 - 0.02)
    assert asked(env) == [["{a: 0.5, b: 0.25} | a[2] + {a: 0.2, b: 0.4}[0]"]]
    assert str(info["path"]) == asked(env)[0][0]
    assert seen["path"].tolist() == [0, 3, 1, STOP + 1, *[STOP + 2] * 2]
    np.testing.assert_allclose(seen["blends"], [0.5, 0.25, 1.0, 0.0, 0.2, 0.4, 0, 0, 0, 0])


def test_same_depth_leaves_one_index_at_every_step() -> None:
    env = make_env()
    env.reset(seed=0)
    assert env.action_masks().tolist() == [True] * (L + 1)  # the stem's step reads no index
    env.step(act(1))
    for layer in (*range(L), STOP):
        assert np.flatnonzero(env.action_masks()).tolist() == [layer]
        env.step(act(layer))
    assert asked(env) == [["base | base[0:3]"]]


def test_any_indices_are_free_within_the_lengths() -> None:
    env = make_env(PathLimits(2, 3))
    env.reset(seed=0)
    env.step(act(0))
    for legal in ([0, 1, 2], [0, 1, 2], [0, 1, 2, STOP], [STOP]):
        assert np.flatnonzero(env.action_masks()).tolist() == legal
        env.step(act(legal[-1] if len(legal) == 1 else 1))
    assert asked(env) == [["base | base[1] + base[1] + base[1]"]]


@pytest.mark.parametrize(
    ("limits", "layer"), [(SAME, 1), (SAME, STOP), (ANY, STOP)], ids=["skip", "early", "empty"]
)
def test_an_illegal_index_ends_the_episode_and_scores_nothing(
    limits: PathLimits, layer: int
) -> None:
    env = make_env(limits)
    env.reset(seed=0)
    env.step(act(0, 0.5, 0.5))
    seen, reward, terminated, truncated, info = env.step(act(layer, 0.5, 0.5))
    assert (reward, terminated, truncated, info["illegal"]) == (0.0, True, False, True)
    assert info["vector_reward"].tolist() == [0.0, 0.0]
    assert asked(env) == [] and env.observation_space.contains(seen)


def test_a_path_without_a_score_has_no_reward_and_says_so() -> None:
    env = make_env(ANY)
    env.score_paths = lambda paths: [None for _ in paths]
    env.reset(seed=0)
    for action in (act(0), act(1)):
        env.step(action)
    _, reward, terminated, _, info = env.step(act(STOP))
    assert (reward, terminated, info["failed"]) == (0.0, True, True)
    assert str(info["path"]) == "base | base[1]"


def test_the_box_is_the_blend_alone_where_indices_are_forced() -> None:
    env = make_env(largest=2.0, flat=True)
    assert env.action_space.shape == (N,)
    env.reset(seed=0)
    for row in ([-1.0, 1.0], [0.0, 0.0], [-0.5, -1.0], [0.0, -1.0], [0.3, 0.3]):
        *_, terminated, _, _ = env.step(np.array(row, dtype=np.float32))
    assert terminated
    assert asked(env) == [["{b: 2} | {a: 1, b: 1}[0] + {a: 0.5}[1] + a[2]"]]


def test_the_box_takes_the_legal_index_of_the_largest_logit() -> None:
    env = make_env(ANY, flat=True)
    assert env.action_space.shape == (L + 1 + N,)
    env.reset(seed=0)
    stop_then_two = [-0.9, -0.8, 0.1, 0.9, 1.0, -1.0]  # STOP, or where it is illegal layer 2
    for _ in range(3):
        *_, terminated, _, info = env.step(np.array(stop_then_two, dtype=np.float32))
    assert terminated and "illegal" not in info
    assert asked(env) == [["a | a[2]"]]


def test_tchebycheff_pays_the_worst_gap() -> None:
    env = make_env(ANY, scalarisation="tchebycheff", utopia=1.5)
    env.reset(options={"preference": np.array([0.5, 0.5])})
    for action in (act(0), act(0, 0.75, 0.25)):
        env.step(action)
    _, reward, *_ = env.step(act(STOP))
    gaps = 0.5 * (1.5 - np.array([0.75, 0.25]))
    assert reward == pytest.approx(-(gaps.max() + 0.05 * gaps.sum()))


def test_preferences_come_from_the_seed() -> None:
    env = make_env()
    first = env.reset(seed=3)[0]["preference"]
    np.testing.assert_array_equal(first, env.reset(seed=3)[0]["preference"])
    assert not np.array_equal(first, env.reset()[0]["preference"])


def test_a_stem_cannot_be_fixed() -> None:
    with pytest.raises(InputError, match="cannot be fixed to 'a'"):
        make_env(PathLimits(1, 4, stem="a"))


@pytest.mark.parametrize("limits", [SAME, ANY], ids=["same_depth", "any"])
@pytest.mark.parametrize("flat", [False, True], ids=["dict", "flat"])
def test_a_path_is_walked_again_by_its_actions(limits: PathLimits, flat: bool) -> None:
    env = make_env(limits, largest=1.5, flat=flat)
    path = env.blends.decode(np.random.default_rng(0).random((1 + L, N)) * 1.5)
    assert env.offers(path)
    episode = env.begin(np.random.default_rng(0), {})
    while not env.ended(episode):
        action = env.action_on(path, episode)
        assert env.action_space.contains(action)
        env.take(episode, action)
    assert env.path(episode) == path and not episode.illegal


def test_paths_that_no_episode_can_end_in_are_not_offered() -> None:
    env = make_env(largest=0.5)
    assert env.offers(LayerPath.parse("base | {a: 0.5}[0:3]"))
    for text in ("base | {a: 0.6}[0:3]", "base | base[0:2]", "base | base[0] + base[2] + base[1]"):
        assert not env.offers(LayerPath.parse(text))
    assert not env.offers(LayerPath.parse("merged@3fa9c1d2 | base[0:3]"))
