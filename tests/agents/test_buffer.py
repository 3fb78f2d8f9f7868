from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer

from hm3rl.agents.buffer import VectorRolloutBuffer

STOP, STEPS, ENVS, K = 5, 6, 3, 2
OBSERVATIONS = spaces.Dict(
    {
        "path": spaces.Box(0, 6, shape=(STEPS,), dtype=np.int64),
        "preference": spaces.Box(0, 1, shape=(K,), dtype=np.float32),
    }
)


def make_buffer(columns: int = K, spread: bool = False, gamma: float = 0.9) -> VectorRolloutBuffer:
    return VectorRolloutBuffer(
        STEPS,
        OBSERVATIONS,
        spaces.Discrete(6),
        "cpu",
        gae_lambda=0.8,
        gamma=gamma,
        n_envs=ENVS,
        columns=columns,
        stop=STOP,
        spread=spread,
    )


class Rollout:
    """Random vector rewards, values and preferences; episodes start where told."""

    def __init__(self, starts: list[int]) -> None:
        rng = np.random.default_rng(0)
        self.rewards = rng.normal(size=(STEPS, ENVS, K)).astype(np.float32)
        self.values = torch.as_tensor(rng.normal(size=(STEPS, ENVS, K)), dtype=torch.float32)
        self.last = torch.as_tensor(rng.normal(size=(ENVS, K)), dtype=torch.float32)
        self.preference = rng.dirichlet(np.ones(K), size=ENVS).astype(np.float32)
        self.starts = np.zeros((STEPS, ENVS), dtype=np.float32)
        self.starts[starts] = 1.0

    def observation(self, path: np.ndarray | None = None) -> dict[str, np.ndarray]:
        blank = np.zeros((ENVS, STEPS), dtype=np.int64)
        return {"path": blank if path is None else path, "preference": self.preference}


@pytest.mark.parametrize("done", [False, True])
def test_scalarised_vector_advantages_equal_those_of_scalarised_rewards(done: bool) -> None:
    rollout = Rollout(starts=[0, 4])
    buffer = make_buffer()
    plain = MaskableDictRolloutBuffer(
        STEPS, OBSERVATIONS, spaces.Discrete(6), "cpu", gae_lambda=0.8, gamma=0.9, n_envs=ENVS
    )
    weights = torch.as_tensor(rollout.preference)
    actions, log_prob = np.zeros((ENVS, 1)), torch.zeros(ENVS)
    for t in range(STEPS):
        shared = (rollout.observation(), actions)
        buffer.add(*shared, rollout.rewards[t], rollout.starts[t], rollout.values[t], log_prob)
        scalar = (rollout.rewards[t] * rollout.preference).sum(axis=1)
        value = (rollout.values[t] * weights).sum(dim=1)
        plain.add(*shared, scalar, rollout.starts[t], value, log_prob)
    dones = np.full(ENVS, done)
    buffer.compute_returns_and_advantage(rollout.last, dones)
    plain.compute_returns_and_advantage((rollout.last * weights).sum(dim=1), dones)
    np.testing.assert_allclose(buffer.advantages, plain.advantages, atol=1e-5)
    scalarised = (buffer.returns * rollout.preference).sum(axis=-1)
    np.testing.assert_allclose(scalarised, plain.returns, atol=1e-5)


def fill_waiting(buffer: VectorRolloutBuffer) -> None:
    """Environment 0 stops after its third step and waits; reward 1 comes at the end for all."""
    for t in range(STEPS):
        path = np.zeros((ENVS, STEPS), dtype=np.int64)
        if t >= 3:
            path[0, 2] = STOP
        observation = {"path": path, "preference": np.full((ENVS, K), 0.5, dtype=np.float32)}
        reward = np.full((ENVS, buffer.columns), float(t == STEPS - 1))
        start = np.full(ENVS, float(t == 0))
        value = torch.zeros(ENVS, buffer.columns)
        buffer.add(observation, np.full((ENVS, 1), t), reward, start, value, torch.zeros(ENVS))
    buffer.compute_returns_and_advantage(torch.ones(ENVS, buffer.columns), np.ones(ENVS, bool))


def test_a_late_reward_belongs_to_the_step_that_ended_the_episode() -> None:
    buffer = make_buffer(gamma=1.0)
    fill_waiting(buffer)
    discounts = 0.8 ** np.arange(STEPS)[::-1]
    np.testing.assert_allclose(buffer.advantages[:, 1], discounts, rtol=1e-6)
    np.testing.assert_allclose(buffer.advantages[:3, 0], discounts[3:], rtol=1e-6)


def test_waiting_steps_are_not_handed_out() -> None:
    buffer = make_buffer()
    fill_waiting(buffer)
    batches = list(buffer.get(4))
    assert sum(len(batch.actions) for batch in batches) == STEPS * ENVS - 3
    assert min(len(batch.actions) for batch in batches) > 1
    for batch in batches:
        assert batch.returns.shape == (len(batch.actions) * K,)
        assert batch.old_values.shape == batch.returns.shape
        assert batch.advantages.shape == (len(batch.actions),)


def test_spread_pays_equal_parts_of_the_same_return() -> None:
    buffer = make_buffer(columns=1, spread=True, gamma=1.0)
    fill_waiting(buffer)
    paid = buffer._episode_rewards(buffer.waiting())
    np.testing.assert_allclose(paid[:3, 0, 0], 1 / 3, rtol=1e-6)
    assert not paid[3:, 0].any()
    np.testing.assert_allclose(paid[:, 1, 0], 1 / 6, rtol=1e-6)


def test_episodes_without_a_score_are_left_out() -> None:
    rollout, buffer = Rollout(starts=[0, 4]), make_buffer()
    for step in range(STEPS):
        if step in (3, 5):  # the first episode of one environment, the second of another
            buffer.leave_out(step // 4)
        actions, log_prob = np.full((ENVS, 1), step), torch.zeros(ENVS)
        buffer.add(
            rollout.observation(),
            actions,
            rollout.rewards[step],
            rollout.starts[step],
            rollout.values[step],
            log_prob,
            action_masks=np.ones((ENVS, 6)),
        )
    buffer.compute_returns_and_advantage(rollout.last, np.ones(ENVS))
    expected = np.zeros((STEPS, ENVS), dtype=bool)
    expected[:4, 0] = expected[4:, 1] = True
    assert np.array_equal(buffer.left_out(), expected) and buffer.scored
    (batch,) = buffer.get()
    kept = np.repeat(np.arange(STEPS)[:, None], ENVS, axis=1)[~expected]
    assert sorted(batch.actions.flatten().tolist()) == sorted(kept.tolist())
    buffer.reset()
    assert buffer.scored and not buffer.left_out().any()
