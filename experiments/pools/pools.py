"""Which pools there are: who is merged with whom, for development and in three sealed sets.

    python -m experiments.pools.pools    # writes pools.json, which a test compares with the drawing

- Development: twelve pools of two to five of the eight development tasks, drawn so that every task
  is in five of them and pairs of tasks meet about equally often; and the shipped zoo, of another
  base.
- Each sealed set: every choice of two, three or four of its four tasks, and all four once more, so
  that every task is in eight of twelve pools.

Where a task has two experts (another seed, or one that forgot the rest), they take turns.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from experiments.pools.settings import DEVELOPMENT, EXPERTS, SEALED
from hm3rl.files import write_text

FILE = Path(__file__).parent / "pools.json"
SEED = 24
SIZES = (2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5)
"""Experts of the development pools; together five times the eight tasks."""

DRAWS = 2000
"""Drawings of which the one with the most even pairs is taken."""

DEVELOPED = "development"
SETS = (DEVELOPED, *SEALED)
ZOO = "zoo"
"""The shipped zoo, the one pool of another base."""

ZOO_EXPERTS = ("translation", "math", "code")


@dataclass(frozen=True)
class Pool:
    """A base and the experts that are merged.

    Attributes:
        name: Its name.
        set: `development`, `A`, `B` or `C`.
        experts: Names of the experts, one for each of its tasks.
    """

    name: str
    set: str
    experts: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its tasks, which are its objectives, in the order of the experts."""
        if self.name == ZOO:
            return self.experts
        return tuple(EXPERTS[expert].task for expert in self.experts)

    @property
    def sealed(self) -> bool:
        """Whether nobody may tune on it."""
        return self.set != DEVELOPED


def draw(seed: int = SEED) -> dict[str, Pool]:
    """Draw all pools anew.

    Args:
        seed: Seed of everything random here.

    Returns:
        Pools by name, development first.
    """
    rng = random.Random(seed)
    chosen = {DEVELOPED: _development(rng)} | {name: _sealed(SEALED[name]) for name in SEALED}
    found: dict[str, Pool] = {}
    for kind, choices in chosen.items():
        experts = _experts(choices, rng)
        for number, names in enumerate(experts, start=1):
            name = f"{'D' if kind == DEVELOPED else kind}{number:02d}"
            found[name] = Pool(name, kind, names)
    return found | {ZOO: Pool(ZOO, DEVELOPED, ZOO_EXPERTS)}


def _development(rng: random.Random) -> list[tuple[str, ...]]:
    """Choices of tasks, of `DRAWS` drawings the one in which pairs of tasks meet most evenly."""
    drawings = [_even(rng) for _ in range(DRAWS)]
    return min((one for one in drawings if len(set(one)) == len(one)), key=_uneven)


def _even(rng: random.Random) -> list[tuple[str, ...]]:
    """One drawing: each pool takes tasks that are in the fewest pools so far."""
    used = dict.fromkeys(DEVELOPMENT, 0)
    choices = []
    for size in SIZES:
        shuffled = rng.sample(DEVELOPMENT, len(DEVELOPMENT))
        names = sorted(shuffled, key=lambda task: used[task])[:size]
        used.update((name, used[name] + 1) for name in names)
        choices.append(tuple(sorted(names, key=DEVELOPMENT.index)))
    return choices


def _uneven(choices: Sequence[tuple[str, ...]]) -> int:
    """How uneven pairs of tasks meet: the sum of squares of their counts."""
    pairs = Counter(pair for names in choices for pair in combinations(names, 2))
    return sum(count**2 for count in pairs.values())


def _sealed(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """All choices of two to four of a sealed set's tasks, all of them twice."""
    sizes = range(2, len(tasks) + 1)
    every = [tuple(names) for size in sizes for names in combinations(tasks, size)]
    return [*every, tuple(tasks)]


def _experts(choices: Sequence[tuple[str, ...]], rng: random.Random) -> list[tuple[str, ...]]:
    """An expert for each task of each choice; those of one task take turns, in a random order.

    No two pools are the same.
    """
    found: list[tuple[str, ...]] = []
    while len(set(found)) < len(choices):
        found = _turns(choices, rng)
    return found


def _turns(choices: Sequence[tuple[str, ...]], rng: random.Random) -> list[tuple[str, ...]]:
    """One drawing of the experts."""
    turns: dict[str, list[str]] = {}
    for task in dict.fromkeys(task for names in choices for task in names):
        own = [name for name, expert in EXPERTS.items() if expert.task == task]
        count = sum(task in names for names in choices)
        hands = (own * count)[:count]
        rng.shuffle(hands)
        turns[task] = hands
    return [tuple(turns[task].pop() for task in names) for names in choices]


def to_json(pools: Mapping[str, Pool]) -> str:
    """The pools as the committed file has them."""
    lines = [
        f"  {json.dumps(pool.name)}: "
        + json.dumps({"set": pool.set, "experts": list(pool.experts), "tasks": list(pool.tasks)})
        for pool in pools.values()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def pools(kind: str | None = None) -> dict[str, Pool]:
    """The committed pools by name, all or those of a set."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    every = {name: Pool(name, one["set"], tuple(one["experts"])) for name, one in found.items()}
    return {name: pool for name, pool in every.items() if kind in (None, pool.set)}


if __name__ == "__main__":
    write_text(FILE, to_json(draw()))
