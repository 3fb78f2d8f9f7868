"""Baseline `cmaes_dfs`: evolutionary merging in the data flow space.

Akiba et al., "Evolutionary optimization of model merging recipes" (arXiv 2403.13187), section 3.2:
weights stay as they are, and what is evolved is the sequence of layers a token runs through. The
search space is an indicator array over all layers of all models in order, r = 3 times over
(`DataFlowEncoding`), optimised by CMA-ES.

What differs, and why:

- The scaling matrix W, by which W_ij scales what layer i hands to layer j, has two numbers for
  each member instead of one for each pair of layers (`DataFlowEncoding`), and is evolved with
  `search.scale_max` above 1. By default it is not: a few hundred evaluations can adapt
  few dimensions. With `paths.alignment=scalar` each stitch point gets fitted scales instead,
  s = sqrt(E|target|^2 / E|source|^2), the closed form of what W is there for. Both are folded into
  the weights at export.
- The paper maximises one metric; here preferences take turns (`cma_bridge`), each strategy starting
  from the best vector under its preference; populations are smaller where the budget would not pay
  for ten generations otherwise.
- Strategies begin at whole members, with a margin by which a sample changes two places on average.
  From an even start half of all layers would be in, a model that says nothing at all.
- The paper's embedding is that of one fixed model; here the stem is evolved unless `paths.stem`
  fixes it. Lengths obey `paths.*`: give `paths=any` and lengths for the published space. With
  same-depth paths (the default everywhere) the array chooses a member for each depth.
- `search.levels=both` puts HM3's parameter level in front, where the paper's hybrid adds one merge
  that its parameter space found; `paths` takes the sources alone.
"""

from __future__ import annotations

from itertools import count

import numpy as np
from scipy.stats import norm

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import DataFlowSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.paths.alignment_kind import NO_ALIGNMENT
from hm3rl.search.architecture_level import path_space
from hm3rl.search.cma_bridge import SMALLEST, STEP, evolve_cma, plan
from hm3rl.search.ledger import KnownPoints, Ledger
from hm3rl.search.levels import CHANGES, OverPaths
from hm3rl.search.path_encoding import DataFlowEncoding

PHASE = "data flow"


class DataFlow(OverPaths[DataFlowSettings]):
    """CMA-ES over the indicator array."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        if self.options.scale_max > 1 and settings.paths.alignment != NO_ALIGNMENT:
            raise InputError(
                f"search.scale_max={self.options.scale_max:g} with "
                f"paths.alignment={settings.paths.alignment}: scales are evolved or fitted, not "
                "both",
                "use paths.alignment=none, or search.scale_max=1",
            )
        experts, least = len(settings.pool.experts), self.options.generations * SMALLEST
        planned = self.planned or settings.budget
        merges = self.for_merges(planned, experts)
        if planned - merges < least:
            enough = next(b for b in count(planned) if b - self.for_merges(b, experts) >= least)
            shared = f", of which the parameter level gets {merges}," if merges else ""
            raise InputError(
                f"budget={planned}{shared} does not pay for search.generations="
                f"{self.options.generations} of {SMALLEST} candidates, the smallest population",
                f"give budget={enough} at least, or fewer search.generations",
            )

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        names, _, left = self.offer_members(problem, budget, rng)
        problem.logger.phase(PHASE, left)
        space = path_space(problem, names, describe=False)
        own = self.options
        encoding = DataFlowEncoding(problem, space, own.repetitions, own.scale_max)
        members = [encoding.whole(m, margin(encoding)) for m in range(len(names))]
        known = KnownPoints.scored(problem, encoding, members)
        planned = min(self.planned or budget, budget)
        mine = max(planned - self.for_merges(planned, len(problem.pool.expert_names)), 1)
        divided = plan(mine, own.generations, len(encoding.lower))
        evolve_cma(Ledger(problem, left, PHASE), encoding, divided, rng, known)
        return problem.archive


def margin(encoding: DataFlowEncoding) -> float:
    """How far a whole member's entries lie from zero, so that `CHANGES` places change on average.

    An entry has standard deviation `STEP` of its range. It changes when its sign does; with
    same-depth paths, when it beats the highest of its depth, of which there are fewer, and the
    difference of two entries has sqrt(2) times the deviation and twice the margin.
    """
    deviation = STEP * float(encoding.upper[0] - encoding.lower[0])
    if encoding.space.same_depth:
        rivals = max(len(encoding.layers) - encoding.space.depth, 1)
        return float(min(norm.isf(min(CHANGES / rivals, 0.4)) * deviation / np.sqrt(2), 1.0))
    return float(min(norm.isf(min(CHANGES / len(encoding.layers), 0.4)) * deviation, 1.0))
