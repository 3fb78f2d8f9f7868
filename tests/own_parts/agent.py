"""An agent: a table of how good each member is at each depth, for each objective."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hm3rl.agents.base import Agent
from hm3rl.config.agents import AgentSettings
from hm3rl.config.schema import RunSettings
from hm3rl.config.values import number
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.registry import register
from hm3rl.surrogate.dataset import Outcome


@dataclass
class TableSettings(AgentSettings):
    noise: float = number(0.2, least=0)


@register("agent", "table", options=TableSettings)
class TableAgent(Agent):
    """Goes by the mean score of the paths that took an action, legal actions only."""

    def __init__(self, space: PathSpace, objectives: Sequence[str], settings: RunSettings) -> None:
        super().__init__(space, objectives, settings)
        self.noise, self.rng = settings.agent.noise, np.random.default_rng(settings.seed)
        self.sums = np.zeros((space.num_actions, len(self.objectives)))
        self.counts = np.full(space.num_actions, 1e-3)

    def propose(self, count: int, preference: np.ndarray | None = None) -> list[LayerPath]:
        drawn = self.rng.dirichlet(np.ones(len(self.objectives)), count)
        return [self._walk(own if preference is None else preference, self.noise) for own in drawn]

    def observe(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        for path, outcome in zip(paths, outcomes, strict=True):
            if outcome.ok:
                taken = [a for a in self.space.encode(path) if a < self.space.num_actions]
                self.sums[taken] += outcome.vector
                self.counts[taken] += 1

    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        return self._walk(preference, 0.0)

    def _walk(self, preference: np.ndarray, noise: float) -> LayerPath:
        worth = (self.sums / self.counts[:, None]) @ preference
        tokens: list[int] = []
        while self.space.stop not in tokens:
            noisy = worth + noise * self.rng.standard_normal(len(worth))
            tokens.append(int(np.where(self.space.mask(tokens), noisy, -np.inf).argmax()))
        return self.space.decode(tokens)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"sums": self.sums, "counts": self.counts}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.sums, self.counts = arrays["sums"], arrays["counts"]
