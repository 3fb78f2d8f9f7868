"""Splits and item keys."""

from __future__ import annotations

from collections import Counter

from hm3rl.config.tasks import SplitSettings
from hm3rl.tasks.base import Item, split_of


def test_split_shares_are_fifteen_thirty_five_fifty() -> None:
    counts = Counter(split_of("math", f"prompt {i}") for i in range(20_000))
    shares = {split: count / 20_000 for split, count in counts.items()}
    assert abs(shares["search"] - 0.15) < 0.01
    assert abs(shares["test"] - 0.35) < 0.015
    assert abs(shares["train"] - 0.50) < 0.015


def test_split_depends_on_task_and_prompt_only() -> None:
    prompts = [f"prompt {i}" for i in range(200)]
    of_math = [split_of("math", prompt) for prompt in prompts]
    assert of_math == [split_of("math", prompt) for prompt in prompts]
    assert of_math != [split_of("code", prompt) for prompt in prompts]


def test_split_is_pinned() -> None:
    """A change of the hash would move items into the training text of the shipped models."""
    prompts = ("compute 4 7 + 3 8 =", "compute 1 2 - 0 9 =", "compute 9 9 + 9 9 =")
    assert [split_of("math", prompt) for prompt in prompts] == PINNED


def test_more_for_the_search_keeps_what_it_had():
    prompts = [f"prompt {i}" for i in range(2000)]
    before = {p for p in prompts if split_of("math", p) == "search"}
    shares = SplitSettings(search=60, test=40)
    now = {p for p in prompts if split_of("math", p, shares) == "search"}
    assert before < now and abs(len(now) / 2000 - 0.6) < 0.04
    assert {split_of("math", p, shares) for p in prompts} == {"search", "test"}


PINNED = ["test", "train", "train"]


def test_item_key_covers_every_field() -> None:
    item = Item("code", "p", "r", (("f(1)", "2"),))
    others = [
        Item("math", "p", "r", (("f(1)", "2"),)),
        Item("code", "q", "r", (("f(1)", "2"),)),
        Item("code", "p", "s", (("f(1)", "2"),)),
        Item("code", "p", "r", (("f(1)", "3"),)),
        Item("code", "p", "r"),
    ]
    keys = {item.key, *(other.key for other in others)}
    assert len(keys) == 6
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)
    assert item.key == Item("code", "p", "r", (("f(1)", "2"),)).key
