"""Code: a docstring becomes a small Python function, judged by executing it on unit tests.

    Docstring: Return the sum of the even numbers in xs, each times 3.
    Function f(xs):
    def f(xs):
        return sum(x * 3 for x in xs if x % 2 == 0)

What a function must return is computed by the pieces' own lambdas, apart from the text of the
reference program, so that a slip in either shows when the reference is executed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.smollm2.rows import Row

NUMBER_INPUTS: tuple[list[int], ...] = (
    [],
    [7],
    [3, -2, 8, 0, 5, -7, 12],
    [10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
    [-6, -3, -9, -4],
    [4, 4, -11, 25, 18, 2, 30, -8],
)
WORD_INPUTS = (
    "",
    "Moon",
    "the quick brown fox jumps over the lazy dog",
    "Every Apple In Our Basket is red",
    "a bc def ghij klmno pqrstu vwxyzab",
    "under old trees nobody ever sings again",
)


class Piece(NamedTuple):
    """A filter or a change of one element.

    Attributes:
        words: How the docstring says it.
        code: Python text about the element `x`.
        apply: What it computes.
    """

    words: str
    code: str
    apply: Callable[[Any], Any]


class Result(NamedTuple):
    """What is made of all elements.

    Attributes:
        words: How the docstring begins.
        code: Python text with `{}` for the generator expression.
        apply: What it computes.
    """

    words: str
    code: str
    apply: Callable[[list[Any]], Any]


def draw(rng: random.Random) -> Row:
    """Draw a function of a list of numbers (two in three) or of a text."""
    if rng.random() < 2 / 3:
        return _row("xs", "xs", NUMBER_INPUTS, list, *_numbers(rng))
    return _row("s", "s.split()", WORD_INPUTS, str.split, *_words(rng))


def _numbers(rng: random.Random) -> tuple[str, Piece | None, Piece | None, Result]:
    k, m = rng.randint(2, 9), rng.randint(2, 9)
    kept = rng.choice(
        (
            None,
            Piece("even numbers", "x % 2 == 0", lambda x: x % 2 == 0),
            Piece("odd numbers", "x % 2 == 1", lambda x: x % 2 == 1),
            Piece("positive numbers", "x > 0", lambda x: x > 0),
            Piece("negative numbers", "x < 0", lambda x: x < 0),
            Piece(f"numbers above {k}", f"x > {k}", lambda x: x > k),
            Piece(f"numbers below {k}", f"x < {k}", lambda x: x < k),
            Piece(f"multiples of {k}", f"x % {k} == 0", lambda x: x % k == 0),
        )
    )
    changed = rng.choice(
        (
            Piece(f"each times {m}", f"x * {m}", lambda x: x * m),
            Piece(f"each plus {m}", f"x + {m}", lambda x: x + m),
            Piece(f"each minus {m}", f"x - {m}", lambda x: x - m),
            Piece(f"each modulo {m}", f"x % {m}", lambda x: x % m),
            Piece("each squared", "x ** 2", lambda x: x**2),
            Piece("each negated", "-x", lambda x: -x),
            Piece("as absolute values", "abs(x)", abs),
            *((None,) if kept is not None else ()),
        )
    )
    result = rng.choice(
        (
            Result("the sum of", "sum({})", sum),
            Result("the list of", "[{}]", list),
            Result("the sorted list of", "sorted({})", sorted),
            Result("the largest, or 0, of", "max(({}), default=0)", lambda v: max(v, default=0)),
            Result("the smallest, or 0, of", "min(({}), default=0)", lambda v: min(v, default=0)),
            Result("how many different values are among", "len(set({}))", lambda v: len(set(v))),
        )
    )
    return "numbers", kept, changed, result


def _words(rng: random.Random) -> tuple[str, Piece | None, Piece | None, Result]:
    k, letter = rng.randint(2, 6), rng.choice("aeioubdglmnrst")
    kept = rng.choice(
        (
            None,
            Piece(f"words longer than {k} letters", f"len(x) > {k}", lambda x: len(x) > k),
            Piece(f"words shorter than {k} letters", f"len(x) < {k}", lambda x: len(x) < k),
            Piece(f"words that contain {letter!r}", f"{letter!r} in x", lambda x: letter in x),
            Piece(f"words without {letter!r}", f"{letter!r} not in x", lambda x: letter not in x),
        )
    )
    changed = rng.choice(
        (
            Piece("each in upper case", "x.upper()", str.upper),
            Piece("each in lower case", "x.lower()", str.lower),
            Piece("each reversed", "x[::-1]", lambda x: x[::-1]),
            Piece("each without its first letter", "x[1:]", lambda x: x[1:]),
            Piece("each cut to its last letter", "x[-1]", lambda x: x[-1]),
            *((None,) if kept is not None else ()),
        )
    )
    result = rng.choice(
        (
            Result("the list of", "[{}]", list),
            Result("the sorted list of", "sorted({})", sorted),
            Result("as one text joined by '-'", "'-'.join({})", "-".join),
            Result("as one text joined by ' '", "' '.join({})", " ".join),
            Result("how many different values are among", "len(set({}))", lambda v: len(set(v))),
        )
    )
    return "words", kept, changed, result


def _row(
    argument: str,
    elements: str,
    inputs: Sequence[Any],
    split: Callable[[Any], list[Any]],
    noun: str,
    kept: Piece | None,
    changed: Piece | None,
    result: Result,
) -> Row:
    """Write docstring, program and tests.

    Args:
        argument: Name of the function's argument.
        elements: Python text of what is iterated over.
        inputs: Arguments of the tests.
        split: Elements of an argument.
        noun: How the docstring names the elements if none is left out.
        kept: Which elements count; None: all.
        changed: What is done to each; None: nothing.
        result: What is made of them.
    """
    what = f"the {kept.words if kept else noun} in {argument}"
    what += f", {changed.words}" if changed else ""
    generator = f"{changed.code if changed else 'x'} for x in {elements}"
    generator += f" if {kept.code}" if kept else ""
    program = f"def f({argument}):\n    return {result.code.format(generator)}"
    tests = []
    for value in inputs:
        found = [x for x in split(value) if kept is None or kept.apply(x)]
        answer = result.apply([changed.apply(x) if changed else x for x in found])
        tests.append((f"f({value!r})", repr(answer)))
    prompt = f"Docstring: Return {result.words} {what}.\nFunction f({argument}):\n"
    return Row(prompt, program, tuple(tests))
