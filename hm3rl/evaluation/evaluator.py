"""The evaluator: the only way in the package to the score of a model.

It knows under what conditions a score holds; what has been scored lies in the store, what is new is
computed by a backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hm3rl.errors import InputError
from hm3rl.evaluation.backends.base import Backend
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.conditions import attention_suffix, scored_suite
from hm3rl.evaluation.costs import Minimised, PathLength, minimised, objectives, with_costs
from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.evaluation.round import Round, Scored, Totals
from hm3rl.evaluation.store import Condition, EvaluationStore
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split, Task
from hm3rl.tasks.suite import check_tasks

SPLITS: tuple[Split, ...] = ("search", "test")
"""Splits that are scored."""


class Evaluator:
    """Scores candidates on tasks; asks the store first and commits every result at once.

    Args:
        members: The sources and merged members that candidates are made of.
        tasks: The tasks, in the order of all score vectors (costs take their places among them).
        store: Where evaluations are kept.
        batch_size: Most items in one forward pass, for the backend in this process.
        backend: What computes; None: this process.
        costs: Objectives beside the tasks that need no model, by ascending place.

    Raises:
        InputError: The tasks cannot be scored.
    """

    def __init__(
        self,
        members: MemberSet,
        tasks: Sequence[Task],
        store: EvaluationStore,
        batch_size: int = 256,
        backend: Backend | None = None,
        costs: Sequence[PathLength] = (),
    ) -> None:
        self.members = members
        self.pool = members.pool
        self.tasks = check_tasks(tasks)
        self.costs = tuple(costs)
        self.store = store
        if backend is None:
            backend = InProcessBackend(members, self.tasks, batch_size)
        self.backend = backend
        self.totals = Totals()
        self._conditions: dict[Split, Condition] = {}
        self._items: dict[tuple[Split, Fidelity], dict[str, tuple[int, ...]]] = {}

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the tasks and costs, in the order of all score vectors."""
        return objectives(self.tasks, self.costs)

    @property
    def minimised(self) -> dict[str, Minimised]:
        """The objectives to be minimised, and how their utilities read as costs."""
        return minimised(self.tasks, self.costs)

    def key(self, candidate: Candidate) -> str:
        """Content hash of a candidate."""
        return candidate.key(self.pool.hashes)

    def condition(self, split: Split, fidelity: str | Fidelity = FULL) -> Condition:
        """Under what this evaluator scores; with the candidate's key it names an evaluation."""
        if split not in self._conditions:
            self._conditions[split] = Condition(
                suite=scored_suite(self.tasks, split, self.pool.tokenizer),
                split=split,
                dtype=str(self.pool.dtype).removeprefix("torch."),
                backend=self.backend.name,
            )
        return self._conditions[split]._replace(fidelity=str(fidelity))

    def adopt_older_conditions(self) -> None:
        """Let evaluations answer that a store holds under a condition that said less.

        Only for the store of one run: all of it was computed as that run's configuration says, so
        what the older condition did not say cannot differ. In a shared store it may.
        """
        said_now = attention_suffix(self.pool)
        for split in SPLITS if said_now else ():
            condition = self.condition(split)
            older = condition._replace(backend=condition.backend.removesuffix(said_now))
            self.store.rename(older, condition)

    def items(self, split: Split, fidelity: str | Fidelity = FULL) -> dict[str, tuple[int, ...]]:
        """Numbers of the items that a fidelity asks, by task."""
        asked = Fidelity.parse(fidelity)
        if (split, asked) not in self._items:
            self._items[split, asked] = {
                task.name: asked.numbers(task.items(split)) for task in self.tasks
            }
        return self._items[split, asked]

    def prepare(self, split: Split) -> None:
        """Encode all items of a split, so that bad ones are refused before long work.

        Raises:
            InputError: An item does not fit the models.
        """
        self.backend.prepare(split)

    def evaluate(
        self,
        candidates: Sequence[Candidate],
        split: Split = "search",
        fidelity: str | Fidelity = FULL,
        secondary: bool = False,
    ) -> list[Evaluation]:
        """Score candidates.

        Args:
            candidates: Candidates, repeats possible.
            split: Split of the items.
            fidelity: On which share of the items, and how; see `Fidelity.parse`. Items that the
                store knows from another share are not run again.
            secondary: Whether the tasks' secondary metrics are needed, too.

        Returns:
            One evaluation per candidate, in order; each is in the store already.

        Raises:
            InputError: Unknown fidelity, secondary metrics of a proxy, or a candidate that cannot
                exist.
        """
        scored = self.stream(candidates, split, fidelity, secondary)
        return [one.evaluation for one in scored]

    def stream(
        self,
        candidates: Sequence[Candidate],
        split: Split = "search",
        fidelity: str | Fidelity = FULL,
        secondary: bool = False,
    ) -> Iterator[Scored]:
        """Score candidates one after the other, in order; see `evaluate`."""
        asked = Fidelity.parse(fidelity)
        if secondary and asked.proxy:
            raise InputError(
                f"fidelity {asked} decodes nothing, so it has no secondary metrics",
                f"ask for {FULL!r} or items:SHARE",
            )
        keys = [self.key(candidate) for candidate in candidates]
        current = self._round(split, asked, secondary)
        for candidate, one in zip(candidates, current.stream(keys, candidates), strict=True):
            yield Scored(with_costs(one.evaluation, candidate, self.costs), one.cached)

    def stored(
        self, candidates: Sequence[Candidate], fidelity: str | Fidelity = FULL
    ) -> list[Evaluation | None]:
        """Look search evaluations up; nothing is scored.

        Args:
            candidates: Candidates.
            fidelity: On which share of the items, and how.

        Returns:
            One for each candidate, in order; None where the store has none.
        """
        keys = [self.key(candidate) for candidate in candidates]
        found = self._round("search", Fidelity.parse(fidelity)).stored(keys, candidates)
        return [
            with_costs(found[key], candidate, self.costs) if key in found else None
            for key, candidate in zip(keys, candidates, strict=True)
        ]

    def _round(self, split: Split, asked: Fidelity, secondary: bool = False) -> Round:
        condition, items = self.condition(split, asked), self.items(split, asked)
        return Round(self.store, self.backend, self.totals, condition, items, secondary)

    def close(self) -> None:
        """Give back what the backend holds (processes); the store stays open."""
        self.backend.close()
