"""A policy for pools never seen: from a preference and what the sources score to a merge.

It answers with one blend for the whole model, like the prior of scores that it is trained through.

Experts and objectives are sets: the same network for any number of either, in any order. It is
trained through the score prior (`hm3rl.surrogate.score_prior`), under all preferences in many pools
at once, by gradients (Pareto set learning; Lin et al., NeurIPS 2022, arXiv 2210.08495).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hm3rl.agents.blend_policy import LIMIT
from hm3rl.agents.blend_proposals import smooth_tchebycheff
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.surrogate.pool_table import PoolTable
from hm3rl.surrogate.score_prior import ScorePrior, layers

HIDDEN = 32
STEPS, RATE, PREFERENCES, CAUTION = 500, 2e-3, 64, 0.5


class SetPolicy(nn.Module):
    """From preferences and sources' scores to logits of blends."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = layers(4, HIDDEN)
        self.expert = layers(2 * HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 1)
        self.double()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def logits(self, preferences: Tensor, sources: Tensor, depth: int) -> Tensor:
        """Logits of the share of the largest coefficient.

        Args:
            preferences: Shape (m, K).
            sources: f / z* of base and experts, shape (1 + N, K).
            depth: L.

        Returns:
            Shape (m, 1 + L, N).
        """
        m, k = preferences.shape
        n = len(sources) - 1
        # How much a preference asks of a task, apart from how many tasks there are.
        asked = (k * preferences)[:, None, :, None].expand(m, n, k, 1)
        own = sources[1:][None, :, :, None].expand(m, n, k, 1)
        base = sources[0][None, None, :, None].expand(m, n, k, 1)
        gain = own - base
        pair = self.pair(torch.cat([asked, own, base, asked * gain], dim=3)).sum(dim=2)
        among = pair.mean(dim=1, keepdim=True).expand_as(pair)
        share = self.head(self.expert(torch.cat([pair, among], dim=2))).squeeze(2)
        return share[:, None, :].expand(m, 1 + depth, n)

    def forward(self, preferences: Tensor, sources: Tensor, depth: int, largest: float) -> Tensor:
        """Blends for preferences (m, K), shape (m, 1 + L, N)."""
        logits = self.logits(preferences, sources, depth)
        return largest * torch.sigmoid(LIMIT * torch.tanh(logits / LIMIT))


def fit_set_policy(
    tables: Sequence[PoolTable],
    prior: ScorePrior,
    seed: int,
    *,
    utopia: float,
    smoothness: float,
    largest: float = 1.0,
) -> SetPolicy:
    """Train a policy through the score prior, on a pool and new preferences at each step.

    Args:
        tables: Pools, of which sources and depth are used.
        prior: What blends are expected to score.
        seed: Of pools and preferences.
        utopia: Of Tchebycheff, for every objective.
        smoothness: Of its smooth form.
        largest: Coefficients lie in [0, largest].
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = SetPolicy()
    optimiser = torch.optim.Adam(policy.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    pools = [(torch.as_tensor(t.sources), t.blends.shape[1] - 1) for t in tables]
    for i in rng.integers(len(pools), size=STEPS):
        sources, depth = pools[i]
        k = sources.shape[1]
        goals = torch.as_tensor(sample_dirichlet(PREFERENCES, k, rng))
        found = prior.all(policy(goals, sources, depth, largest), sources)
        values = found.mean(dim=0) - CAUTION * found.std(dim=0)
        goal = torch.full((k,), utopia, dtype=torch.float64)
        loss = smooth_tchebycheff(values, goals, goal, smoothness).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return policy.requires_grad_(False)
