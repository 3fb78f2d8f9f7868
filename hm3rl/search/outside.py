"""The searcher of runs whose paths somebody outside chooses, through an environment.

Named among the plugins of such a run, so that its configuration can be read again.
"""

from __future__ import annotations

from hm3rl.config.searchers import SearcherSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.registry import register
from hm3rl.search.base import Searcher

OUTSIDE = "environment"
"""Its name, and the phase of its evaluations."""


@register("searcher", OUTSIDE, options=SearcherSettings)
class Outside(Searcher[SearcherSettings]):
    """Stands for whoever steps the environment; cannot search by itself."""

    merges = False

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Refuse.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "the paths of this run were chosen through an environment, which nobody steps now",
            "begin another that knows its scores: gym.make('hm3rl/MergePath-v0', config=FOLDER)",
        )
