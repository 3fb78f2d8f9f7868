"""Baseline `depth_wise`: depth-wise integration with few items first (Su and Geiping, 2502.04030).

"Fine, I'll Merge It Myself" searches with SMAC, at several fidelities, in one of two spaces: here
it is depth-wise integration (DIS), where each depth has an ordered selection of the models' layers
(`blocks.py`). Brackets of candidates are proposed by SMAC's surrogate (`forest.py`) and halved
successively: all on a few items, a third of them on more, one of nine on all. An item asked costs
the same whatever the fidelity, so a bracket of nine costs 2.3 evaluations instead of nine.

What differs, and why:

- SMAC itself is not used (it brings fourteen packages); its parts are: random forest, expected
  improvement, ParEGO's random preferences, local search around the best, random interleaving.
- The forest sees members by their recipes (`BlockSpace.features`), and learns from the members' own
  scores and from the merges that the parameter level scored and did not offer; SMAC sees bits.
- The forest learns from all candidates, each at its highest fidelity; SMAC takes the highest
  fidelity with enough candidates, of which there would be none for most of a small budget.
- A candidate that failed is paid for, dropped from its bracket, not proposed again, and left out of
  what the forest learns from, whatever it scored on fewer items; SMAC makes up a cost for it.
- Halving keeps what adds most to the front's hypervolume on the same items, not the best cost.
- Random points have about one layer a depth; bits drawn evenly, as in the paper's code, have M / 2.
  A path that is too long is not proposed, instead of scored zero. Where nothing is selected the
  depth is skipped if the limits allow it; the paper's code puts the base's layer there.
- The paper's scale on each depth's output is left out: a path carries fitted alignments only
  (`paths.alignment`). Its fixed first and last layers are not needed at eight layers.
- With `search.levels=both` the members include merges; DIS has the sources alone (`paths`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hm3rl.config.searchers import DepthWiseSettings
from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.halving import ByHypervolume, halving_cost, successive_halving
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.preferences import sample_faces
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.paths.candidate import Candidate
from hm3rl.search.architecture_level import path_space, to_candidate
from hm3rl.search.blocks import Blocks, BlockSpace
from hm3rl.search.forest import Forest
from hm3rl.search.levels import OverPaths
from hm3rl.search.parameter_level import ATTEMPTS

PHASE = "depth-wise"

MOVES = 3
"""Most changes at a time in the local search around the best points."""


class DepthWise(OverPaths[DepthWiseSettings]):
    """Depth-wise integration by surrogate and successive halving."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget, but for less than one evaluation; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        names, others, left = self.offer_members(problem, budget, rng)
        problem.logger.phase(PHASE, left)
        space = BlockSpace(path_space(problem, names, describe=False))
        Brackets(problem, space, self.options, left, rng, others).run()
        return problem.archive


class Brackets:
    """Brackets of successive halving, each proposed from what the earlier ones told.

    Args:
        problem: Prepared problem.
        space: Blocks of the members offered.
        settings: Size and rungs of a bracket.
        budget: Evaluations that may be charged.
        rng: Source of randomness.
        others: Recipes that were scored but are not offered.
    """

    def __init__(
        self,
        problem: MergeProblem,
        space: BlockSpace,
        settings: DepthWiseSettings,
        budget: int,
        rng: np.random.Generator,
        others: Sequence[MergeRecipe] = (),
    ) -> None:
        self.problem = problem
        self.space = space
        self.settings = settings
        self.rng = rng
        self.rungs = [
            str(Fidelity(settings.eta ** -float(i), problem.fidelity.proxy))
            for i in reversed(range(settings.rungs))
        ]
        self._floor = problem.remaining - budget
        self._vectors: dict[Blocks, np.ndarray] = {}
        self._asked: dict[Blocks, None] = {}
        for member in range(len(space.space.members)):
            own = space.whole(member)
            if space.row(own) is not None:
                self._learn(own)
        merges = [Candidate.whole(recipe, problem.pool.num_layers) for recipe in others]
        self._merges = [
            space.whole_features(problem.members.recipe_features(problem.members.add(recipe)))
            for recipe in others
        ]
        self._merged = [problem.normalise(found.vector) for found in problem.known(merges)]

    def run(self) -> None:
        """Spend the budget; less than one evaluation may be left."""
        while self._left >= 1:
            points = self._propose(self._size())
            if not points:
                self._promote()
                return
            self._halve(points)

    @property
    def _left(self) -> int:
        return self.problem.remaining - self._floor

    def _keep(self, count: int) -> list[int]:
        """How many of `count` go on from each rung, at least one."""
        eta = self.settings.eta
        return [max(count // eta ** (i + 1), 1) for i in range(len(self.rungs) - 1)] + [1]

    def _size(self) -> int:
        """Starters of the next bracket: as set, or as many as the budget allows."""
        for count in range(self.settings.starters, 1, -1):
            if halving_cost(self.problem, count, self.rungs, self._keep(count)) <= self._left:
                return count
        return 1

    def _halve(self, points: Sequence[Blocks]) -> None:
        candidates = [self._candidate(point) for point in points]
        rungs = self.rungs if len(points) > 1 else self.rungs[-1:]
        keep = self._keep(len(points))[-len(rungs) :]
        halving = successive_halving(self.problem, candidates, rungs, keep, ByHypervolume(), PHASE)
        current = list(points)
        for rung in halving.rungs:
            for point, evaluation in zip(current, rung.evaluations, strict=True):
                if evaluation.ok:
                    self._vectors[point] = self.problem.normalise(evaluation.vector)
                else:
                    self._vectors.pop(point, None)
            current = [current[i] for i in rung.kept]

    def _propose(self, count: int) -> list[Blocks]:
        """New points, at most `count`, each the best for a preference of its own or at random."""
        vectors = np.array(list(self._vectors.values()))
        preferences = sample_faces(count, len(self.problem.objectives), self.rng)
        if len(vectors) + len(self._merged) < max(self.settings.warm_up, 1) or not len(vectors):
            chosen = self._fresh(count, [])
        else:
            pool = self._fresh(self.settings.proposals, self._best(vectors, preferences))
            chosen = self._choose(pool, vectors, preferences)
        self._asked.update(dict.fromkeys(chosen))
        return chosen

    def _choose(
        self, pool: list[Blocks], vectors: np.ndarray, preferences: np.ndarray
    ) -> list[Blocks]:
        """For each preference the point that promises most, of those nobody took before."""
        if not pool:
            return []
        known = [*(self.space.features(point) for point in self._vectors), *self._merges]
        told = np.array([*vectors, *self._merged])
        forest = Forest(np.array(known), told, int(self.rng.integers(2**31)))
        features = np.array([self.space.features(point) for point in pool])
        worth = forest.improvement(features, preferences)
        free = np.ones(len(pool), dtype=bool)
        chosen = []
        for row in worth[: len(pool)]:
            given = row
            if self.rng.random() < self.settings.random_share:
                given = self.rng.random(len(pool))
            best = int(np.argmax(np.where(free, given, -1.0)))
            free[best] = False
            chosen.append(pool[best])
        return chosen

    def _best(self, vectors: np.ndarray, preferences: np.ndarray) -> list[Blocks]:
        """Known points around which to look: the best few under each preference."""
        known = list(self._vectors)
        best: dict[Blocks, None] = {}
        for preference in preferences:
            order = np.argsort(-tchebycheff(vectors, preference), kind="stable")
            best.update(dict.fromkeys(known[i] for i in order[: self.settings.elites]))
        return list(best)

    def _fresh(self, count: int, centres: Sequence[Blocks]) -> list[Blocks]:
        """New points: half at random, half neighbours of the centres; without centres random."""
        pool: dict[Blocks, None] = {}
        for attempt in range(ATTEMPTS + count):
            if len(pool) == count:
                break
            point: Blocks | None
            if attempt % 2 or not centres:
                point = self.space.draw(self.rng)
            else:
                point = centres[int(self.rng.integers(len(centres)))]
                for _ in range(int(self.rng.integers(1, MOVES + 1))):
                    point = self.space.vary(point, self.rng)
            if point is not None and point not in self._asked:
                pool[point] = None
        return list(pool)

    def _promote(self) -> None:
        """The space is exhausted: score on all items what was scored on a few, the first first."""
        for point in self._asked:
            candidate = self._candidate(point)
            if self._left >= 1 and not self.problem.seen(candidate):
                self.problem.evaluate([candidate], PHASE)

    def _learn(self, point: Blocks) -> None:
        """Take over what is known at no cost."""
        candidate = self._candidate(point)
        if self.problem.seen(candidate) and self.problem.known([candidate])[0].ok:
            self._asked[point] = None
            vector = self.problem.known([candidate])[0].vector
            self._vectors[point] = self.problem.normalise(vector)

    def _candidate(self, point: Blocks) -> Candidate:
        row = self.space.row(point)
        assert row is not None  # the space gives legal points only
        return to_candidate(self.problem, self.space.space.decode(row))
