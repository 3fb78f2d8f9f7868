"""A problem over blends whose Pareto set is known, and its environment.

Each objective falls off with the squared distance of the blends from a target of its own:
f_k(c) = 1 - sum_r w_r |c_r - t_kr|^2, r the stem or a layer. With one metric for all objectives the
Pareto set is the convex hull of the targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.envs.path_env import PreferenceSampler
from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.objectives.scalarisation import Scalarisation
from hm3rl.objectives.utility import Utility
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath

LATTICE = 200


@dataclass(frozen=True, eq=False)
class SyntheticBlends:
    """One instance.

    Attributes:
        targets: t, shape (K, 1 + L, N), inside [0, 1].
        weights: w, shape (1 + L,), sums to 1.
    """

    targets: np.ndarray
    weights: np.ndarray

    @classmethod
    def draw(cls, layers: int, experts: int, objectives: int, seed: int) -> SyntheticBlends:
        """Draw an instance: targets of a random level that drifts over the depth."""
        rng = np.random.default_rng(seed)
        level = rng.uniform(0.2, 0.8, size=(objectives, 1, experts))
        drift = rng.normal(0.0, 0.08, size=(objectives, 1 + layers, experts)).cumsum(axis=1)
        weights = rng.uniform(0.5, 1.5, size=1 + layers)
        return cls(np.clip(level + drift, 0.05, 0.95), weights / weights.sum())

    @property
    def space(self) -> BlendSpace:
        """Its blends."""
        _, places, experts = self.targets.shape
        return BlendSpace(tuple(f"m{n}" for n in range(experts)), places - 1)

    def value(self, blends: np.ndarray) -> np.ndarray:
        """Vectors of blends (n, 1 + L, N), shape (n, K)."""
        squared = ((blends[:, None] - self.targets[None]) ** 2).sum(axis=3)
        return 1.0 - squared @ self.weights

    def score_paths(self, paths: list[LayerPath]) -> np.ndarray:
        """Vectors of paths through blends, shape (n, K)."""
        found = [self.space.encode(Candidate(path)) for path in paths]
        return self.value(np.array(found))

    def best(self, preference: np.ndarray, utility: Utility) -> float:
        """Utility of the best blends for a preference, up to the fineness of a lattice.

        Args:
            preference: Shape (K,), on the simplex.
            utility: What blends are worth.
        """
        shares = simplex_lattice(len(self.targets), LATTICE)
        hull = np.einsum("sk,krn->srn", shares, self.targets)
        return float(utility(self.value(hull), 0, np.asarray(preference)).max())


class SyntheticBlendsEnv(BlendPathEnv):
    """`BlendPathEnv` over `SyntheticBlends`, layers in the model's order.

    Args:
        layers: L.
        experts: N.
        objectives: K.
        seed: Seed of the instance.
        flat: Whether the action space is the Box.
        scalarisation: u_lambda.
        length_cost: beta_1.
        preference_sampler: Draws a preference at reset.
    """

    def __init__(
        self,
        layers: int = 8,
        experts: int = 3,
        objectives: int = 3,
        seed: int = 0,
        flat: bool = False,
        scalarisation: Scalarisation = "weighted_sum",
        length_cost: float = 0.0,
        preference_sampler: PreferenceSampler | None = None,
    ) -> None:
        self.problem = SyntheticBlends.draw(layers, experts, objectives, seed)
        super().__init__(
            self.problem.space,
            self.problem.score_paths,
            objectives,
            flat=flat,
            scalarisation=scalarisation,
            length_cost=length_cost,
            preference_sampler=preference_sampler,
        )
