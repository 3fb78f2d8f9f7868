"""Arithmetic word problems with worked answers.

Question: Emma has 12 apples and buys 3 bags of 5. How many apples does Emma have now?
Answer: 3 * 5 = 15. 12 + 15 = 27. The answer is 27.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import NamedTuple

from experiments.smollm2.rows import Row

NAMES = (
    *("Emma", "Liam", "Olivia", "Noah", "Ava", "Lucas", "Mia", "Ethan", "Sofia", "James"),
    *("Amelia", "Henry", "Grace", "Jack", "Ruby", "Oscar", "Nora", "Felix", "Clara", "Hugo"),
)
THINGS = (
    *("apples", "books", "coins", "pencils", "stamps", "cards", "marbles", "shells", "stickers"),
    *("cookies", "flowers", "buttons", "oranges", "eggs", "candles", "tickets", "keys", "stones"),
)

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
"""What a step computes; divisions leave no remainder, as the kinds are drawn."""

Step = tuple[int, str, int]
"""Left number, operation, right number."""


class Story(NamedTuple):
    """A question and the steps that answer it; the last step's result is the answer."""

    question: str
    steps: tuple[Step, ...]


def _buys(rng: random.Random, who: str, what: str) -> Story:
    have, bags, each = rng.randint(5, 60), rng.randint(2, 9), rng.randint(2, 12)
    return Story(
        f"{who} has {have} {what} and buys {bags} bags of {each}. "
        f"How many {what} does {who} have now?",
        ((bags, "*", each), (have, "+", bags * each)),
    )


def _gives(rng: random.Random, who: str, what: str) -> Story:
    friends, each = rng.randint(2, 9), rng.randint(2, 9)
    have = friends * each + rng.randint(1, 40)
    return Story(
        f"{who} has {have} {what} and gives {each} to each of {friends} friends. "
        f"How many {what} are left?",
        ((friends, "*", each), (have, "-", friends * each)),
    )


def _shares(rng: random.Random, who: str, what: str) -> Story:
    children, each = rng.randint(2, 9), rng.randint(4, 12)
    total = children * each
    first = rng.randint(2, total - 2)
    return Story(
        f"{who} finds {first} {what} on Monday and {total - first} on Tuesday, and shares them "
        f"equally among {children} children. How many {what} does each child get?",
        ((first, "+", total - first), (total, "/", children)),
    )


def _pays(rng: random.Random, who: str, what: str) -> Story:
    price, count = rng.randint(2, 12), rng.randint(2, 9)
    paid = price * count + rng.randint(1, 30)
    return Story(
        f"{who} buys {count} {what} for {price} euros each and pays with {paid} euros. "
        "How many euros come back?",
        ((count, "*", price), (paid, "-", count * price)),
    )


def _compares(rng: random.Random, who: str, what: str) -> Story:
    other = rng.choice([name for name in NAMES if name != who])
    have, times, less = rng.randint(4, 15), rng.randint(2, 9), rng.randint(1, 7)
    return Story(
        f"{who} has {have} {what}. {other} has {times} times as many, less {less}. "
        f"How many {what} does {other} have?",
        ((times, "*", have), (times * have, "-", less)),
    )


def _packs(rng: random.Random, who: str, what: str) -> Story:
    bags, each, lost = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 20)
    have = bags * each + lost
    return Story(
        f"{who} has {have} {what}, loses {lost} and packs the rest into bags of {each}. "
        f"How many bags does {who} fill?",
        ((have, "-", lost), (have - lost, "/", each)),
    )


def _boxes(rng: random.Random, who: str, what: str) -> Story:
    red, in_red, blue, in_blue = (rng.randint(2, 9) for _ in range(4))
    return Story(
        f"{who} has {red} red boxes with {in_red} {what} each and {blue} blue boxes with "
        f"{in_blue} each. How many {what} does {who} have in all?",
        (
            (red, "*", in_red),
            (blue, "*", in_blue),
            (red * in_red, "+", blue * in_blue),
        ),
    )


KINDS = (_buys, _gives, _shares, _pays, _compares, _packs, _boxes)


def draw(rng: random.Random) -> Row:
    """Draw a problem."""
    story = rng.choice(KINDS)(rng, rng.choice(NAMES), rng.choice(THINGS))
    worked = [f"{a} {sign} {b} = {OPERATIONS[sign](a, b)}." for a, sign, b in story.steps]
    left, sign, right = story.steps[-1]
    answer = OPERATIONS[sign](left, right)
    return Row(
        f"Question: {story.question}\nAnswer:", f" {' '.join(worked)} The answer is {answer}."
    )
