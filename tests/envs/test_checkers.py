"""What others check of environments: Gymnasium, Stable-Baselines3 and MO-Gymnasium, of all ids."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.env_checker import check_env as sb3_check

from hm3rl.envs import MERGE_PATH_ID, MO_MERGE_PATH_ID, MO_SYNTHETIC_ID, SYNTHETIC_ID
from hm3rl.envs.forms import DISCRETE, FORMS, HYBRID
from hm3rl.envs.wrappers import LegalActions, OneHotPath
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.limits import PathLimits
from tests.envs.test_blend_path import Scores as BlendScores
from tests.envs.test_merge_path import Scores
from tests.paths.test_space import make_space

SCALAR, VECTOR = (MERGE_PATH_ID, SYNTHETIC_ID), (MO_MERGE_PATH_ID, MO_SYNTHETIC_ID)
LIMITS = {"any": PathLimits(2, 4), "same_depth": PathLimits(3, 3, actions="same_depth")}
WRAPPERS: dict[str, Callable[[gym.Env], gym.Env]] = {
    "none": lambda env: env,
    "legal": LegalActions,
    "one_hot": OneHotPath,
    "flat": FlattenObservation,
    "one_vector": lambda env: FlattenObservation(OneHotPath(env)),
    "all": lambda env: FlattenObservation(OneHotPath(LegalActions(env))),
}


class Linear(gym.Wrapper, RecordConstructorArgs):
    """Scalar rewards for a checker that wants some.

    MO-Gymnasium's `LinearReward` puts one array into every info, which that checker refuses.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)

    def step(self, action: Any) -> tuple:
        observation, reward, *ended, info = super().step(action)
        return observation, float(reward @ [0.3, 0.7]), *ended, info


def own(name: str, form: str, limits: str) -> dict[str, Any]:
    """What an id is made of."""
    if name in (SYNTHETIC_ID, MO_SYNTHETIC_ID):
        return {"form": form, "layers": 4, "objectives": 2}
    paths: dict[str, Any] = (
        {"space": make_space(LIMITS[limits], (3, 3)), "score_paths": Scores()}
        if form == DISCRETE
        else {
            "blends": BlendSpace(("a", "b"), 3),
            "limits": LIMITS[limits],
            "score_paths": BlendScores(),
        }
    )
    return {"form": form, "objectives": 2, **paths}


def of(ids: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Every id in every form, with both kinds of paths where it takes them."""
    return [
        (name, form, limits)
        for name in ids
        for form in FORMS
        for limits in LIMITS
        if name in (MERGE_PATH_ID, MO_MERGE_PATH_ID) or limits == "same_depth"
    ]


def test_every_registered_id_is_checked_here():
    registered = {spec.id for spec in gym.registry.values() if spec.namespace == "hm3rl"}
    assert registered == {*SCALAR, *VECTOR}


# Gymnasium's checker says of every wrapper that it is one.
@pytest.mark.filterwarnings("ignore:.*most likely has a wrapper applied:UserWarning")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("name", "form", "limits"), of(SCALAR))
def test_the_checkers_are_content(name: str, form: str, limits: str, wrapper: str):
    if form != DISCRETE and wrapper in ("legal", "all"):
        pytest.skip("blends have no numbers")

    def wrapped() -> gym.Env:
        # With the wrappers of gym.make the checker would warn of those.
        return WRAPPERS[wrapper](gym.make(name, **own(name, form, limits)).unwrapped)

    gymnasium_check(wrapped(), skip_render_check=True)
    if form != HYBRID:  # Stable-Baselines3 has no algorithm for a dictionary of actions
        sb3_check(wrapped())


@pytest.mark.parametrize(("name", "form", "limits"), of(VECTOR))
def test_they_are_what_mo_gymnasium_asks_of_its_own(name: str, form: str, limits: str):
    mo_gym = pytest.importorskip("mo_gymnasium")
    env = mo_gym.make(name, **own(name, form, limits))
    bare = env.unwrapped
    assert bare.reward_dim == 2 and bare.reward_space.shape == (2,)
    bare.reset(seed=0)
    bare.action_space.seed(0)
    ended = 0
    for _ in range(60):
        _, reward, terminated, truncated, _ = bare.step(bare.action_space.sample())
        assert bare.reward_space.contains(reward)
        if terminated or truncated:
            ended += 1
            bare.reset()
    assert ended
    linear = Linear(env)
    with pytest.warns(UserWarning, match="most likely has a wrapper applied"):
        gymnasium_check(linear, skip_render_check=True)
    same = pickle.loads(pickle.dumps(bare))
    assert data_equivalence(bare.reset(seed=1), same.reset(seed=1))
    action = bare.action_space.sample()
    assert data_equivalence(bare.step(action), same.step(action))


def test_a_wrapper_that_writes_into_rewards_changes_no_score():
    mo_gym = pytest.importorskip("mo_gymnasium")
    made = mo_gym.make(MO_SYNTHETIC_ID, layers=2, members=2, objectives=2)
    env = mo_gym.wrappers.MOClipReward(made, idx=0, min_r=-9.0, max_r=-8.0)
    env.reset(seed=0)
    ended = False
    while not ended:
        action = np.flatnonzero(env.unwrapped.action_masks())[0]
        _, reward, ended, _, info = env.step(action)
    assert reward[0] == -8.0 and info["vector_reward"][0] > -8.0


def test_episodes_side_by_side_are_what_mo_gymnasium_makes_of_single_ones():
    mo_gym = pytest.importorskip("mo_gymnasium")
    options = {"layers": 2, "members": 2, "objectives": 2}
    ours = gym.make_vec(MO_SYNTHETIC_ID, num_envs=3, **options)
    theirs = mo_gym.wrappers.vector.MOSyncVectorEnv(
        [lambda: mo_gym.make(MO_SYNTHETIC_ID, **options)] * 3
    )
    assert ours.reward_space == theirs.reward_space
    preference = {"preference": np.array([0.5, 0.5])}
    for env in (ours, theirs):
        env.reset(seed=0, options=preference)
    for step in range(4):
        masks = ours.action_masks()
        actions = np.array([np.flatnonzero(mask)[-1 if i else 0] for i, mask in enumerate(masks)])
        _, rewards, ended, _, _ = ours.step(actions)
        _, expected, also, _, _ = theirs.step(actions)
        np.testing.assert_allclose(rewards, expected, rtol=1e-6)
        assert (ended == also).all() and ended.all() == (step == 3)
    assert rewards.shape == (3, 2) and rewards.all()
