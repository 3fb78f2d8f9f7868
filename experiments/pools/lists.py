"""Tasks about lists: counting, edits, sorting by a key, brackets, sets, repeats, runs, places."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from itertools import groupby

from experiments.pools.grammar import DIGITS, THINGS, GrammarTask, joined, things
from hm3rl.tasks.synthetic_text import Level

Words = tuple[list[str], list[str]]


def counting(rng: random.Random, level: Level) -> Words:
    """How often each thing stands in a list, in the order of first appearance."""
    length = rng.randint(3, 4) if level == "easy" else rng.randint(3, 7)
    kinds = things(rng, rng.randint(2, 3))
    listed = [rng.choice(kinds) for _ in range(length)]
    answer = [word for thing, count in Counter(listed).items() for word in (thing, str(count))]
    return ["count", *listed], answer


def edits(rng: random.Random, level: Level) -> Words:
    """A list copied without, with twice, or with another thing in the place of one."""
    easy = level == "easy"
    listed = things(rng, rng.randint(3, 4) if easy else rng.randint(3, 6))
    chosen = rng.choice(listed)
    kind = rng.choice(["without", "twice"] if easy else ["without", "twice", "instead", "swap"])
    if kind == "without":
        return ["copy", *listed, kind, chosen], [thing for thing in listed if thing != chosen]
    if kind == "twice":
        answer = [word for thing in listed for word in [thing] * (1 + (thing == chosen))]
        return ["copy", *listed, kind, chosen], answer
    if kind == "instead":
        new = rng.choice([thing for thing in THINGS if thing not in listed])
        answer = [new if thing == chosen else thing for thing in listed]
        return ["copy", *listed, new, kind, chosen], answer
    other = rng.choice([thing for thing in listed if thing != chosen])
    places = {chosen: other, other: chosen}
    answer = [places.get(thing, thing) for thing in listed]
    return ["copy", *listed, kind, chosen, other], answer


def by_key(rng: random.Random, level: Level) -> Words:
    """Things in the order of the number that stands behind each."""
    length = 3 if level == "easy" else rng.randint(3, 5)
    listed, keys = things(rng, length), rng.sample(range(10), length)
    prompt = [word for thing, key in zip(listed, keys, strict=True) for word in (thing, str(key))]
    order = sorted(range(length), key=lambda place: keys[place])
    if level == "full" and rng.random() < 0.4:
        return ["rank", "down", *prompt], [listed[place] for place in reversed(order)]
    return ["rank", "up", *prompt], [listed[place] for place in order]


PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def brackets(rng: random.Random, level: Level) -> Words:
    """The brackets that close what is open; on the full level some are closed already."""
    stack: list[str] = []
    written: list[str] = []
    steps = rng.randint(2, 4) if level == "easy" else rng.randint(3, 9)
    for _ in range(steps):
        if level == "full" and stack and rng.random() < 0.35:
            written.append(PAIRS[stack.pop()])
        elif len(stack) < 6:
            stack.append(rng.choice(list(PAIRS)))
            written.append(stack[-1])
    if not stack:
        stack.append("(")
        written.append("(")
    return ["close", *written], [PAIRS[mark] for mark in reversed(stack)]


def sets(rng: random.Random, level: Level) -> Words:
    """What two lists have in common, what only the first has, or what either has."""
    kind = "common" if level == "easy" else rng.choice(["common", "only", "either"])
    shared = things(rng, 7)
    first = shared[: rng.randint(2, 4)]
    second = rng.sample(first, rng.randint(1, len(first) - 1)) + shared[5 : 5 + rng.randint(0, 2)]
    rng.shuffle(second)
    prompt = [kind, *first, "and", *second]
    if kind == "common":
        return prompt, [thing for thing in first if thing in second]
    if kind == "only":
        return prompt, [thing for thing in first if thing not in second]
    return prompt, [*first, *(thing for thing in second if thing not in first)]


def unique(rng: random.Random, level: Level) -> Words:
    """A list without its repeats."""
    length = rng.randint(3, 4) if level == "easy" else rng.randint(3, 8)
    kinds = things(rng, rng.randint(2, 5))
    listed = [rng.choice(kinds) for _ in range(length)]
    return ["unique", *listed], list(dict.fromkeys(listed))


def runs(rng: random.Random, level: Level) -> Words:
    """Run-length encoding of letters."""
    count = rng.randint(1, 2) if level == "easy" else rng.randint(1, 5)
    letters: list[str] = []
    for _ in range(count):
        letter = rng.choice([x for x in "abcdef" if not letters or x != letters[-1]])
        letters += [letter] * rng.randint(1, 4)
    answer = [word for key, run in groupby(letters) for word in (key, str(len(list(run))))]
    return ["runs", *letters], answer


def picking(rng: random.Random, level: Level) -> Words:
    """The things at given places of a list, on the full level counted from its end, too."""
    length = rng.randint(3, 4) if level == "easy" else rng.randint(3, 7)
    listed = things(rng, length)
    places = rng.sample(range(length), 2)
    ends = [level == "full" and rng.random() < 0.4 for _ in places]
    asked = [
        ["last", str(length - place)] if end else [str(place + 1)]
        for place, end in zip(places, ends, strict=True)
    ]
    return ["pick", *joined(asked, "and"), "of", *listed], [listed[place] for place in places]


def list_tasks(n_search: int, n_test: int) -> tuple[GrammarTask, ...]:
    """Return the tasks of this file, with so many items of each split."""
    task = partial(GrammarTask, n_search=n_search, n_test=n_test)
    marks = [mark for pair in PAIRS.items() for mark in pair]
    return (
        task("counting", counting, ["count", *THINGS, *DIGITS], 7),
        task("edits", edits, ["copy", "without", "twice", "instead", "swap", *THINGS], 8),
        task("by_key", by_key, ["rank", "up", "down", *THINGS, *DIGITS], 6),
        task("brackets", brackets, ["close", *marks], 8),
        task("sets", sets, ["common", "only", "either", "and", *THINGS], 8),
        task("unique", unique, ["unique", *THINGS], 6),
        task("runs", runs, ["runs", *"abcdef", *DIGITS], 11),
        task("picking", picking, ["pick", "last", "and", "of", *THINGS, *DIGITS], 3),
    )
