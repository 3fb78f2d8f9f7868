"""How a test of a generated program is read, and whether an answer passes it.

A test is an expression and what it has to give. The expression is evaluated in the program's own
process, where an object of the program's may answer every comparison as it likes. So `EXPR ==
LITERAL`, expected True, is not compared there: only EXPR is evaluated, and what it gave comes back
as a plain value and is compared with the literal here. Any other expected text is compared with the
`repr` that comes back.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from hm3rl.errors import InputError


@dataclass(frozen=True)
class ProgramTest:
    """A test as it is put to a program.

    Attributes:
        expression: What the program's process evaluates.
        form: What it sends back: "repr", or "plain" for a plain value.
        expected: The `repr`, or the value, that passes.
        fakeable: The expression compares by itself, so the program's objects decide what comes of
            it: one that is equal to everything may pass.
    """

    expression: str
    form: str
    expected: Any
    fakeable: bool = False

    def passes(self, answer: object) -> bool:
        """Whether what came back passes; None if the expression raised, or gave no plain value."""
        if self.form == "repr":
            return answer == self.expected
        try:
            return isinstance(answer, list) and len(answer) == 1 and _same(answer[0], self.expected)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return False  # no encoding of a value: the program wrote it on the pipe itself


@lru_cache(maxsize=1 << 16)
def read_test(expression: str, expected: str) -> ProgramTest:
    """Read a test.

    Args:
        expression: A Python expression.
        expected: The `repr` of its value.

    Raises:
        InputError: The expression is no Python.
    """
    try:
        body = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(
            f"the test {expression[:80]!r} is no Python expression ({error})",
            'a test is a pair of an expression and the repr of its value, as ["f(1)", "2"]',
        ) from None
    if expected == "True" and isinstance(body, ast.Compare) and len(body.ops) == 1:
        sides = (body.left, body.comparators[0])
        for side, other in (sides, sides[::-1]):
            if isinstance(body.ops[0], ast.Eq) and (literal := _literal(other)) is not None:
                # As it is written: turning a long expression back into text would recurse. The
                # brackets let it go over several lines, as it may inside the test's own.
                text = f"({ast.get_source_segment(expression, side)})"
                return ProgramTest(text, "plain", literal[0])
    compares = any(
        not isinstance(operator, ast.Is | ast.IsNot)  # these ask no object
        for node in ast.walk(body)
        if isinstance(node, ast.Compare)
        for operator in node.ops
    )
    return ProgramTest(expression, "repr", expected, compares)


def _literal(node: ast.expr) -> tuple[object] | None:
    """The value of a literal, in a tuple; None if it is none."""
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


_KINDS: dict[str, Callable[[Any], Hashable]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "ratio": lambda parts: Fraction(*(int(part, 16) for part in parts)),
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "bytes": bytes.fromhex,
    "tuple": lambda items: tuple(map(_key, items)),
    "ellipsis": lambda _: ...,
}
"""Kinds of values that can be in a set or a key, by their name in `sandbox_worker.plain`."""

_UNHASHABLE = ("set", "dict")


def _key(sent: object) -> Hashable:
    """Read a value that can be in a set or a key."""
    if sent is None or isinstance(sent, bool | str | int | float):
        return sent
    kind, content = _tagged(sent)
    return _KINDS[kind](content)


def _tagged(sent: object) -> tuple[str, Any]:
    if isinstance(sent, dict) and len(sent) == 1:
        kind, content = next(iter(sent.items()))
        if kind in _KINDS or kind in _UNHASHABLE:
            return kind, content
    raise ValueError("no encoding of a value")


def _same(sent: object, literal: object) -> bool:
    """Whether a value equals a literal; costs no more than the literal is large.

    Args:
        sent: The value as `sandbox_worker.plain` encodes it, if the program has not forged it.
        literal: The literal's value.

    Raises:
        ValueError, TypeError, OverflowError, RecursionError: What was sent encodes no value.
    """
    if isinstance(sent, list):
        return isinstance(literal, list) and _all_same(sent, literal)
    if sent is None or isinstance(sent, bool | str | int | float):
        return bool(sent == literal)
    kind, content = _tagged(sent)
    if kind == "tuple":
        return isinstance(literal, tuple) and _all_same(content, literal)
    if kind == "set":
        # Sizes first: a large set of numbers that share a hash takes minutes to read.
        sizes = isinstance(literal, set) and len(content) == len(literal)
        return sizes and {_key(one) for one in content} == literal
    if kind == "dict":
        if not isinstance(literal, dict) or len(content) != len(literal):
            return False
        found = {_key(key): value for key, value in content}
        return found.keys() == literal.keys() and all(
            _same(value, literal[key]) for key, value in found.items()
        )
    return bool(_KINDS[kind](content) == literal)


def _all_same(sent: list[object], literal: list[object] | tuple[object, ...]) -> bool:
    return len(sent) == len(literal) and all(map(_same, sent, literal))
