"""A run that was searched before: its settings, its archive, and its problem when one is needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.agents.base import Agent
from hm3rl.agents.separate import load_agent
from hm3rl.config.compose import settings_of_run
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.events import NullLogger
from hm3rl.files import POSTERIOR, RunFolder
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.posterior import Posterior
from hm3rl.objectives.utility import BALANCE, OWN, Utility
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.run.sources import moved, reopen_problem


class FinishedRun:
    """Opens the folder of a finished search.

    Attributes:
        candidates: All that was scored, by key.

    Args:
        path: The run folder.
        alive: The run's problem, if it is in memory still, so that no model is loaded twice.
        sources: Where sources lie that were moved since, by name.

    Raises:
        InputError: Not a run folder, the search has not finished, or a file is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        alive: MergeProblem | None = None,
        sources: Mapping[str, str | Path] | None = None,
    ) -> None:
        self.folder = RunFolder.finished(path)
        self.settings = moved(settings_of_run(self.folder), sources or {})
        self._alive = alive
        self.summary: dict[str, Any] = self.folder.read_summary()
        self.objectives: tuple[str, ...] = tuple(self.summary["objectives"])
        self.archive = Archive(self.objectives, self.summary["z_star"]["search"])
        self.candidates: dict[str, Candidate] = {}
        for line in self.folder.read_archive():
            if not line["failed"]:
                self.candidates[line["key"]] = Candidate.from_dict(line["candidate"])
                self.archive.add(line["key"], [line["scores"][n] for n in self.objectives])

    @cached_property
    def utility(self) -> Utility:
        """What a model is worth in this run: its agent was trained for it, and `pick` obeys it."""
        stored = self.summary.get("utility")  # runs of older versions have none
        return Utility.of(self.settings.agent) if stored is None else Utility.from_dict(stored)

    @cached_property
    def posterior(self) -> Posterior | None:
        """What the agent made of all scores at the end of the search, if it could say.

        Raises:
            InputError: It could, and the file is missing or damaged.
        """
        if self.summary.get("front", {}).get("by") != POSTERIOR:  # so all runs of older versions
            return None
        means, errors = Archive(self.objectives, self.archive.z_star), {}
        for row in self.folder.read_posterior():
            means.add(row["key"], [float(row[name]) for name in self.objectives])
            errors[row["key"]] = np.array([float(row[f"{name}_se"]) for name in self.objectives])
        return Posterior(means, errors)

    def utility_of(self, name: str) -> Utility:
        """What a model is worth to who asks for `balance`, or for what the `run` went by.

        Raises:
            InputError: Nothing is called that.
        """
        if name not in (BALANCE, OWN):
            raise InputError(f"--utility {name}", f"use {BALANCE} or {OWN}")
        return self.utility.balanced if name == BALANCE else self.utility

    @cached_property
    def experts(self) -> dict[str, LayerPath]:
        """The paths that are an expert and nothing else, by its name."""
        found: dict[str, LayerPath] = {}
        for candidate in self.candidates.values():
            name, path = candidate.path.whole_member, candidate.path
            # The experts were scored whole; a path may also be the first layers of one.
            if name is not None and name in self.summary["sources"]:
                found[name] = max(path, found.get(name, path), key=lambda one: one.length)
        return found

    def best(
        self, preference: np.ndarray, by: Archive | None = None, utility: Utility | None = None
    ) -> tuple[str, float]:
        """The best evaluated model under a preference.

        Args:
            preference: Shape (K,), on the simplex.
            by: Vectors of all evaluated models that decide; None: their scores.
            utility: What a model is worth; None: what the run went by.

        Returns:
            Its key and its utility.
        """
        known = self.archive if by is None else by
        lengths = {key: candidate.path.length for key, candidate in self.candidates.items()}
        key = known.best(preference, self.utility if utility is None else utility, lengths)
        return key, self.worth(known.vector(key), lengths[key], preference, utility)

    def worth(
        self,
        vector: np.ndarray,
        length: int,
        preference: np.ndarray,
        utility: Utility | None = None,
    ) -> float:
        """Utility of raw scores, shape (K,), of a path of `length` layers; see `best`."""
        asked = self.utility if utility is None else utility
        return float(asked(self.archive.normalise(vector), length, preference))

    def candidate(self, key: str) -> Candidate:
        """The candidate with a key."""
        return self.candidates[key]

    def find(self, text: str) -> str:
        """The key of a model named as in front.csv (`M03`) or by the beginning of its key.

        Raises:
            InputError: No model of the run has that name, or several have.
        """
        named = {row["name"]: row["key"] for row in self.front_rows()}
        if text in named:
            return named[text]
        hits = [key for key in self.candidates if key.startswith(text)]
        if len(hits) == 1:
            return hits[0]
        raise InputError(
            f"{'several models' if hits else 'no model'} of this run: {text!r}",
            f"use a name of {self.folder.front}, for example {next(iter(named), 'M00')}",
        )

    def front_rows(self) -> list[dict[str, str]]:
        """The rows of front.csv."""
        return self.folder.read_front()

    @cached_property
    def problem(self) -> MergeProblem:
        """Pool, tasks and evaluator of the run; its own scores come from the store.

        Raises:
            InputError: A source is gone or has other weights than the run began with.
        """
        if self._alive is None:
            problem = reopen_problem(self.settings, self.folder, NullLogger(), keep=False)
        else:
            alive = self._alive
            problem = MergeProblem(
                alive.members,
                alive.evaluator,
                alive.limits,
                alive.budget,
                proxy_cost=float(alive.proxy_cost),
                fidelity=str(alive.fidelity),
            )
        problem.prepare()
        for candidate in self.candidates.values():
            problem.members.admit(candidate)
        return problem

    def evaluation(self, key: str) -> Evaluation:
        """The evaluation of a model on the search split, from the store."""
        problem = self.problem
        return problem.evaluator.evaluate([self.candidate(key)], fidelity=problem.fidelity)[0]

    @cached_property
    def agent(self) -> Agent | None:
        """The trained networks, or None if the searcher has none.

        Raises:
            InputError: It had some, and their file is missing or cannot be read.
        """
        file = self.folder.agent
        # Runs of older versions do not say whether there was one.
        if not self.summary.get("agent", file.is_file()):
            return None
        if not file.is_file():
            raise InputError(f"{file} is missing", self.folder.again(file))
        try:
            return load_agent(file, self.settings)
        except InputError as error:
            raise InputError(error.what, self.folder.again(file)) from None
