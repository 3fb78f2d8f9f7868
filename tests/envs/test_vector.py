from __future__ import annotations

import numpy as np
import pytest

from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import Unscored
from hm3rl.envs.vector import MergePathVecEnv, VectorReward
from hm3rl.paths.limits import PathLimits
from tests.envs.test_blend_path import ANY, L, N, act, asked
from tests.envs.test_blend_path import make_env as make_blends
from tests.envs.test_merge_path import Scores
from tests.paths.test_space import make_space


def make_vector(num_envs: int = 2, length_cost: float = 0.0) -> tuple[MergePathVecEnv, Scores]:
    scores = Scores()
    env = MergePathEnv(make_space(PathLimits(2, 4)), scores, 2, length_cost=length_cost)
    return MergePathVecEnv(env, num_envs), scores


def walk(vector: MergePathVecEnv | VectorReward, plans: list[list[int]], horizon: int) -> list:
    steps = []
    for t in range(horizon):
        actions = np.array([plan[t] if t < len(plan) else plan[-1] for plan in plans])
        steps.append(vector.step(actions))
    return steps


def test_all_paths_of_a_batch_are_scored_in_one_call_in_order() -> None:
    vector, scores = make_vector()
    calls: list[int] = []
    vector.env.score_paths = lambda paths: calls.append(len(paths)) or scores(paths)
    vector.reset()
    space = vector.env.space
    a, b, stop = space.layer_action(0, 0), space.layer_action(1, 1), space.stop
    steps = walk(vector, [[0, a, a, stop], [1, b, b, b, a, stop]], space.horizon)
    assert calls == [2]
    assert scores.asked == ["a | a[0] + a[0]", "b | b[1] + b[1] + b[1] + a[0]"]
    assert all(not step[2].any() for step in steps[:-1])
    _, rewards, dones, infos = steps[-1]
    assert dones.all()
    preferences = np.stack([info["preference"] for info in infos])
    np.testing.assert_allclose(infos[0]["vector_reward"], [1.0, 0.0])
    np.testing.assert_allclose(infos[1]["vector_reward"], [0.25, 0.75])
    expected = [preferences[0] @ [1.0, 0.0], preferences[1] @ [0.25, 0.75]]
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)


def test_an_episode_that_ended_early_idles_on_stop_alone() -> None:
    vector, _ = make_vector()
    vector.reset()
    space = vector.env.space
    a, stop = space.layer_action(0, 0), space.stop
    for actions in ([0, 1], [a, a], [a, a], [stop, a]):
        observations, *_ = vector.step(np.array(actions))
    masks = vector.action_masks()
    assert np.flatnonzero(masks[0]).tolist() == [stop]
    assert masks[1].sum() > 1
    before = observations["path"][0].copy()
    observations, *_ = vector.step(np.array([stop, a]))
    np.testing.assert_array_equal(observations["path"][0], before)


def test_a_batch_ends_with_fresh_episodes() -> None:
    vector, _ = make_vector()
    vector.reset()
    space = vector.env.space
    a = space.layer_action(0, 0)
    last = walk(vector, [[0, a, a, space.stop]] * 2, space.horizon)[-1]
    assert (last[0]["length"] == 0).all()
    assert (last[3][0]["terminal_observation"]["length"] == 4).all()


def test_illegal_actions_are_worth_nothing_and_not_scored() -> None:
    vector, scores = make_vector()
    vector.reset()
    space = vector.env.space
    a = space.layer_action(0, 0)
    last = walk(vector, [[0, a, a, space.stop], [space.stop]], space.horizon)[-1]
    assert len(scores.asked) == 1
    assert last[3][1]["illegal"]
    assert last[1][1] == 0.0


def test_vectors_pass_with_the_length_cost_taken_off_every_objective() -> None:
    plain, _ = make_vector(length_cost=0.1)
    vector = VectorReward(plain)
    vector.reset()
    space = plain.env.space
    a, b = space.layer_action(0, 0), space.layer_action(1, 0)
    _, rewards, _, infos = walk(vector, [[0, a, a, b, b, space.stop]] * 2, space.horizon)[-1]
    assert rewards.shape == (2, 2)
    np.testing.assert_allclose(rewards[0], [0.5 - 0.4, 0.5 - 0.4], rtol=1e-6)
    assert infos[0]["preference"] @ rewards[0] == pytest.approx(0.1, abs=1e-6)


def test_only_the_episode_whose_path_failed_is_marked() -> None:
    vector, scores = make_vector()
    vector.env.score_paths = lambda paths: [None, *scores(paths[1:])]
    vector.reset()
    space = vector.env.space
    a, b, stop = space.layer_action(0, 0), space.layer_action(1, 1), space.stop
    steps = walk(vector, [[0, a, a, stop], [1, b, b, stop]], space.horizon)
    assert not any("failed" in info for step in steps[:-1] for info in step[3])
    _, rewards, _, infos = steps[-1]
    assert infos[0]["failed"] and "failed" not in infos[1]
    assert rewards[0] == 0.0 and rewards[1] > 0.0


@pytest.mark.parametrize("flat", [False, True], ids=["dict", "flat"])
def test_blends_side_by_side_are_those_one_by_one(flat: bool) -> None:
    single, side = make_blends(ANY, flat=flat), make_blends(ANY, flat=flat)
    vector = MergePathVecEnv(side, 3)
    preferences = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    vector.set_options([{"preference": row} for row in preferences])
    vector.reset()
    rng = np.random.default_rng(0)
    plans = []
    for layers in ([0, 1, 2, L], [0, 0, 1, 2, 1, L], [0, L]):  # the last stops without a layer
        blends = rng.uniform(size=(len(layers), N))
        rows = [act(layer, *blend) for layer, blend in zip(layers, blends, strict=True)]
        if flat:
            logits = 2.0 * np.eye(L + 1)[layers] - 1.0
            rows = list(np.concatenate([logits, 2.0 * blends - 1.0], axis=1))
        plans.append([*rows, *rows[-1:] * (side.space.horizon - len(rows))])
    for actions in zip(*plans, strict=True):
        keyed = {} if flat else {key: np.stack([row[key] for row in actions]) for key in act(0)}
        batch = np.stack(actions) if flat else keyed
        _, rewards, dones, infos = vector.step(batch)
    assert dones.all() and len(asked(side)) == 1
    for i, plan in enumerate(plans):
        single.reset(options={"preference": preferences[i]})
        for action in plan:
            seen, reward, ended, _, info = single.step(action)
            if ended:
                break
        assert rewards[i] == pytest.approx(reward)
        assert infos[i].get("path") == info.get("path")
        assert infos[i].get("illegal") == info.get("illegal")
        np.testing.assert_array_equal(infos[i]["vector_reward"], info["vector_reward"])
        for key, value in seen.items():
            np.testing.assert_array_equal(infos[i]["terminal_observation"][key], value)
    assert [path for call in asked(single) for path in call] == asked(side)[0]


def test_an_episode_of_blends_that_ended_idles_on_stop_alone() -> None:
    vector = MergePathVecEnv(make_blends(ANY), 2)
    vector.reset()
    for layers in ([0, 0], [0, 1], [L, 1]):
        observations, *_ = vector.step({"layer": np.array(layers), "blend": np.ones((2, N))})
    masks = vector.action_masks()
    assert np.flatnonzero(masks[0]).tolist() == [L]
    assert masks[1].all()
    again, *_ = vector.step({"layer": np.array([L, 1]), "blend": np.ones((2, N))})
    for key, value in observations.items():
        np.testing.assert_array_equal(again[key][0], value[0])


def test_preferences_are_drawn_at_reset_and_not_before() -> None:
    drawn: list[int] = []
    env = MergePathEnv(
        make_space(PathLimits(2, 4)),
        Scores(),
        2,
        preference_sampler=lambda rng: drawn.append(1) or np.array([0.5, 0.5]),
    )
    vector = MergePathVecEnv(env, 3)
    assert not drawn
    vector.reset()
    assert len(drawn) == 3


def test_without_idling_an_episode_begins_anew_when_it_ends():
    scores = Scores()
    env = MergePathEnv(make_space(PathLimits(2, 4)), scores, 2)
    vector = MergePathVecEnv(env, 2, idle=False)
    vector.reset()
    space = env.space
    a, b, stop = space.layer_action(0, 0), space.layer_action(1, 1), space.stop
    steps = walk(vector, [[0, a, a, stop, 1], [1, b, b, b, b, stop]], 5)
    observations, rewards, dones, infos = steps[3]
    assert dones.tolist() == [True, False]
    assert scores.asked == ["a | a[0] + a[0]"]
    assert infos[0]["terminal_observation"]["length"] == 4
    assert observations["length"].ravel().tolist() == [0, 4]
    assert rewards[0] == pytest.approx(infos[0]["preference"][0], rel=1e-6)
    assert steps[4][0]["length"].ravel().tolist() == [1, 5]


@pytest.mark.parametrize("unknown", [None, Unscored.BUDGET])
def test_what_has_no_score_is_truncated_where_nobody_leaves_it_out(unknown):
    env = MergePathEnv(make_space(PathLimits(2, 4)), lambda paths: [unknown for _ in paths], 2)
    space = env.space
    plan = [0, space.layer_action(0, 0), space.layer_action(0, 0), space.stop]
    vector = MergePathVecEnv(env, 1, idle=False)
    vector.reset()
    assert walk(vector, [plan], 4)[-1][3][0]["TimeLimit.truncated"]
    env.reset()
    for action in plan:
        _, reward, terminated, truncated, info = env.step(np.int64(action))
    # Of a single episode a failure is told by its own word; the budget's end is a truncation.
    assert (terminated, truncated) == ((True, False) if unknown is None else (False, True))
    assert reward == 0.0 and ("failed" in info) == (unknown is None)
