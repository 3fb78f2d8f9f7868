"""Shares of the items are nested; what is known is not run again; equal to running all at once."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hm3rl.errors import InputError
from hm3rl.evaluation import round as round_module
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Item
from tests.evaluation.conftest import WordTask, blend

A, B = Candidate.whole("a", 3), Candidate.whole("b", 3)
STITCHED = Candidate(LayerPath.parse("b | a[0] + c[1] + a[2]"))

shares = st.floats(0.001, 1.0)


@given(shares, shares, st.integers(2, 60))
def test_shares_are_nested_and_as_large_as_they_say(one: float, other: float, count: int) -> None:
    items = [Item("t", f"prompt {n}", "x") for n in range(count)]
    small, large = (set(Fidelity(s).numbers(items)) for s in sorted((one, other)))
    assert small <= large
    assert len(small) >= 2 and len(small) - 1 <= max(min(one, other) * count, 2) + 1e-6
    reverse = {count - 1 - n for n in Fidelity(min(one, other)).numbers(items[::-1])}
    assert reverse == small  # by hash, not by place


@given(shares, st.booleans())
def test_what_is_written_is_read_back(share: float, proxy: bool) -> None:
    fidelity = Fidelity(share, proxy)
    assert Fidelity.parse(str(fidelity)) == fidelity


def test_spellings() -> None:
    assert str(Fidelity.parse("items:0.250")) == "items:0.25"
    assert str(Fidelity.parse("items:1.0")) == "full"
    assert Fidelity.parse("proxy") == Fidelity(1.0, proxy=True)
    for text in ("half", "items", "full:0.5", "items:-1", "items:0.5 ", "proxy:"):
        with pytest.raises(InputError, match="unknown fidelity"):
            Fidelity.parse(text)
    for text in ("items:0", "proxy:1.5"):
        with pytest.raises(InputError, match="outside"):
            Fidelity.parse(text)


def test_a_larger_share_runs_the_missing_items_only(evaluator: Evaluator) -> None:
    some = evaluator.evaluate([STITCHED, B], fidelity="items:0.25")
    assert evaluator.totals.items == 2 * 6 and all(len(e.items["one"]) == 3 for e in some)
    more = evaluator.evaluate([STITCHED], fidelity="items:0.5")[0]
    assert evaluator.totals.items == 18
    full = evaluator.evaluate([STITCHED])[0]
    assert evaluator.totals.items == 2 * 6 + 6 + 12 and full.fidelity == "full"
    for e in (some[0], more):
        numbers = e.items["three"].tolist()
        assert e.per_item["three"].tolist() == full.per_item["three"][numbers].tolist()
        assert e.scores[1] == full.per_item["three"][numbers].mean()


def test_piecewise_equals_at_once(
    members: MemberSet, tasks: tuple[WordTask, WordTask], evaluator: Evaluator
) -> None:
    merged = Candidate.whole(blend(0.5, 0.2, 0.3), 3)
    for fidelity in ("items:0.3", "items:0.7", "full"):
        pieces = evaluator.evaluate([STITCHED, merged], fidelity=fidelity)
    with EvaluationStore(":memory:") as other:
        at_once = Evaluator(members, tasks, other).evaluate([STITCHED, merged])
    for piece, whole in zip(pieces, at_once, strict=True):
        assert piece.scores == whole.scores and piece.standard_errors == whole.standard_errors
        assert piece.nll == pytest.approx(whole.nll, rel=1e-5)


def test_a_smaller_share_of_what_is_known_runs_nothing(
    evaluator: Evaluator, store: EvaluationStore
) -> None:
    full = evaluator.evaluate([A])[0]
    (part,) = evaluator.stream([A], fidelity="items:0.5")
    assert part.cached and evaluator.totals.computed == 1 and len(store) == 1
    numbers = part.evaluation.items["one"].tolist()
    assert part.evaluation.per_item["one"].tolist() == full.per_item["one"][numbers].tolist()


def test_proxies_decode_nothing_and_are_never_scores(evaluator: Evaluator) -> None:
    proxy = evaluator.evaluate([A], fidelity="proxy:0.5")[0]
    assert evaluator.totals.decoded == 0 and set(proxy.per_item["one"]) <= {0.0, 1.0}
    full = evaluator.evaluate([A])[0]
    assert evaluator.totals.items == 12 + 24
    assert full.nll[0] == pytest.approx(full.per_item_nll["one"].mean())
    numbers = proxy.items["one"].tolist()
    assert proxy.per_item_nll["one"] == pytest.approx(full.per_item_nll["one"][numbers], rel=1e-5)
    with pytest.raises(InputError, match="secondary metrics"):
        evaluator.evaluate([A], fidelity="proxy", secondary=True)


def test_secondary_metrics_are_over_the_whole_share(evaluator: Evaluator) -> None:
    evaluator.evaluate([A], fidelity="items:0.25")
    (half,) = evaluator.evaluate([A], fidelity="items:0.5", secondary=True)
    with EvaluationStore(":memory:") as other:
        fresh = Evaluator(evaluator.members, evaluator.tasks, other)
        (alone,) = fresh.evaluate([A], fidelity="items:0.5", secondary=True)
    assert half.secondary == alone.secondary and half.secondary is not None


def test_a_failure_belongs_to_its_share(evaluator: Evaluator) -> None:
    broken = Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3)
    (failed,) = evaluator.evaluate([broken], fidelity="items:0.25")
    assert not failed.ok and failed.fidelity == "items:0.25"
    (again,) = evaluator.stream([broken], fidelity="items:0.25")
    assert again.cached and not again.evaluation.ok
    assert not evaluator.evaluate([broken])[0].ok


def test_what_another_process_computes_is_waited_for(
    evaluator: Evaluator, store: EvaluationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_module, "POLL_SECONDS", 0.01)
    condition = evaluator.condition("search")
    a, b = evaluator.key(A), evaluator.key(B)
    claimed = threading.Event()

    def other() -> None:
        with EvaluationStore(store.path) as mine:
            assert mine.claim([a], condition) == [a]
            claimed.set()
            while b not in mine.get([b], condition):  # ours goes on meanwhile
                time.sleep(0.01)
            theirs = Evaluator(evaluator.members, [WordTask("one"), WordTask("three")], mine)
            assert len(theirs.evaluate([A])) == 1

    thread = threading.Thread(target=other)
    thread.start()
    assert claimed.wait(10)
    first, second = evaluator.stream([A, B])
    thread.join()
    assert first.cached and not second.cached and evaluator.totals.computed == 1
    assert first.evaluation.key == a


def test_what_another_process_gives_up_is_computed(
    evaluator: Evaluator, store: EvaluationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_module, "POLL_SECONDS", 0.01)
    with EvaluationStore(store.path) as other:
        other.claim([evaluator.key(A)], evaluator.condition("search"))
        stream = evaluator.stream([B, A])
        next(stream)
        other.release([evaluator.key(A)], evaluator.condition("search"))
        assert not next(stream).cached
    assert evaluator.totals.computed == 2


def test_claims_are_given_back_when_the_caller_stops(
    evaluator: Evaluator, store: EvaluationStore
) -> None:
    stream = evaluator.stream([A, B])
    next(stream)
    with EvaluationStore(store.path) as other:
        key, condition = evaluator.key(B), evaluator.condition("search")
        assert other.claim([key], condition) == []
        stream.close()  # type: ignore[attr-defined]
        assert other.claim([key], condition) == [key]
