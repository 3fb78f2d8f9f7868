"""Tests of programs: which are compared outside, and what passes them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hm3rl.errors import InputError
from hm3rl.tasks.program_tests import read_test


@pytest.mark.parametrize(
    ("expression", "asked", "literal"),
    [
        ("f(1) == 2", "f(1)", 2),
        ("2 == f(1)", "f(1)", 2),
        ("(f(1)) == (-2.5)", "f(1)", -2.5),
        ("f([1, 2]) == {'a': [1, (2,)], 'b': {3}}", "f([1, 2])", {"a": [1, (2,)], "b": {3}}),
        ("[f(k) for k in range(3)] == [0, 1, 4]", "[f(k) for k in range(3)]", [0, 1, 4]),
        ("f(1) == None", "f(1)", None),
    ],
)
def test_equality_with_a_literal_is_compared_outside(expression: str, asked: str, literal: Any):
    test = read_test(expression, "True")
    assert (test.expression, test.form, test.expected) == (f"({asked})", "plain", literal)
    assert not test.fakeable


@pytest.mark.parametrize(
    ("expression", "expected", "fakeable"),
    [
        ("f(1)", "2", False),
        ("f(1)", "True", False),
        ("f(1) is None", "True", False),
        ("f(1) == 2", "False", True),
        ("f(1) == g(1)", "True", True),
        ("f(1) != 2", "True", True),
        ("abs(f(1) - 2) < 1e-6", "True", True),
        ("1 < f(1) < 3", "True", True),
        ("all(f(k) == k for k in range(3))", "True", True),
        ("2 in f(1)", "True", True),
    ],
)
def test_all_others_run_as_they_stand(expression: str, expected: str, fakeable: bool):
    test = read_test(expression, expected)
    assert (test.expression, test.form, test.expected) == (expression, "repr", expected)
    assert test.fakeable == fakeable


@pytest.mark.parametrize("terms", [900, 2000, 20_000])
def test_a_long_expression_is_read_or_refused(terms: int) -> None:
    try:
        assert read_test(f"f({'+'.join('1' * terms)}) == 3", "True").expected == 3
    except InputError as error:
        assert "is no Python expression" in error.what


@pytest.mark.parametrize("expression", ["f(1) = 2", "assert f(1)", "f(1", "", " f(1)", "f(\0)"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(InputError, match="is no Python expression") as caught:
        read_test(expression, "True")
    assert caught.value.remedy


@pytest.mark.parametrize(
    "sent",
    [
        None, True, 2, "2", [], [None], [3], ["2"], [[2]], [{}], [{"int": "3"}], [{"int": 2}],
        [{"int": "2"}, {"int": "2"}], [{"int": "2", "float": "2"}], [{"eval": "2"}], [{"int": "x"}],
        [{"tuple": [{"int": "2"}]}], [{"set": [{"int": "2"}]}], [{"dict": [1]}], [{"float": "1e"}],
        [{"bytes": "zz"}], [{"complex": ["1"]}],
    ],
)  # fmt: skip
def test_nothing_but_the_value_itself_passes(sent: object) -> None:
    test = read_test("f(1) == 2", "True")
    assert test.passes([2]) and test.passes([{"int": "2"}]) and not test.passes(sent)


def test_sets_and_dictionaries_have_no_more_than_the_literal() -> None:
    some = read_test("f(1) == {1, (2, 3)}", "True")
    one, pair = {"int": "1"}, {"tuple": [{"int": "2"}, {"int": "3"}]}
    assert some.passes([{"set": [pair, one]}])
    assert not some.passes([{"set": [one, one]}]) and not some.passes([{"set": [one]}])
    named = read_test("f(1) == {'a': [1]}", "True")
    assert named.passes([{"dict": [["a", [one]]]}])
    assert not named.passes([{"dict": [["a", [one]], ["a", [one]]]}])
    assert not named.passes([{"dict": [["b", [one]]]}])


def test_an_answer_cannot_keep_the_driver_busy() -> None:
    begin = time.process_time()
    alike = [{"int": format(k * (2**61 - 1), "x")} for k in range(1, 40_000)]
    assert not read_test("f(1) == {1, 2}", "True").passes([{"set": alike}])
    deep: object = {"int": "1"}
    for _ in range(20_000):
        deep = {"tuple": [deep]}
    assert not read_test("f(1) == {1}", "True").passes([{"set": [deep]}])
    assert time.process_time() - begin < 2
