"""Exceptions of the package.

Everything a user can mend is an `InputError`; the command line turns it into exit code 2 and prints
nothing but its message.
"""

from __future__ import annotations


class HM3Error(Exception):
    """Base class of every error this package raises on purpose."""


class InputError(HM3Error):
    """Bad input: names the thing that is wrong and the way out.

    Args:
        what: One sentence that names the offending thing and its value.
        remedy: One sentence that says how to mend it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}\n  -> {remedy}" if remedy else what)

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        """Keep both sentences when it travels between processes."""
        return type(self), (self.what, self.remedy)


class BudgetExhausted(HM3Error):
    """A searcher asked for more evaluations than its budget has left; nothing was evaluated."""

    def __init__(self, asked: float, remaining: float) -> None:
        self.asked = asked
        self.remaining = remaining
        super().__init__(f"{asked:g} evaluations asked for, {remaining:g} left in the budget")


class IntegrityError(HM3Error):
    """Something that was written does not read back as it should (export self-check, store)."""


class MachineError(HM3Error):
    """Something outside the candidate failed (a lost worker, memory, disk, the device); never a score and never stored; the run can be resumed."""  # noqa: E501
