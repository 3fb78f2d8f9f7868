"""The policy that builds models layer by layer, its gradients, and what it learns from rollouts."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import hm3rl.envs  # noqa: F401  (registers the environments)
from hm3rl.agents import blend_ppo
from hm3rl.agents.blend_ppo import advantages, episodes_of
from hm3rl.agents.blend_proposals import smooth_tchebycheff
from hm3rl.agents.layer_policy import LayerPolicy
from hm3rl.envs.synthetic_blends import SyntheticBlends
from hm3rl.objectives.preferences import sample_dirichlet

LAYERS, EXPERTS, OBJECTIVES = 4, 2, 2
PROBLEM = SyntheticBlends.draw(LAYERS, EXPERTS, OBJECTIVES, seed=3)
UTOPIA = torch.full((OBJECTIVES,), 1.1, dtype=torch.float64)


def made(seed: int = 0, spread: float = 0.3) -> LayerPolicy:
    torch.manual_seed(seed)
    policy = LayerPolicy(OBJECTIVES, LAYERS, EXPERTS, largest=1.0, hidden=16)
    torch.nn.init.normal_(policy.head.weight, std=spread)
    return policy


def goals(n: int, seed: int = 0) -> Tensor:
    return torch.as_tensor(sample_dirichlet(n, OBJECTIVES, np.random.default_rng(seed)))


def utility(preferences: Tensor, blends: Tensor) -> Tensor:
    away = ((blends[:, None] - torch.as_tensor(PROBLEM.targets)[None]) ** 2).sum(dim=3)
    values = 1.0 - away @ torch.as_tensor(PROBLEM.weights)
    return -smooth_tchebycheff(values, preferences, UTOPIA, 0.02)


def test_gradients_flow_through_the_blends_before() -> None:
    policy, asked = made(), goals(3)
    utility(asked, policy(asked)).sum().backward()
    for parameter in (policy.head.weight, policy.head.bias, policy.cell.weight_ih):
        assert parameter.grad is not None
        numeric = torch.zeros_like(parameter)
        with torch.no_grad():
            for place in np.ndindex(*parameter.shape):
                kept, ends = parameter[place].item(), []
                for step in (1e-5, -1e-5):
                    parameter[place] = kept + step
                    ends.append(float(utility(asked, policy(asked)).sum()))
                parameter[place] = kept
                numeric[place] = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-4, atol=1e-7)


def test_later_blends_depend_on_earlier_ones() -> None:
    policy, asked = made(), goals(1)
    zero, one = (torch.full((1, 1, EXPERTS), x, dtype=torch.float64) for x in (0.0, 1.0))
    with torch.no_grad():
        _, plain, _ = policy._walk(asked, zero)
        _, other, _ = policy._walk(asked, one)
    assert not torch.allclose(plain[:, 1:], other[:, 1:])


def test_a_rollout_is_what_its_steps_say() -> None:
    policy, asked = made(), goals(5)
    rollout = policy.rollout(asked)
    with torch.no_grad():
        torch.testing.assert_close(policy.completed(asked, rollout.steps), rollout.blends)
        torch.testing.assert_close(policy.log_prob(asked, rollout.steps), rollout.log_prob)
        torch.testing.assert_close(policy.completed(asked, rollout.steps[:, :0]), policy(asked))
    half = policy.completed(asked, rollout.steps[:, :2]).detach()
    torch.testing.assert_close(half[:, :2], rollout.blends[:, :2])
    assert not torch.allclose(half[:, 2:], rollout.blends[:, 2:])
    assert len({tuple(one.flatten().tolist()) for one in rollout.blends}) == 5


def test_it_begins_at_the_blend_it_is_given() -> None:
    policy = LayerPolicy(OBJECTIVES, LAYERS, EXPERTS, largest=1.5, hidden=8)
    blend = np.linspace(0.1, 1.4, (1 + LAYERS) * EXPERTS).reshape(1 + LAYERS, EXPERTS)
    policy.begin_at(blend)
    with torch.no_grad():
        np.testing.assert_allclose(policy(goals(2)).numpy(), np.stack([blend] * 2), atol=1e-9)


def test_a_rollout_walks_the_environment() -> None:
    env = gymnasium.make(
        "hm3rl/SyntheticMerge-v0",
        form="hybrid",
        layers=LAYERS,
        experts=EXPERTS,
        objectives=OBJECTIVES,
        seed=3,
    )
    (blend,) = made().rollout(goals(1)).blends.numpy()
    env.reset(seed=0)
    for place, one in enumerate(blend):
        _, _, over, _, _ = env.step({"layer": max(place - 1, 0), "blend": one})
        assert not over
    _, _, over, _, info = env.step({"layer": LAYERS, "blend": blend[0]})
    assert over
    rounded = PROBLEM.space.rounded(blend)
    np.testing.assert_allclose(info["vector_reward"], PROBLEM.value(rounded[None])[0], atol=1e-6)


def test_advantages_are_sums_of_what_states_were_wrong_about() -> None:
    values = torch.tensor([[0.5, 0.7, 0.4]], dtype=torch.float64)
    found = advantages(values, torch.tensor([1.0], dtype=torch.float64))
    trace = blend_ppo.TRACE
    last = 1.0 - 0.4
    middle = (0.4 - 0.7) + trace * last
    first = (0.7 - 0.5) + trace * middle
    np.testing.assert_allclose(found.numpy(), [[first, middle, last]])


@pytest.mark.parametrize("told", [True, False])
def test_rollouts_alone_teach_it(told: bool) -> None:
    """With a critic that knows the problem, and with one that expects the same of all states."""
    policy = made(spread=1e-3)
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    unseen = goals(200, seed=9)
    with torch.no_grad():
        before = float(utility(unseen, policy(unseen)).mean())

    def expected(preferences: Tensor, blends: Tensor) -> Tensor:
        return utility(preferences, blends) if told else torch.zeros(len(blends)).double()

    def of_vectors(preferences: Tensor, vectors: Tensor) -> Tensor:
        return -smooth_tchebycheff(vectors, preferences, UTOPIA, 0.02)

    for seed in range(60):
        asked = goals(blend_ppo.MEMORY, seed)
        rollout = policy.rollout(asked)
        vectors = PROBLEM.value(rollout.blends.numpy())
        episodes = episodes_of(asked.numpy(), rollout, vectors)
        blend_ppo.update(policy, optimiser, episodes, of_vectors, expected)
    with torch.no_grad():
        after = float(utility(unseen, policy(unseen)).mean())
        best = np.mean(
            [
                float(utility(unseen[i : i + 1].repeat(len(HULL), 1), HULL).max())
                for i in range(len(unseen))
            ]
        )
    assert after > before + 0.5 * (best - before)


SHARES = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None, None]
HULL = SHARES * torch.as_tensor(PROBLEM.targets[0]) + (1 - SHARES) * torch.as_tensor(
    PROBLEM.targets[1]
)
