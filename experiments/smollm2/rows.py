"""What the generators make: a prompt, its answer, and for programs the tests."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One line of a task's file.

    Attributes:
        prompt: What the model is given.
        reference: The answer, with the space that separates it from the prompt where one belongs.
        tests: For programs, pairs (expression, repr of its value).
    """

    prompt: str
    reference: str
    tests: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The fields that a task of kind `jsonl` reads."""
        line: dict[str, Any] = {"prompt": self.prompt, "reference": self.reference}
        if self.tests:
            line["tests"] = [list(pair) for pair in self.tests]
        return line
