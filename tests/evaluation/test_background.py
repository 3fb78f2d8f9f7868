"""Work beside the caller: in order, one at a time, with its errors, cancelled or not."""

from __future__ import annotations

import threading

import pytest

from hm3rl.evaluation.background import Background


def test_work_is_done_in_order_beside_the_caller() -> None:
    background, gate, done = Background(), threading.Event(), list[int]()

    def first() -> str:
        assert gate.wait(10)
        done.append(0)
        return threading.current_thread().name

    futures = [background.submit(first)]
    futures += [background.submit(lambda n=n: str(done.append(n))) for n in range(1, 5)]  # type: ignore[misc]
    assert done == []  # the caller was not held up
    gate.set()
    assert futures[0].result(10) != threading.current_thread().name
    assert [future.result(10) for future in futures[1:]] == ["None"] * 4
    assert done == [0, 1, 2, 3, 4]


def test_an_error_comes_to_whoever_asks_and_the_next_work_is_done() -> None:
    background = Background()
    failed = background.submit(lambda: 1 // 0)
    after = background.submit(lambda: 7)
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    assert after.result(10) == 7


def test_work_that_has_not_begun_can_be_cancelled() -> None:
    background, gate, done = Background(), threading.Event(), list[int]()
    first = background.submit(lambda: gate.wait(10))
    second = background.submit(lambda: done.append(2))
    third = background.submit(lambda: done.append(3))
    assert second.cancel()
    gate.set()
    assert first.result(10) and third.result(10) is None
    assert done == [3]


def test_the_thread_ends_with_the_work_and_comes_back_with_more() -> None:
    background = Background()
    for number in range(3):
        assert background.submit(lambda n=number: n).result(10) == number  # type: ignore[misc]
        for thread in threading.enumerate():
            if thread.name == "hm3rl-background":
                thread.join(10)
                assert not thread.is_alive()
