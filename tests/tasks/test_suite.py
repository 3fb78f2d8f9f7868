"""The version of a suite changes with whatever changes a score."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hm3rl.errors import InputError
from hm3rl.tasks.base import Item, Split, Task
from hm3rl.tasks.suite import check_tasks, suite_version


class Fixed(Task):
    metric = "exact_match"
    max_new_tokens = 4
    exact_only = True
    version = "1"

    def __init__(self, name: str = "fixed", count: int = 3, reference: str = "r") -> None:
        self.name = name
        self._items = tuple(Item(name, f"p{i}", reference) for i in range(count))

    def items(self, split: Split) -> tuple[Item, ...]:
        return self._items

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        return [0.5] * len(items)


def test_equal_suites_have_equal_versions() -> None:
    assert suite_version([Fixed()], "search", "t") == suite_version([Fixed()], "search", "t")


def test_everything_that_matters_changes_the_version() -> None:
    shorter, newer = Fixed(), Fixed()
    shorter.max_new_tokens = 3
    newer.version = "2"
    versions = [
        suite_version([Fixed()], "search", "t"),
        suite_version([Fixed()], "test", "t"),
        suite_version([Fixed()], "search", "u"),
        suite_version([Fixed(count=4)], "search", "t"),
        suite_version([Fixed(reference="s")], "search", "t"),
        suite_version([shorter], "search", "t"),
        suite_version([newer], "search", "t"),
        suite_version([Fixed("a"), Fixed("b")], "search", "t"),
        suite_version([Fixed("b"), Fixed("a")], "search", "t"),
    ]
    assert len(set(versions)) == len(versions)


def test_suites_that_cannot_be_scored_are_refused() -> None:
    assert len(check_tasks([Fixed("a"), Fixed("b")])) == 2
    with pytest.raises(InputError, match="no task"):
        check_tasks([])
    with pytest.raises(InputError, match="two tasks are called 'a'"):
        check_tasks([Fixed("a"), Fixed("a")])
    with pytest.raises(InputError, match="has 1 items in its search split"):
        check_tasks([Fixed("a", count=1)])
