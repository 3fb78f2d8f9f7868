"""Code: a chain of instructions about x becomes a Python expression, executed on unit tests.

"python add 3 then times 2 then modulo 5 =" is answered by "( ( x + 3 ) * 2 ) % 5". Scored by pass@1:
any program that passes the unit tests counts, so "2 * ( x + 3 ) % 5" is right as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hm3rl.tasks.base import Item, ProgramRunner
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise

INPUTS = (-1000, -97, -38, -11, -5, -2, -1, 0, 1, 2, 3, 6, 10, 17, 41, 99, 1234)
"""Values of x on which a program must agree with the reference."""

_ADD_SUBTRACT: dict[str, str] = {"add": "{} + {}", "subtract": "{} - {}"}
_TIMES_MODULO: dict[str, str] = {"times": "{} * {}", "modulo": "{} % {}"}
_OTHERS: dict[str, str] = {
    "divide": "{} // {}",
    "from": "{1} - {0}",
    "atmost": "min ( {} , {} )",
    "atleast": "max ( {} , {} )",
}
_UNARY: dict[str, str] = {"square": "{} ** 2", "absolute": "abs ( {} )", "negate": "- {}"}

INSTRUCTIONS: dict[str, str] = {**_ADD_SUBTRACT, **_TIMES_MODULO, **_OTHERS, **_UNARY}
"""Instruction word -> Python template of (expression so far, operand)."""

EASY = ("add", "subtract", "times", "modulo", "atmost", "square", "negate")
"""Instructions of the easy level."""


class CodeTask(SyntheticTask):
    """Instruction chains of length two and three.

    Args:
        runner: Executes the programs; needed for scoring only.
        n_search: Number of search items.
        n_test: Number of test items.
        n_train: Number of items in the training view.
        seed: Seed of the held-out items.
    """

    name = "code"
    metric = "pass_at_1"
    max_new_tokens = 22
    exact_implies_one = True
    exact_only = False
    version = "code-1"

    def __init__(
        self,
        runner: ProgramRunner | None = None,
        n_search: int = 200,
        n_test: int = 500,
        n_train: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(n_search, n_test, n_train, seed)
        self._runner = runner

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw a chain of two or three instructions with one-digit operands."""
        names = EASY if level == "easy" else tuple(INSTRUCTIONS)
        chain = [(rng.choice(names), str(rng.randrange(2, 10))) for _ in range(rng.choice((2, 3)))]
        spoken = " then ".join(name if name in _UNARY else f"{name} {k}" for name, k in chain)
        expression = "x"
        for name, operand in chain:
            wrapped = expression if expression == "x" else f"( {expression} )"
            inner = expression if "( {}" in INSTRUCTIONS[name] else wrapped
            expression = INSTRUCTIONS[name].format(inner, operand)
        return Item(self.name, f"python {spoken} =", expression, _unit_tests(expression))

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Execute each generated program on its unit tests; 1 if all pass, else 0.

        Raises:
            RuntimeError: The task was built without a program runner.
        """
        if self._runner is None:
            raise RuntimeError("the code task was built without a program runner and cannot score")
        programs = [program(output) for output in outputs]
        return self._runner.run(programs, [item.payload for item in items])

    def words(self) -> Sequence[str]:
        """Return instruction words and the tokens of the expressions."""
        python = ["x", "(", ")", ",", "+", "-", "*", "//", "%", "**", "min", "max", "abs"]
        return ["python", "then", "=", *INSTRUCTIONS, *python, *"0123456789"]


def program(output: str) -> str:
    """Turn a generated expression into the source of a function `f`."""
    return f"def f(x):\n    return {normalise(output)}\n"


def _unit_tests(expression: str) -> tuple[tuple[str, str], ...]:
    """Return (call, expected repr) pairs of a reference expression."""
    function: Callable[[int], int] = eval(
        f"lambda x: {expression}", {"min": min, "max": max, "abs": abs}
    )
    return tuple((f"f({x})", repr(function(x))) for x in INPUTS)
