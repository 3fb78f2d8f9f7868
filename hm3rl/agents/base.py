"""What every agent is: it learns from stored paths, proposes, observes, decodes, is saved and read.

`hm3rl.agents.agent.MergeAgent` is the one that ships. Another one derives from `Agent`, needs
`propose`, `observe` and `decode`, and is registered by name (docs/extend/agent.md).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar, cast

import numpy as np

from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.storage import read_space, write_space
from hm3rl.config.schema import RunSettings
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.paths.variation import random_walk
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics, Outcome

BATCH = 8
"""Paths asked of an agent at a time."""

ATTEMPTS = 50
"""Random walks in a row that are known already, after which a space counts as exhausted."""


Space = TypeVar("Space", bound=PathSpace | BlendSpace)


class Agent(ABC, Generic[Space]):
    """Chooses inference paths and learns from what they score.

    Attributes:
        blended: Whether it walks blends (`BlendSpace`) or the layers of members (`PathSpace`).
        space: The paths there are.
        objectives: Names of the K objectives.
        seconds: Seconds spent in here so far, evaluations excepted.

    Args:
        space: The paths there are.
        objectives: Names of the K objectives.
        settings: The run; `settings.agent` has the agent's options, `settings.surrogate` those of
            a surrogate, `settings.seed` its seed.
    """

    blended: ClassVar[bool] = False
    seconds: float = 0.0
    _generators: GeneratorScope

    def __init__(self, space: Space, objectives: Sequence[str], settings: RunSettings) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.settings = settings
        self._known: set[LayerPath] = set()

    @classmethod
    def fresh(cls, space: Space, objectives: Sequence[str], settings: RunSettings) -> Self:
        """An agent that has learned nothing; arguments as above."""
        return cls(space, objectives, settings)

    @classmethod
    def check(cls, settings: RunSettings, began: bool) -> None:
        """Refuse options that cannot work, before any work; ranges are checked already.

        Args:
            settings: The run.
            began: Whether it began before, maybe on another machine.

        Raises:
            InputError: Names the key and the way out.
        """

    @classmethod
    def walks_blends(cls, settings: RunSettings) -> bool:
        """Whether it walks blends in this run; by default what `blended` says."""
        return cls.blended

    # --- what an agent of one's own says ------------------------------------------------------

    @abstractmethod
    def propose(self, count: int, preference: np.ndarray | None = None) -> list[LayerPath]:
        """Paths worth an evaluation.

        Args:
            count: How many are asked for.
            preference: For which one, shape (K,), on the simplex; None: for any.

        Returns:
            At most `count` of them; those evaluated before are passed over.
        """

    @abstractmethod
    def observe(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Hear what paths scored: those it proposed, and others.

        Args:
            paths: Paths of its space.
            outcomes: `outcome.ok` tells a score from a failure; `outcome.vector` is f / z*.
        """

    @abstractmethod
    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        """The path for a preference, at no evaluation.

        Args:
            preference: Shape (K,), on the simplex; need not have been seen in training.
            beam: 0: what the policy does by itself. Otherwise it may search, with so many starts.
        """

    def learn(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Learn from stored paths, that nobody has just chosen; by default, observe them."""
        self.observe(paths, outcomes)

    def learn_merges(
        self, context: np.ndarray, descriptors: np.ndarray, outcomes: Sequence[Outcome]
    ) -> None:
        """Hear of whole merged models that were scored but are not offered; ignored by default.

        Args:
            context: Recipe features, shape (n, R), as in the path space.
            descriptors: Layer descriptors, shape (n, L, D).
            outcomes: Their outcomes.
        """

    def posterior(self, paths: Sequence[LayerPath]) -> tuple[np.ndarray, np.ndarray] | None:
        """What it makes of evaluated paths by all that it observed; by default it cannot say.

        Args:
            paths: n paths of its space.

        Returns:
            Posterior means of the noise-free f / z* and their standard deviations, both of shape
            (n, K), or None. If it can say, fronts and choices go by it.
        """
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restore` needs to bring it back; by default nothing."""
        return {}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `arrays` gave."""

    # --- what follows from it -----------------------------------------------------------------

    def absorb(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Take over what is known at no cost, such as the members' own points.

        Args:
            paths: Paths, of which those of this space are learned from.
            outcomes: Their outcomes.
        """
        pairs = list(zip(paths, outcomes, strict=True))
        own = [(path, outcome) for path, outcome in pairs if self.space.offers(path)]
        self._known.update(path for path, _ in own)
        self.learn([path for path, _ in own], [outcome for _, outcome in own])

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Learn from random paths.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Exactly so many are evaluated (fewer only if the space has no more).
            log: Receives losses.
        """
        rng = np.random.default_rng(self.settings.seed)
        spent = 0
        while spent < budget:
            paths = self._random(min(BATCH, budget - spent), rng)
            if not paths:
                return
            self.learn(paths, evaluate(paths))
            spent += len(paths)

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate what it proposes; random paths where it proposes nothing new.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Exactly so many are evaluated (fewer only if the space has no more).
            log: Receives the number of proposals that were new.
        """
        rng = np.random.default_rng(self.settings.seed + 1)
        spent = 0
        while spent < budget:
            count = min(BATCH, budget - spent)
            paths = self._new(self.propose(count))[:count]
            log({"online/proposed": float(len(paths))})
            if not paths:
                paths = self._random(count, rng)
            if not paths:
                return
            self.observe(paths, evaluate(paths))
            spent += len(paths)

    def refine(self, evaluate: EvaluatePaths, budget: int, preference: np.ndarray) -> None:
        """Spend evaluations on one preference; ends early when it proposes nothing new.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Most paths to evaluate.
            preference: Shape (K,), on the simplex.
        """
        spent = 0
        while spent < budget:
            count = min(BATCH, budget - spent)
            paths = self._new(self.propose(count, preference))[:count]
            if not paths:
                return
            self.observe(paths, evaluate(paths))
            spent += len(paths)

    def save(self, path: Path) -> None:
        """Write one zip that needs no unpickling, in place of any that is there."""
        path.unlink(missing_ok=True)
        write_space(path, self.space, self.objectives, self.arrays())

    @classmethod
    def load(cls, path: Path, settings: RunSettings) -> Self:
        """Read an agent that `save` wrote.

        Args:
            path: The zip.
            settings: Of the run that it belongs to.

        Raises:
            InputError: The file is no saved agent.
        """
        space, objectives, arrays = read_space(path)
        agent = cls(cast(Space, space), objectives, settings)
        agent.restore(arrays)
        return agent

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Work with generators of its own (`self._generators`); the time counts as the agent's."""
        begun = time.perf_counter()
        with self._generators.scope():
            yield
        self.seconds += time.perf_counter() - begun

    def _new(self, paths: Sequence[LayerPath]) -> list[LayerPath]:
        """Those that were not evaluated before, marked as evaluated now."""
        found = [path for path in dict.fromkeys(paths) if path not in self._known]
        self._known.update(found)
        return found

    def _draw(self, rng: np.random.Generator) -> LayerPath:
        if isinstance(self.space, BlendSpace):
            return self.space.decode(rng.random(self.space.shape) * self.space.largest)
        return self.space.decode(random_walk(self.space, rng))

    def _random(self, count: int, rng: np.random.Generator) -> list[LayerPath]:
        found: list[LayerPath] = []
        for _ in range(ATTEMPTS * count):
            found += self._new([self._draw(rng)])
            if len(found) == count:
                break
        return found
