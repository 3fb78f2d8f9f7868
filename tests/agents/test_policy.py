from __future__ import annotations

import numpy as np
import pytest
import torch

from hm3rl.agents.decoding import roll_out
from hm3rl.agents.encoder import PathShape
from hm3rl.agents.policy import PathPolicy
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import Episode
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace
from hm3rl.paths.variation import random_walk

M, L, K = 3, 4, 2


def make_space(order: list[int] | None = None, actions: str = "any") -> PathSpace:
    """Three members of random features; `order` permutes them."""
    rng = np.random.default_rng(0)
    order = order or list(range(M))
    context = rng.normal(size=(M, 5)).astype(np.float32)[order]
    descriptors = rng.normal(size=(M, L, 6)).astype(np.float32)[order]
    names = tuple("abc"[i] for i in order)
    low = L if actions == "same_depth" else 2
    limits = PathLimits(low, 5, actions=actions)  # type: ignore[arg-type]
    return PathSpace(names, (L,) * M, limits, context, descriptors, np.ones((M, M), dtype=bool))


def make_env(space: PathSpace) -> MergePathEnv:
    return MergePathEnv(space, lambda paths: np.zeros((len(paths), K)), K)


def make_policy(
    space: PathSpace,
    conditioning: str = "concat",
    critic: str = "vector",
    gain: float = 3.0,
    likelihoods: bool = False,
) -> PathPolicy:
    torch.manual_seed(0)
    env = make_env(space)
    policy = PathPolicy(
        env.observation_space,  # type: ignore[arg-type]
        env.action_space,  # type: ignore[arg-type]
        lambda _: 1e-3,
        shape=PathShape.of(space),
        embedding=8,
        hidden=16,
        conditioning=conditioning,
        critic=critic,
        likelihoods=likelihoods,
    )
    with torch.no_grad():  # away from the near-uniform start, so that differences show
        for parameter in policy.parameters():
            parameter.mul_(gain)
    return policy


def observations(space: PathSpace, tokens: list[list[int]], goal: np.ndarray) -> dict:
    rows = [make_env(space).observe(Episode(goal, taken)) for taken in tokens]
    return {key: torch.as_tensor(np.stack([row[key] for row in rows])) for key in rows[0]}


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_whole_sequences_and_single_observations_agree(conditioning: str) -> None:
    space = make_space()
    policy = make_policy(space, conditioning)
    row = random_walk(space, np.random.default_rng(1))
    taken = [int(t) for t in row if t != space.pad]
    goal = np.array([0.3, 0.7])
    batch = observations(space, [taken[:i] for i in range(len(taken))], goal)
    single = policy.observed(batch)
    whole = policy.sequences(
        torch.as_tensor(row[None]),
        batch["context"][:1],
        batch["descriptors"][:1],
        torch.as_tensor(goal[None], dtype=torch.float32),
    )
    for one, many in zip(single, whole, strict=True):
        torch.testing.assert_close(one, many[0, : len(taken)], atol=1e-5, rtol=1e-5)


def test_a_members_index_is_never_an_input() -> None:
    order = [2, 0, 1]
    plain, permuted = make_space(), make_space(order)
    policy, other = make_policy(plain), make_policy(permuted)
    other.load_state_dict(policy.state_dict())
    goal = np.array([0.6, 0.4])
    path = plain.decode(random_walk(plain, np.random.default_rng(3)))
    first, second = (
        policy_.observed(observations(space, [space.encode(path).tolist()[:3]], goal))
        for policy_, space in ((policy, plain), (other, permuted))
    )
    torch.testing.assert_close(first.values, second.values, atol=1e-5, rtol=1e-5)
    logits = first.logits[0, M:-1].reshape(M, L)[order]
    torch.testing.assert_close(logits, second.logits[0, M:-1].reshape(M, L), atol=1e-5, rtol=1e-5)


def test_the_preference_changes_policy_and_values() -> None:
    space = make_space()
    policy = make_policy(space)
    left, right = (
        policy.observed(observations(space, [[0]], goal))
        for goal in (np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    )
    assert not torch.allclose(left.logits, right.logits, atol=1e-3)
    assert not torch.allclose(left.values, right.values, atol=1e-3)


@pytest.mark.parametrize("actions", ["any", "same_depth"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_rolled_out_paths_are_legal(actions: str, temperature: float) -> None:
    space = make_space(actions=actions)
    policy = make_policy(space)
    goals = np.random.default_rng(0).dirichlet(np.ones(K), size=40)
    rows = roll_out(policy, space, goals, temperature, np.random.default_rng(1))
    assert space.legal_rows(rows).all()


def test_greedy_decoding_takes_the_most_likely_action_at_every_step() -> None:
    space = make_space()
    policy = make_policy(space)
    goal = np.array([0.5, 0.5])
    row = roll_out(policy, space, goal[None], 0.0, np.random.default_rng(0))[0]
    taken: list[int] = []
    for action in row[row != space.pad]:
        batch = {k: v.numpy() for k, v in observations(space, [taken], goal).items()}
        chosen, _ = policy.predict(batch, deterministic=True, action_masks=space.mask(taken)[None])
        assert int(chosen[0]) == action
        taken.append(int(action))


def test_critic_columns_follow_the_route() -> None:
    space = make_space()
    batch = observations(space, [[], [1]], np.array([0.5, 0.5]))
    assert make_policy(space).predict_values(batch).shape == (2, K)
    assert make_policy(space, critic="scalar").predict_values(batch).shape == (2, 1)


def test_a_policy_can_be_rebuilt_from_its_constructor_parameters() -> None:
    policy = make_policy(make_space(), "film", "scalar")
    again = PathPolicy(**policy._get_constructor_parameters())
    again.load_state_dict(policy.state_dict())
    assert (again.conditioning, again.critic) == ("film", "scalar")
