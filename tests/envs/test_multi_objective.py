from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from hm3rl.envs import MO_SYNTHETIC_ID
from hm3rl.envs.multi_objective import PreferenceEnv, VectorRewardView, flat_features
from hm3rl.envs.multi_objective_vector import Episode, EpisodeVecEnv
from hm3rl.envs.synthetic import SyntheticMergeEnv
from hm3rl.errors import InputError
from tests.envs.small_mo import corridor

LEFT, RIGHT, WAIT, HATCH = range(4)


def test_the_view_returns_vectors_and_keeps_the_scalar() -> None:
    env = gym.make(MO_SYNTHETIC_ID, layers=3, members=2, objectives=2, seed=0)
    env.reset(seed=0, options={"preference": np.array([0.25, 0.75])})
    space = env.unwrapped.space
    actions = [0, *(space.layer_action(1, layer) for layer in range(3)), space.stop]
    for action in actions:
        _, reward, terminated, truncated, info = env.step(np.int64(action))
    assert terminated and not truncated
    expected = env.unwrapped.problem.value(np.ones((1, 3), dtype=int))[0]
    np.testing.assert_allclose(reward, expected)
    assert info["scalar_reward"] == pytest.approx(expected @ [0.25, 0.75])
    assert env.unwrapped.reward_space.contains(reward)
    assert env.unwrapped.reward_dim == 2


def test_the_view_shows_the_masks() -> None:
    plain = SyntheticMergeEnv(layers=3, members=2, objectives=2)
    view = VectorRewardView(plain)
    view.reset(seed=0)
    np.testing.assert_array_equal(view.action_masks(), plain.action_masks())
    assert view.action_masks().sum() == 1


@pytest.mark.parametrize(
    ("space", "seen", "expected"),
    [
        (spaces.Discrete(3, start=5), 6, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1, 0, 0, 1]),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (spaces.Box(-1, 1, shape=(2,), dtype=np.int64), [-1, 1], [1, 0, 0, 0, 0, 1]),
        (spaces.Box(0.0, 4.0, shape=(2,)), [1.0, 4.0], [-0.5, 1.0]),
        (spaces.Box(-np.inf, np.inf, shape=(1,)), [7.0], [7.0]),
        (spaces.Box(0, 1000, shape=(1,), dtype=np.int64), [500], [0.0]),
    ],
)
def test_observations_become_flat_features(space, seen, expected) -> None:
    width, features = flat_features(space)
    found = features(seen)
    assert found.dtype == np.float32
    assert len(expected) == width
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_observations_without_a_flat_form_are_refused() -> None:
    with pytest.raises(InputError, match="Text"):
        flat_features(spaces.Text(5))


@pytest.mark.filterwarnings("ignore::UserWarning")  # wrappers and unbounded features, on purpose
@pytest.mark.parametrize("kind", ["weighted_sum", "tchebycheff"])
def test_the_adapter_is_a_proper_environment(kind: str) -> None:
    check_env(PreferenceEnv(corridor(), scalarisation=kind), skip_render_check=True)  # type: ignore[arg-type]


def test_linear_rewards_are_paid_at_once_and_scaled() -> None:
    env = PreferenceEnv(corridor(cost=0.1), gamma=0.5, scale=2.0)
    env.reset(seed=0, options={"preference": np.array([0.75, 0.25])})
    _, first, *_ = env.step(LEFT)
    observation, second, terminated, _, info = env.step(LEFT)
    assert first == pytest.approx(-0.05)
    assert second == pytest.approx((0.75 * 0.9 - 0.25 * 0.1) / 2)
    assert terminated
    assert set(observation) == {"state", "preference"}
    np.testing.assert_allclose(info["vector_return"], [-0.1 + 0.5 * 0.9, -0.1 - 0.5 * 0.1])


def test_other_utilities_are_paid_at_the_end_and_the_accrued_vector_is_seen() -> None:
    env = PreferenceEnv(corridor(cost=0.1), 0.5, "tchebycheff", utopia=1.0, rho=0.0)
    goal = np.array([0.5, 0.5])
    env.reset(seed=0, options={"preference": goal})
    observation, first, *_ = env.step(WAIT)
    np.testing.assert_allclose(observation["state"][-3:], [-0.1, -0.1, 0.5], atol=1e-6)
    _, second, terminated, _, info = env.step(HATCH)
    assert first == 0.0 and terminated
    total = -0.1 + 0.5 * (0.4 - 0.1)
    np.testing.assert_allclose(info["vector_return"], [total, total])
    assert second == pytest.approx(-0.5 * (1.0 - total))


def test_a_time_limit_ends_the_episode() -> None:
    env = PreferenceEnv(corridor(limit=3))
    env.reset(seed=0)
    ends = [env.step(WAIT)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (True, False)]


def test_preferences_depend_on_the_seed_alone() -> None:
    def drawn(env: PreferenceEnv) -> list[np.ndarray]:
        return [env.reset(seed=seed)[0]["preference"] for seed in (3, None, 3)]  # type: ignore[arg-type]

    first, second = drawn(PreferenceEnv(corridor())), drawn(PreferenceEnv(corridor()))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[0], first[2])
    assert (first[0] != first[1]).all()


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": 1.5}, {"scale": 0.0}])
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        PreferenceEnv(corridor(), **options)


def test_environments_it_cannot_serve_are_refused() -> None:
    with pytest.raises(InputError, match="discrete actions"):
        PreferenceEnv(gym.make("Pendulum-v1"))
    with pytest.raises(InputError, match="reward_space"):
        PreferenceEnv(gym.make("CartPole-v1"))


def test_complete_episodes_are_recorded_with_vectors() -> None:
    episodes: list[Episode] = []
    env = EpisodeVecEnv(lambda: PreferenceEnv(corridor()), 2, True, episodes.append)
    env.seed(0)
    first = env.reset()
    env.step(np.array([LEFT, HATCH]))
    _, rewards, dones, infos = env.step(np.array([LEFT, RIGHT]))
    assert rewards.shape == (2, 2)
    np.testing.assert_allclose(rewards, [[1.0, 0.0], [0.0, 0.0]])
    assert dones.tolist() == [True, False]
    assert [len(episode.actions) for episode in episodes] == [1, 2]
    hatch, left = episodes
    np.testing.assert_allclose(hatch.rewards, [[0.4, 0.4]])
    assert left.actions.tolist() == [LEFT, LEFT]
    np.testing.assert_array_equal(left.states[0], first["state"][0])
    assert left.masks[:, HATCH].tolist() == [True, False]
    np.testing.assert_allclose(left.preference, infos[0]["preference"])
    np.testing.assert_allclose(left.preference, first["preference"][0], atol=1e-6)


def test_scalar_rewards_are_the_utilities() -> None:
    env = EpisodeVecEnv(lambda: PreferenceEnv(corridor()), 1, False, lambda episode: None)
    env.seed(0)
    goal = env.reset()["preference"][0]
    _, rewards, *_ = env.step(np.array([HATCH]))
    assert rewards[0] == pytest.approx(0.4 * goal.sum())
