"""A study as data: its variants, budgets and seeds, and what is written from the finished searches.

The folder of a study holds `study.py` with one `STUDY`; `experiments.run` runs it. Each search is
one job of `hm3rl search -m`, in a folder of its own: `ROOT/<runs>/<variant>/budget<B>-seed<S>`.
Studies that name the same `runs` share their searches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hm3rl.config.compose import compose_settings
from hm3rl.config.explain import dotted_keys

ZOO_TASKS = ("translation", "math", "code")
SHRUNK_ITEMS = 24
SHRUNK_BUDGETS = {7: 7, 30: 12, 40: 13, 100: 14, 300: 18, 1000: 22, 3000: 26}
"""Budgets of a shrunk run by those of the study; enough for every phase of every method."""

SHRUNK_WORDS = (
    "agent.pretrain_steps=30",
    "agent.distil_steps=30",
    "agent.replay_steps=2",
    "agent.acquisition.proposals=120",
    "agent.model_generated=8",
    "surrogate.fit_steps=8",
    "search.parameter.members=2",
    "search.generations=2",
    "search.samples=8",
    "agent.preferences=2",
)
"""What shortens a search besides few items: little training, few members and generations."""


def understood(words: Sequence[str], shared: Sequence[str]) -> tuple[str, ...]:
    """Words for every method, without options of searcher and agent that this one does not have.

    Args:
        words: The method's own overrides; `search=NAME` and `agent=NAME` among them say which
            parts it has, by default HM3's.
        shared: Overrides for all methods.

    Returns:
        Those of `shared` that its searcher and its agent know.
    """
    parts = tuple(f"{kind}=" for kind in ("search", "agent", "plugins"))
    made = compose_settings([word for word in words if word.startswith(parts)])
    known = {*dotted_keys(type(made.search), "search."), *dotted_keys(type(made.agent), "agent.")}
    return tuple(
        one
        for one in shared
        if not one.startswith(("search.", "agent.")) or one.partition("=")[0] in known
    )


@dataclass(frozen=True)
class Variant:
    """One row of a study: a method, or a method with something changed.

    Attributes:
        words: Hydra overrides that make it.
        seeds: Number of seeds by budget; seeds count from 0.
        prefixes: Budgets read off the longest search instead of being run: only for methods whose
            decisions do not depend on the budget, so that a search is a prefix of any longer one.
        tasks: Its tasks.
    """

    words: tuple[str, ...]
    seeds: Mapping[int, int]
    prefixes: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ZOO_TASKS

    def shrunk(self, seeds: int = 1) -> Variant:
        """The same in seconds: few items, little training, small budgets, at most `seeds` seeds."""
        items = tuple(
            f"tasks.{task}.{split}_items={SHRUNK_ITEMS}"
            for task in self.tasks
            for split in ("search", "test")
        )
        return replace(
            self,
            words=(*self.words, *items, *understood(self.words, SHRUNK_WORDS)),
            seeds={SHRUNK_BUDGETS[b]: min(count, seeds) for b, count in self.seeds.items()},
            prefixes=tuple(SHRUNK_BUDGETS[budget] for budget in self.prefixes),
        )


@dataclass(frozen=True)
class Context:
    """What a study's `write` gets.

    Attributes:
        root: Folder of all runs.
        results: Folder that receives tables and figures.
        shrunk: Whether this is a shrunk run; what is measured beyond the searches then shrinks too.
        committed: Results folders whose searches count beside those under `root`.
    """

    root: Path
    results: Path
    shrunk: bool = False
    committed: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Study:
    """A question and the searches that answer it.

    Attributes:
        name: Name, of its folder too.
        variants: Rows by name.
        write: Writes tables and figures from the finished searches; `write(study, context)`.
        runs: Study whose run folders and name of runs this one shares; empty: its own.
        words: Hydra overrides that all of its searches have in common.
        shrunk_seeds: Seeds of a shrunk run; its tables have intervals from two on.
        in_all: Whether it is one of the studies that `all` stands for.
        adds: Whether its tables can be made from committed results beside run folders (`--add`).
        needs: Says what is missing on this machine, and how to get it; empty: nothing.
    """

    name: str
    variants: Mapping[str, Variant]
    write: Callable[[Study, Context], None] = field(repr=False)
    runs: str = ""
    words: tuple[str, ...] = ("threads=1",)
    shrunk_seeds: int = 1
    in_all: bool = True
    adds: bool = False
    needs: Callable[[], str] = field(default=str, repr=False)

    @property
    def owner(self) -> str:
        """The study whose searches these are: their name, and their folder under the root."""
        return self.runs or self.name

    def shrunk(self) -> Study:
        """The study in a form that takes a minute."""
        small = {name: v.shrunk(self.shrunk_seeds) for name, v in self.variants.items()}
        return replace(self, variants=small)

    def limited(
        self, variants: Sequence[str] = (), seeds: Sequence[int] = (), budgets: Sequence[int] = ()
    ) -> list[Job]:
        """The searches it needs.

        Args:
            variants: Only these; empty: all.
            seeds: These instead of the study's own.
            budgets: These instead of the study's own.

        Returns:
            One job for each variant, budget and seed.
        """
        return [
            Job(self.owner, name, budget, seed, (*self.words, *variant.words))
            for name, variant in self.variants.items()
            if not variants or name in variants
            for budget in (budgets or variant.seeds)
            for seed in (seeds or range(variant.seeds.get(budget, 0)))
        ]


@dataclass(frozen=True)
class Job:
    """One search.

    Attributes:
        owner: Study whose search it is.
        variant: Row.
        budget: Evaluations.
        seed: Seed.
        words: Hydra overrides of the study and the row.
    """

    owner: str
    variant: str
    budget: int
    seed: int
    words: tuple[str, ...]

    def sweep(self, root: Path) -> Path:
        """Folder of the sweep it belongs to."""
        return root / self.owner / self.variant

    def folder(self, root: Path) -> Path:
        """Its run folder."""
        return self.sweep(root) / f"budget{self.budget}-seed{self.seed}"
