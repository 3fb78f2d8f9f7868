"""What blends score in a pool never seen, learned from pools that were.

A network maps how much of each expert a model has, and what base and experts score by themselves,
to what the model scores on a task. Experts and tasks are sets: it is the same network for any
number of either, in any order (deep sets: Zaheer et al., NeurIPS 2017, with a second look at the
sum). An expert is known by its scores alone.

How much is the mean over the layers, and on purpose no more. A network that sees the depth, too,
predicts unseen tasks as well, but a search climbs its errors, and is worse for it
(experiments/pools/README.md); what differs from layer to layer is for the pool's own Gaussian
process to learn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hm3rl.surrogate.pool_table import PoolTable

FEATURES, HIDDEN = 3, 32
NETWORKS = 3
STEPS, BATCH, RATE, DECAY = 1200, 256, 4e-3, 1e-3


def layers(inputs: int, hidden: int) -> nn.Sequential:
    """Two layers of a perceptron."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())


class ScoreNetwork(nn.Module):
    """From experts' shares and scores to a merged model's score, for one task at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = layers(FEATURES, HIDDEN)
        self.among = layers(2 * HIDDEN, HIDDEN)
        self.head = nn.Sequential(nn.Linear(HIDDEN + 1, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))

    def forward(self, experts: Tensor, base: Tensor) -> Tensor:
        """Scores.

        Args:
            experts: Features of each expert, shape (m, N, F); see `expert_features`.
            base: What the base scores, shape (m,).

        Returns:
            f / z*, shape (m,).
        """
        alone = self.alone(experts)
        together = alone.sum(dim=1, keepdim=True).expand_as(alone)
        found = self.among(torch.cat([alone, together], dim=2)).sum(dim=1)
        return base + self.head(torch.cat([found, base[:, None]], dim=1)).squeeze(1)


def expert_features(blends: Tensor, sources: Tensor) -> Tensor:
    """Features of every expert for every task.

    Args:
        blends: Shape (m, 1 + L, N).
        sources: f / z* of base and experts, shape (1 + N, K).

    Returns:
        Shape (m, K, N, F): an expert's coefficient in the mean over the layers, its score on the
        task and the base's.
    """
    m, _, n = blends.shape
    k = sources.shape[1]
    share = blends[:, 1:].mean(dim=1)[:, None, :].expand(m, k, n)
    own = sources[1:].T[None].expand(m, k, n)
    base = sources[0][None, :, None].expand(m, k, n)
    return torch.stack([share, own, base], dim=3)


class ScorePrior(nn.Module):
    """Some networks of different seeds, and how far off they are on tasks they were not trained on.

    Attributes:
        error: Root mean squared error there, in units of f / z*.
        squared_error: Its square, shape ().
    """

    def __init__(self, networks: int = NETWORKS) -> None:
        super().__init__()
        self.networks = nn.ModuleList(ScoreNetwork() for _ in range(networks))
        self.squared_error: Tensor
        self.register_buffer("squared_error", torch.tensor(0.0))
        self.double()

    @property
    def error(self) -> float:
        """See above."""
        return float(self.squared_error) ** 0.5

    def all(self, blends: Tensor, sources: Tensor) -> Tensor:
        """What each network expects of blends (m, 1 + L, N), shape (networks, m, K)."""
        features = expert_features(blends, sources)
        m, k, n, f = features.shape
        base = sources[0][None].expand(m, k).reshape(-1)
        flat = features.reshape(m * k, n, f)
        return torch.stack([net(flat, base) for net in self.networks]).reshape(-1, m, k)

    def of_pool(self, sources: np.ndarray) -> PoolPrior:
        """The prior mean in a pool whose base and experts score `sources`, shape (1 + N, K)."""
        return PoolPrior(self, sources)


class PoolPrior:
    """The prior mean of one pool; see `hm3rl.surrogate.blend_gp.PriorMean`.

    Args:
        prior: Of all pools.
        sources: f / z* of base and experts, shape (1 + N, K).
    """

    def __init__(self, prior: ScorePrior, sources: np.ndarray) -> None:
        self.prior = prior
        self.sources = torch.as_tensor(sources, dtype=torch.float64)
        self.error = prior.error

    def __call__(self, blends: Tensor) -> Tensor:
        """What is expected of blends (m, 1 + L, N), shape (m, K)."""
        return self.prior.all(blends, self.sources).mean(dim=0)


class Rows(NamedTuple):
    """What a network learns from.

    Attributes:
        experts: Shape (m, N, F).
        base: Shape (m,).
        scores: Shape (m,).
    """

    experts: Tensor
    base: Tensor
    scores: Tensor


def rows(tables: Sequence[PoolTable], without: Collection[str] = ()) -> dict[int, Rows]:
    """Training rows by the number of experts.

    Args:
        tables: Pools.
        without: Tasks whose scores are left out.
    """
    found: dict[int, list[Rows]] = {}
    for table in tables:
        kept = [k for k, task in enumerate(table.tasks) if task not in without]
        if not kept:
            continue
        blends = torch.as_tensor(table.blends, dtype=torch.float32)
        sources = torch.as_tensor(table.sources[:, kept], dtype=torch.float32)
        features = expert_features(blends, sources)
        m, k, n, f = features.shape
        base = sources[0][None].expand(m, k).reshape(-1)
        scores = torch.as_tensor(table.vectors[:, kept], dtype=torch.float32).reshape(-1)
        found.setdefault(n, []).append(Rows(features.reshape(m * k, n, f), base, scores))
    return {
        n: Rows(*(torch.cat(part) for part in zip(*some, strict=True))) for n, some in found.items()
    }


def trained_network(data: Mapping[int, Rows], seed: int) -> ScoreNetwork:
    """A network that has learned from rows; see `rows`."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ScoreNetwork()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    sizes = list(data)
    share = np.array([len(data[n].scores) for n in sizes], float)
    for n in rng.choice(sizes, size=STEPS, p=share / share.sum()):
        experts, base, scores = data[int(n)]
        some = torch.as_tensor(rng.integers(len(scores), size=BATCH))
        loss = ((network(experts[some], base[some]) - scores[some]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


def fit_score_prior(
    tables: Sequence[PoolTable],
    seed: int,
    without: Collection[str] = (),
    networks: int = NETWORKS,
) -> ScorePrior:
    """Learn from pools.

    Args:
        tables: Pools.
        seed: Of the first network.
        without: Tasks to learn nothing about.
        networks: How many.
    """
    data, prior = rows(tables, without), ScorePrior(networks)
    for i, network in enumerate(prior.networks):
        network.load_state_dict(trained_network(data, seed + i).state_dict())
    return prior.requires_grad_(False)


def held_out_error(
    prior: ScorePrior, tables: Sequence[PoolTable], task: str
) -> tuple[float, float]:
    """Sums of squares on a task: of what the prior misses, and of the scores about their mean.

    Each pool is a mean over its models; scores are f / z*.
    """
    missed = spread = 0.0
    for table in tables:
        if task not in table.tasks:
            continue
        k = table.tasks.index(task)
        with torch.no_grad():
            expected = prior.of_pool(table.sources)(torch.as_tensor(table.blends)).numpy()[:, k]
        scores = table.vectors[:, k]
        missed += float(((scores - expected) ** 2).mean())
        spread += float(scores.var())
    return missed, spread
