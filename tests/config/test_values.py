"""Each field of the settings has its range, and the walk finds every value outside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from hm3rl.config.schema import PoolSettings, RunSettings, TaskSettings
from hm3rl.config.values import RANGE, Range, check_values, shown
from hm3rl.errors import InputError


def settings() -> RunSettings:
    """Defaults, with a value for all that has none."""
    return RunSettings(pool=PoolSettings(base="b"), tasks={"own": TaskSettings(kind="jsonl")})


def places(part: Any, above: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted key, owner and name of every field."""
    for one in fields(part):
        value = getattr(part, one.name)
        for inner in value.values() if isinstance(value, dict) else [value]:
            if is_dataclass(inner):
                yield from places(inner, f"{above}{one.name}.")
        yield f"{above}{one.name}", part, one.name


def test_the_defaults_are_within_their_ranges():
    check_values(settings())


NUMBERS = (math.nan, math.inf, -math.inf, -1e300, 1e300)
TEXTS = ("a\0b", "\ud800", "x" * 5000)


def values(kind: str) -> tuple[Any, ...]:
    """Values that no field of a type may have."""
    wrong: tuple[Any, ...] = () if "None" in kind else (None,)
    if kind == "str":
        wrong += TEXTS
    elif kind == "list[str]":
        wrong += tuple([text] for text in (*TEXTS, None))
    elif kind.startswith("dict"):
        wrong += tuple({text: "v"} for text in TEXTS)
    elif "int" in kind:
        wrong += (-1, 2**63, *NUMBERS)
    elif "float" in kind:
        wrong += NUMBERS[:3]
    return wrong


@pytest.mark.parametrize("key", [key for key, _, _ in places(settings())])
def test_a_value_that_is_none_of_its_fields_is_named(key: str):
    chosen = settings()
    owner, name = {place: rest for place, *rest in places(chosen)}[key]
    kind = next(str(one.type) for one in fields(owner) if one.name == name)
    sound = getattr(owner, name)
    for wrong in values(kind):
        setattr(owner, name, wrong)
        with pytest.raises(InputError) as caught:
            check_values(chosen)
        assert name in caught.value.what and caught.value.remedy
        assert len(str(caught.value)) < 300
    setattr(owner, name, sound)
    check_values(chosen)


def test_every_whole_number_has_both_ends():
    for key, owner, name in places(settings()):
        (one,) = (one for one in fields(owner) if one.name == name)
        if one.type == "int":
            span = one.metadata[RANGE]
            assert span.least is not None and span.most is not None, key


@pytest.mark.parametrize(
    ("span", "within", "outside", "words"),
    [
        (Range(0, 1), (0, 1), (-0.1, 1.1), "a number from 0 to 1"),
        (Range(0, 1, True, True), (0.5,), (0, 1), "a number from 0 to 1, without both"),
        (Range(0, 1, above=True), (1,), (0,), "a number from 0 to 1, without 0"),
        (Range(0, above=True), (1e-9,), (0, math.inf), "a number above 0"),
        (Range(3), (3,), (2, math.nan), "3 or more, and finite"),
        (Range(most=3), (-5, 3), (4,), "a number up to 3"),
        (Range(), (-1e300,), (math.inf,), "a finite number"),
    ],
)
def test_a_range_says_what_it_holds(span: Range, within: Any, outside: Any, words: str):
    assert all(map(span.holds, within)) and not any(map(span.holds, outside))
    assert str(span) == words


def test_a_long_value_is_shortened_in_a_message():
    assert shown("x" * 100) == "x" * 57 + "..." and shown(3) == "3"
