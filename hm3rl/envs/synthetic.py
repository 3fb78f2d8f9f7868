"""A merge problem whose optimum is known: per-layer gains and a cost for switching members.

R_k(a) = sum_l T[l, a_l, k] - c_k * #{l : a_l != a_(l-1)}, with T ~ N(0, 1/L) and
c_k ~ 0.6 * U(0, 1) / sqrt(L). The best path for a linear preference follows by dynamic
programming, for any other utility by enumeration of small instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import PreferenceSampler
from hm3rl.objectives.scalarisation import Scalarisation, scalarise
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace

ENUMERATION_LIMIT = 300_000


@dataclass(frozen=True, eq=False)
class SyntheticProblem:
    """One instance.

    Attributes:
        gains: T, shape (L, M, K).
        switch_cost: c, shape (K,).
    """

    gains: np.ndarray
    switch_cost: np.ndarray

    @classmethod
    def draw(cls, layers: int, members: int, objectives: int, seed: int) -> SyntheticProblem:
        """Draw an instance from a seed."""
        rng = np.random.default_rng(seed)
        gains = rng.normal(0.0, 1.0 / np.sqrt(layers), size=(layers, members, objectives))
        cost = 0.6 * rng.uniform(size=objectives) / np.sqrt(layers)
        return cls(gains, cost)

    @property
    def names(self) -> tuple[str, ...]:
        """Member names m0, m1, ..."""
        return tuple(f"m{i}" for i in range(self.gains.shape[1]))

    def space(self) -> PathSpace:
        """Same-depth paths, the stem fixed to m0 (it has no effect here)."""
        layers, members, _ = self.gains.shape
        return PathSpace(
            members=self.names,
            num_layers=(layers,) * members,
            limits=PathLimits(layers, layers, stem="m0", actions="same_depth"),
            context=np.eye(members, dtype=np.float32),
            descriptors=np.zeros((members, layers, 1), dtype=np.float32),
            can_follow=np.ones((members, members), dtype=bool),
        )

    def value(self, choices: np.ndarray) -> np.ndarray:
        """Return vectors.

        Args:
            choices: Member of each layer, integers of shape (n, L).

        Returns:
            Array of shape (n, K).
        """
        rows = np.asarray(choices)
        gains = self.gains[np.arange(rows.shape[1])[None, :], rows].sum(axis=1)
        switches = (rows[:, 1:] != rows[:, :-1]).sum(axis=1)
        return gains - switches[:, None] * self.switch_cost

    def score_paths(self, paths: list[LayerPath]) -> np.ndarray:
        """Return vectors of paths, shape (n, K)."""
        index = {name: i for i, name in enumerate(self.names)}
        return self.value(np.array([[index[ref.member] for ref in path.refs] for path in paths]))

    def viterbi(self, preference: np.ndarray) -> tuple[float, np.ndarray]:
        """The best path for a linear preference, exactly (Viterbi, 1967).

        Returns:
            Its utility and its members, integers of shape (L,).
        """
        gains = self.gains @ preference
        cost = float(self.switch_cost @ preference)
        layers, members = gains.shape
        best = gains[0].copy()
        origin = np.zeros((layers, members), dtype=int)
        for layer in range(1, layers):
            step = best[:, None] - cost * (1.0 - np.eye(members))
            origin[layer] = step.argmax(axis=0)
            best = step.max(axis=0) + gains[layer]
        choice = [int(best.argmax())]
        for layer in range(layers - 1, 0, -1):
            choice.append(int(origin[layer, choice[-1]]))
        return float(best.max()), np.array(choice[::-1])

    def enumerate_best(self, preference: np.ndarray, kind: Scalarisation) -> float:
        """The best utility over all paths, for any scalarisation; small instances only."""
        layers, members, _ = self.gains.shape
        if members**layers > ENUMERATION_LIMIT:
            raise ValueError(f"{members}^{layers} paths are too many to enumerate")
        every = np.array(list(product(range(members), repeat=layers)))
        return float(scalarise(self.value(every), preference, kind).max())

    def random_utility(self, preference: np.ndarray) -> float:
        """Expected linear utility of uniformly random members at every layer, exactly."""
        layers, members, _ = self.gains.shape
        switches = (layers - 1) * (1.0 - 1.0 / members)
        mean = self.gains.mean(axis=1).sum(axis=0) - switches * self.switch_cost
        return float(mean @ preference)

    def normalised(self, utility: float, preference: np.ndarray) -> float:
        """Utility on the scale 0 = random paths, 1 = Viterbi."""
        low, high = self.random_utility(preference), self.viterbi(preference)[0]
        return (utility - low) / (high - low)


class SyntheticMergeEnv(MergePathEnv):
    """`MergePathEnv` over a `SyntheticProblem`.

    Args:
        layers: L.
        members: M.
        objectives: K.
        seed: Seed of the instance.
        scalarisation: u_lambda.
        length_cost: beta_1.
        preference_sampler: Draws a preference at reset.
    """

    def __init__(
        self,
        layers: int = 32,
        members: int = 4,
        objectives: int = 3,
        seed: int = 0,
        scalarisation: Scalarisation = "weighted_sum",
        length_cost: float = 0.0,
        preference_sampler: PreferenceSampler | None = None,
    ) -> None:
        self.problem = SyntheticProblem.draw(layers, members, objectives, seed)
        super().__init__(
            self.problem.space(),
            self.problem.score_paths,
            objectives,
            scalarisation,
            length_cost,
            preference_sampler,
        )
