"""Code: a chain of instructions about x becomes a Python expression, executed on unit tests.

"python add 3 then times 2 then modulo 5 =" is answered by "( ( x + 3 ) * 2 ) % 5". Scored by
pass@1: any program that passes the unit tests counts, "2 * ( x + 3 ) % 5" as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hm3rl.tasks.base import Item, ProgramRunner
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise

INPUTS = (-1000, -97, -38, -11, -5, -2, -1, 0, 1, 2, 3, 6, 10, 17, 41, 99, 1234)
"""Values of x on which a program must agree with the reference."""


class Instruction(NamedTuple):
    """What an instruction writes and what it computes.

    Attributes:
        template: Python text of (expression so far, operand).
        apply: Value of (value so far, operand).
        unary: Takes no operand.
        enclosed: The template itself keeps the expression so far apart, e.g. as an argument.
    """

    template: str
    apply: Callable[[int, int], int]
    unary: bool = False
    enclosed: bool = False


INSTRUCTIONS: dict[str, Instruction] = {
    "add": Instruction("{} + {}", lambda v, k: v + k),
    "subtract": Instruction("{} - {}", lambda v, k: v - k),
    "times": Instruction("{} * {}", lambda v, k: v * k),
    "modulo": Instruction("{} % {}", lambda v, k: v % k),
    "divide": Instruction("{} // {}", lambda v, k: v // k),
    "from": Instruction("{1} - {0}", lambda v, k: k - v),
    "atmost": Instruction("min ( {} , {} )", min, enclosed=True),
    "atleast": Instruction("max ( {} , {} )", max, enclosed=True),
    "square": Instruction("{} ** 2", lambda v, k: v**2, unary=True),
    "absolute": Instruction("abs ( {} )", lambda v, k: abs(v), unary=True, enclosed=True),
    "negate": Instruction("- {}", lambda v, k: -v, unary=True),
}

EASY = ("add", "subtract", "times", "modulo", "atmost", "square")
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
    exact_only = False
    judged_elsewhere = True
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
        self.runner = runner
        if runner is not None:
            self.version = f"{type(self).version}{runner.limits}"

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw a chain of two or three instructions with one-digit operands."""
        names = EASY if level == "easy" else tuple(INSTRUCTIONS)
        chain = [(rng.choice(names), rng.randrange(2, 10)) for _ in range(rng.choice((2, 3)))]
        spoken = " then ".join(n if INSTRUCTIONS[n].unary else f"{n} {k}" for n, k in chain)
        expression = "x"
        for name, operand in chain:
            instruction = INSTRUCTIONS[name]
            if expression != "x" and not instruction.enclosed:
                expression = f"( {expression} )"
            expression = instruction.template.format(expression, operand)
        return Item(self.name, f"python {spoken} =", expression, _unit_tests(chain))

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Execute each generated program on its unit tests; 1 if all pass, else 0.

        Raises:
            RuntimeError: The task was built without a program runner.
        """
        if self.runner is None:
            raise RuntimeError("the code task was built without a program runner and cannot score")
        programs = [program(output) for output in outputs]
        return self.runner.run(programs, [item.payload for item in items])

    def words(self) -> Sequence[str]:
        """Return instruction words and the tokens of the expressions."""
        python = ["x", "(", ")", ",", "+", "-", "*", "//", "%", "**", "min", "max", "abs"]
        return ["python", "then", "=", *INSTRUCTIONS, *python, *"0123456789"]


def program(output: str) -> str:
    """Turn a generated expression into the source of a function `f`."""
    return f"def f(x):\n    return {normalise(output)}\n"


def _unit_tests(chain: Sequence[tuple[str, int]]) -> tuple[tuple[str, str], ...]:
    """Return (call, expected repr) pairs of an instruction chain."""
    tests = []
    for x in INPUTS:
        value = x
        for name, operand in chain:
            value = INSTRUCTIONS[name].apply(value, operand)
        tests.append((f"f({x})", repr(value)))
    return tuple(tests)
