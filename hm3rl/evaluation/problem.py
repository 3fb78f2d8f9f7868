"""`MergeProblem`: all a searcher may touch, so that every method is compared under the same rules.

The budget counts the distinct candidates a run asks to be scored, whether or not the store knew
them: a warm store saves time, never budget. The sources are free, and so is scoring on the test
split, which never comes back into the search.

Asking for a share of the items costs that share of an evaluation, and asking for more of them later
the rest. A proxy is paid for apart: per item it costs `proxy_cost` of what scoring the item costs,
and scoring it afterwards costs the full price. A search that decides by proxies
(`evaluation.fidelity=proxy`) has z*, archive and front of proxies, one evaluation each; what the
front is worth is then told by the test split alone, which is always scored in full.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from hm3rl.errors import BudgetExhausted, InputError
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.fidelity import Fidelity, Measure
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.evaluation.round import Scored
from hm3rl.events import EARLIER, EvaluationEvent, NullLogger, RunLogger
from hm3rl.models.pool import ModelPool
from hm3rl.objectives.archive import Archive
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split

SOURCES = "sources"
"""Phase under which the sources' own scores are logged."""

PROXY_COST = 0.5
"""What a proxy costs by default, in evaluations."""


class TracePoint(NamedTuple):
    """The archive's hypervolume after one charged evaluation.

    Attributes:
        used: Evaluations used so far; fractions come from lower fidelities.
        key: The candidate.
        hypervolume: Normalised hypervolume.
    """

    used: float
    key: str
    hypervolume: float


def refuse_impossible(objectives: Sequence[str], best: np.ndarray, items: str = "search") -> None:
    """Refuse tasks that no expert can do.

    Args:
        objectives: The K objectives.
        best: Score of the best expert on each, shape (K,).
        items: The split they were scored on.

    Raises:
        InputError: Names all of them.
    """
    tasks = [task for task, value in zip(objectives, best, strict=True) if value <= 0]
    if tasks:
        some = "the task" if len(tasks) == 1 else "the tasks"
        raise InputError(
            f"no expert scores above 0 on the {items} items of {some} {', '.join(tasks)}, so "
            "nothing can be normalised by the best one",
            "look at their answers (prompts, answer length, metric, chat template), give more "
            "items, or leave out what no expert can do",
        )


class MergeProblem:
    """Sources, tasks, legal paths and a budget of evaluations.

    Args:
        members: Sources and merged members.
        evaluator: Scores candidates of these members.
        limits: Legal paths.
        budget: Distinct candidates that may be asked for.
        logger: Hears every evaluation.
        proxy_cost: What a proxy of all items costs, in evaluations; 1 if they decide.
        fidelity: What the search decides by: "full", or "proxy".

    Attributes:
        trace: One point per evaluation used, at whatever fidelity.
        deciding: Seconds in which models of the scores, beside the agent's, chose what to evaluate;
            who uses such a model adds them here.
        chosen_by: How many candidates each proposer had scored, at whatever fidelity.
    """

    def __init__(
        self,
        members: MemberSet,
        evaluator: Evaluator,
        limits: PathLimits,
        budget: int,
        logger: RunLogger | None = None,
        proxy_cost: float = PROXY_COST,
        fidelity: str = FULL,
    ) -> None:
        if budget < 0:
            raise InputError(f"budget={budget}", "give a budget of 0 or more evaluations")
        self.fidelity = Fidelity.parse(fidelity)
        if self.fidelity.share < 1:
            raise InputError(
                f"evaluation.fidelity={fidelity}", "a search decides by all items: full or proxy"
            )
        self.members = members
        self.evaluator = evaluator
        self.limits = limits
        self.budget = budget
        self.logger: RunLogger = NullLogger() if logger is None else logger
        self.proxy_cost = Fraction(1 if self.fidelity.proxy else str(proxy_cost))
        self.trace: list[TracePoint] = []
        self.deciding = 0.0
        self.chosen_by: Counter[str] = Counter()
        self._archive: Archive | None = None
        self._candidates: dict[str, Candidate] = {}
        self._evaluations: dict[str, Evaluation] = {}
        self._lower: dict[Fidelity, dict[str, Evaluation]] = {}
        self._asked: dict[tuple[str, Measure], Fraction] = {}
        self._used: dict[Measure, Fraction] = {"full": Fraction(0), "proxy": Fraction(0)}

    @property
    def pool(self) -> ModelPool:
        """The sources."""
        return self.members.pool

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of all score vectors."""
        return self.evaluator.objectives

    @property
    def used(self) -> float:
        """Evaluations charged so far, proxies at their cost; an integer unless parts were asked."""
        return _plain(self._spent)

    @property
    def used_proxy(self) -> float:
        """Proxies asked for so far, in candidates: half the items of one count 0.5."""
        return _plain(self._used["proxy"])

    @property
    def remaining(self) -> int:
        """Whole evaluations left in the budget."""
        return math.floor(self.budget - self._spent)

    @property
    def archive(self) -> Archive:
        """All scored candidates, the sources included.

        Raises:
            RuntimeError: `prepare` has not been called.
        """
        if self._archive is None:
            raise RuntimeError("call MergeProblem.prepare() first")
        return self._archive

    def normalise(self, vectors: np.ndarray) -> np.ndarray:
        """Raw scores as f / z*, any shape that ends in K."""
        return self.archive.normalise(vectors)

    @property
    def z_star(self) -> np.ndarray:
        """Score of the best expert on each task, search split, shape (K,), all positive."""
        return self.archive.z_star

    def prepare(self) -> None:
        """Score the sources, which is free, and normalise by the best expert on each task.

        Calling it again changes nothing.

        Raises:
            InputError: A source cannot be scored, or no expert scores above 0 on some task.
        """
        if self._archive is not None:
            return
        for split in ("search", "test"):
            self.evaluator.prepare(split)
        names = (*self.pool.expert_names, self.pool.base_name)
        candidates = [Candidate.whole(name, self.members.num_layers(name)) for name in names]
        scored = list(self.evaluator.stream(candidates, fidelity=self.fidelity))
        for name, one in zip(names, scored, strict=True):
            if not one.evaluation.ok:
                raise InputError(
                    f"the source {name!r} cannot be scored: {one.evaluation.reason}",
                    "check that it generates text with plain transformers",
                )
        experts = np.stack([one.evaluation.vector for one in scored[: len(self.pool.expert_names)]])
        best = experts.max(axis=0)
        refuse_impossible(self.objectives, best)
        self._archive = Archive(self.objectives, best)
        for candidate, one in zip(candidates, scored, strict=True):
            self._enter(candidate, one, SOURCES)

    def key(self, candidate: Candidate) -> str:
        """Content hash of a candidate."""
        return self.evaluator.key(candidate)

    def seen(self, candidate: Candidate) -> bool:
        """Whether this run has scored a candidate, so that asking again is free."""
        return self.key(candidate) in self._evaluations

    def candidate(self, key: str) -> Candidate:
        """The candidate behind a key of this run."""
        return self._candidates[key]

    def evaluation(self, key: str) -> Evaluation:
        """The search evaluation behind a key of this run."""
        return self._evaluations[key]

    def known(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Search evaluations of candidates this run has scored; free.

        Raises:
            KeyError: One has not been scored.
        """
        return [self._evaluations[self.key(candidate)] for candidate in candidates]

    def evaluate(
        self,
        candidates: Sequence[Candidate],
        phase: str,
        fidelity: str | Fidelity | None = None,
        chosen_by: Sequence[str] = (),
    ) -> list[Evaluation]:
        """Score candidates on the search split and charge what this run has not asked for yet.

        Args:
            candidates: Candidates, repeats possible.
            phase: Name under which they are logged.
            fidelity: On which share of the items, and how; see `Fidelity.parse`. Only what the
                search decides by, the default, enters the archive.
            chosen_by: What proposed each of them, counted in `chosen_by`; empty: the phase.

        Returns:
            One evaluation per candidate, in order.

        Raises:
            BudgetExhausted: They cost more than the budget has left; none was scored.
            InputError: A candidate breaks the limits or cannot exist.
        """
        self.prepare()
        asked = self.fidelity if fidelity is None else Fidelity.parse(fidelity)
        found = self._found(asked)
        keys = [self.key(candidate) for candidate in candidates]
        new: dict[str, Candidate] = {}
        proposers: dict[str, str] = {}
        named = chosen_by or [phase] * len(candidates)
        for key, candidate, proposer in zip(keys, candidates, named, strict=True):
            if key not in found:
                self._check(candidate)
                new.setdefault(key, candidate)
                proposers.setdefault(key, proposer)
        cost = self._rate(asked) * sum((self._new(key, asked) for key in new), Fraction(0))
        left = self.budget - self._spent
        if cost > left:
            raise BudgetExhausted(_plain(cost), _plain(left))
        stream = self.evaluator.stream(list(new.values()), fidelity=asked)
        for (key, candidate), one in zip(new.items(), stream, strict=True):
            self.chosen_by[proposers[key]] += 1
            self._enter(candidate, one, phase, proposers[key])
        return [found[key] for key in keys]

    def recall(self, candidates: Sequence[Candidate]) -> int:
        """Take evaluations into the archive that an earlier life of the run paid for.

        They were charged then; nothing is scored or charged now, and what the store does not hold
        under the present conditions stays out. Call it after the search, whose decisions are its
        own.

        Args:
            candidates: All that the run asked in its earlier lives.

        Returns:
            Number of those that this life did not ask for.
        """
        missing = [candidate for candidate in candidates if not self.seen(candidate)]
        found = self.evaluator.stored(missing, self.fidelity)
        count = 0
        for candidate, evaluation in zip(missing, found, strict=True):
            if evaluation is not None:
                self.members.admit(candidate)
                self._enter(candidate, Scored(evaluation, cached=True), EARLIER)
                count += 1
        return count

    def price(self, fidelity: str | Fidelity | None = None) -> float:
        """What a candidate costs of which nothing has been asked, in evaluations."""
        asked = self.fidelity if fidelity is None else Fidelity.parse(fidelity)
        return float(self._share(asked) * self._rate(asked))

    @property
    def failed(self) -> int:
        """Candidates of this run whose scoring failed."""
        return sum(not evaluation.ok for evaluation in self._evaluations.values())

    def rescore(
        self, candidates: Sequence[Candidate], split: Split = "test", secondary: bool = True
    ) -> list[Evaluation]:
        """Score candidates on another split; free, and without effect on archive and budget.

        Args:
            candidates: Candidates.
            split: The split.
            secondary: Whether secondary metrics are needed.

        Returns:
            One evaluation per candidate, in order.
        """
        return self.evaluator.evaluate(candidates, split, secondary=secondary)

    @property
    def _spent(self) -> Fraction:
        return self._used["full"] + self.proxy_cost * self._used["proxy"]

    def _check(self, candidate: Candidate) -> None:
        # A whole member belongs to the parameter level, which the limits say nothing about.
        path = candidate.path
        if path == LayerPath.whole(path.stem, self.pool.num_layers):
            return
        if not self.limits.allows(path):
            raise InputError(
                f"the path {candidate.path} breaks the limits {self.limits}",
                "propose legal paths only, or widen the limits (paths.*)",
            )

    def _found(self, asked: Fidelity) -> dict[str, Evaluation]:
        """This run's evaluations at a fidelity, by key."""
        if asked == self.fidelity:
            return self._evaluations
        return self._lower.setdefault(asked, {})

    def _share(self, asked: Fidelity) -> Fraction:
        """Share of the search items that a fidelity asks; all tasks together."""
        some, every = (
            sum(map(len, self.evaluator.items("search", fidelity).values()))
            for fidelity in (asked, FULL)
        )
        return Fraction(some, every)

    def _new(self, key: str, asked: Fidelity) -> Fraction:
        """Share of a candidate's items that this run has not asked for yet."""
        before = self._asked.get((key, asked.measure), Fraction(0))
        return max(self._share(asked) - before, Fraction(0))

    def _rate(self, asked: Fidelity) -> Fraction:
        return self.proxy_cost if asked.proxy else Fraction(1)

    def _enter(
        self, candidate: Candidate, one: Scored, phase: str, chosen_by: str | None = None
    ) -> None:
        """Note an evaluation; what nobody chose is free."""
        evaluation, archive = one.evaluation, self.archive
        key, asked = evaluation.key, Fidelity.parse(evaluation.fidelity)
        self._candidates[key] = candidate
        self._found(asked)[key] = evaluation
        # A failure is never a score: it is charged and remembered, but no point of the archive.
        decides = asked == self.fidelity
        enters = evaluation.ok and decides
        on_front = archive.add(key, evaluation.vector) if enters else False
        if chosen_by is None:
            self._asked[key, "full"] = self._asked[key, "proxy"] = Fraction(1)
        share = self._new(key, asked)
        if share:
            self._asked[key, asked.measure] = self._share(asked)
            self._used[asked.measure] += share
            self.trace.append(TracePoint(self.used, key, archive.hypervolume()))
        self.logger.evaluation(
            EvaluationEvent(
                used=self.used,
                phase=phase,
                key=key,
                text=str(candidate.path),
                candidate=candidate.to_dict(),
                scores=dict(zip(self.objectives, evaluation.scores, strict=True))
                if evaluation.ok
                else {},
                hypervolume=archive.hypervolume(),
                on_front=on_front,
                seconds=0.0 if one.cached else evaluation.total_seconds,
                cached=one.cached,
                failed=not evaluation.ok,
                fidelity=evaluation.fidelity,
                decides=decides,
                chosen_by=chosen_by or phase,
            )
        )


def _plain(amount: Fraction) -> float:
    """An integer where it is one, so that budgets of whole evaluations stay whole."""
    return int(amount) if amount.denominator == 1 else float(amount)
