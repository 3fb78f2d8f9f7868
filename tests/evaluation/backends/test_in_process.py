"""The computing itself: any items, with or without decoding, one candidate's failure alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import HM3Error, InputError
from hm3rl.evaluation.backends import in_process as module
from hm3rl.evaluation.backends.base import Job, JobResult
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Item
from hm3rl.tasks.build import build_tasks
from tests.evaluation.conftest import WordTask, blend

STITCHED = Candidate(LayerPath.parse("b | a[0] + c[1] + a[2]"))
ALL = {"one": tuple(range(12)), "three": tuple(range(12))}


def run(
    backend: InProcessBackend,
    candidate: Candidate,
    items: Mapping[str, tuple[int, ...]],
    decode: bool = True,
    secondary: bool = False,
) -> JobResult:
    (outcome,) = backend.score([Job("key", candidate, "search", items, decode, secondary)])
    return outcome


@pytest.fixture
def backend(members: MemberSet, tasks: tuple[WordTask, WordTask]) -> InProcessBackend:
    return InProcessBackend(members, tasks)


def test_items_run_apart_score_as_they_do_together(backend: InProcessBackend) -> None:
    whole = run(backend, STITCHED, ALL)
    some = {"one": (1, 4, 11), "three": (0,)}
    part = run(backend, STITCHED, some)
    for task, numbers in some.items():
        assert part.scores[task].tolist() == whole.scores[task][list(numbers)].tolist()
        assert part.nll[task] == pytest.approx(whole.nll[task][list(numbers)], rel=1e-5)
    assert whole.decoded == 24 and part.decoded == 4
    only = run(backend, STITCHED, {"three": (2,)})
    assert only.scores.keys() == {"three"}


def test_without_decoding_an_item_scores_whether_it_is_answered_with_its_reference(
    zoo_members: MemberSet,
) -> None:
    names = zoo_members.pool.expert_names
    small = {name: SizedTaskSettings(kind=name, search_items=30, test_items=2) for name in names}
    tasks = build_tasks(small, EvaluationSettings(), zoo_members.pool.tokenizer)
    backend = InProcessBackend(zoo_members, tasks)
    items = {name: tuple(range(30)) for name in names}
    merge = blend(0.5, 0.3, 0.2, scale=1.2, names=names)
    forced = run(backend, Candidate.whole(merge, 8), items, decode=False)
    full = run(backend, Candidate.whole(merge, 8), items)
    assert forced.decoded == 0 and forced.seconds["programs"] == 0
    for name in names:
        assert set(forced.scores[name]) <= {0.0, 1.0}
        assert np.array_equal(forced.nll[name], full.nll[name])
    for exact_match in ("translation", "math"):
        assert np.array_equal(forced.scores[exact_match], full.scores[exact_match])
    assert (forced.scores["code"] <= full.scores["code"]).all()  # other programs may be right
    assert 0 < forced.scores["math"].mean() < 1


def test_outcomes_come_in_order_and_a_failure_stands_alone(backend: InProcessBackend) -> None:
    broken = Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3)
    jobs = [Job(str(n), c, "search", ALL) for n, c in enumerate((STITCHED, broken, STITCHED))]
    first, failed, last = backend.score(jobs)
    assert [first.key, failed.key, last.key] == ["0", "1", "2"]
    assert "InvalidLogitsError" in str(failed.error) and failed.scores == {}
    assert first.error is None and last.scores["one"].tolist() == first.scores["one"].tolist()


@pytest.mark.parametrize("broken", ["out of memory", "no such layer"])
def test_memory_that_runs_out_while_assembling_is_no_failure_of_the_candidate(
    backend: InProcessBackend, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(broken)

    monkeypatch.setattr(module, "assemble", fail)
    if broken == "no such layer":
        assert "no such layer" in str(run(backend, STITCHED, ALL).error)
        return
    with pytest.raises(HM3Error, match="memory does not suffice to merge, assemble"):
        run(backend, STITCHED, ALL)


def test_secondary_metrics_are_means_over_the_items_run(backend: InProcessBackend) -> None:
    two = run(backend, STITCHED, {"one": (3, 7)}, secondary=True)
    each = [run(backend, STITCHED, {"one": (n,)}, secondary=True) for n in (3, 7)]
    assert two.secondary is not None and all(e.secondary is not None for e in each)
    lengths = [e.secondary["one"]["length"] for e in each if e.secondary is not None]
    assert two.secondary["one"]["length"] == pytest.approx(np.mean(lengths))


def scored(outcomes: Iterable[JobResult]) -> dict[str, list[list[float]]]:
    return {
        o.key: [v.tolist() for part in (o.scores, o.nll) for v in part.values()] for o in outcomes
    }


def test_scores_do_not_depend_on_what_else_is_in_the_batch(
    members: MemberSet, tasks: tuple[WordTask, WordTask]
) -> None:
    paths = [f"{s} | {x}[0] + {y}[1] + b[2]" for s in "ab" for x in "ac" for y in "bc"]
    jobs = [
        Job(text, Candidate(LayerPath.parse(text)), "search", ALL if n % 3 else {"one": (1, 4)})
        for n, text in enumerate(paths)
    ]
    backend = InProcessBackend(members, tasks)
    alone = scored(outcome for job in jobs for outcome in backend.score([job]))
    whole = list(backend.score(jobs))
    assert [outcome.key for outcome in whole] == paths
    assert scored(whole) == alone
    assert scored(backend.score([jobs[n] for n in (5, 2, 7, 0, 1, 6, 4, 3)])) == alone
    few = InProcessBackend(members, tasks, together=3)
    assert scored(few.score(jobs)) == alone


def test_no_more_merges_than_their_cache_holds_are_computed_together(
    tiny_pool: ModelPool, tasks: tuple[WordTask, WordTask]
) -> None:
    size = sum(p.nbytes for p in tiny_pool.model("base").parameters())
    backend = InProcessBackend(MemberSet(tiny_pool, cache_bytes=2 * size), tasks, together=4)
    merges = [Candidate.whole(blend(0.1 * n, 0.5, 0.0), 3) for n in range(5)]
    paths = [STITCHED, *merges, merges[4], STITCHED, STITCHED, STITCHED]
    jobs = [Job(str(n), candidate, "search", {"one": (0,)}) for n, candidate in enumerate(paths)]
    groups = [[int(job.key) for job in group] for group in backend._groups(jobs)]
    assert groups == [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9]]
    assert [outcome.key for outcome in backend.score(jobs)] == [str(n) for n in range(10)]


def test_slow_candidates_are_computed_in_small_groups(
    members: MemberSet, tasks: tuple[WordTask, WordTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill loses is bounded in seconds; at first, when they are unknown, in number."""
    paths = [f"{s} | {x}[0] + {y}[1] + b[2]" for s in "ab" for x in "abc" for y in "abc"]
    jobs = [Job(p, Candidate(LayerPath.parse(p)), "search", {"one": (0,)}) for p in paths]
    sizes: list[int] = []

    class Watched(InProcessBackend):
        def _compute(self, jobs: Sequence[Job]) -> Any:
            sizes.append(len(jobs))
            return super()._compute(jobs)

    quick = scored(Watched(members, tasks).score(jobs))
    assert sizes == [8, 10]
    sizes.clear()
    monkeypatch.setattr(module, "IN_FLIGHT_SECONDS", 0.0)
    assert scored(Watched(members, tasks).score(jobs)) == quick
    assert sizes == [8] + [1] * 10


def test_time_spent_together_is_shared_and_nothing_is_lost(
    members: MemberSet, tasks: tuple[WordTask, WordTask]
) -> None:
    jobs = [Job(name, Candidate.whole(name, 3), "search", ALL) for name in "abc"]
    begin = time.perf_counter()
    outcomes = list(InProcessBackend(members, tasks).score(jobs))
    spent = time.perf_counter() - begin
    seconds = [outcome.seconds for outcome in outcomes]
    assert len({one["model"] for one in seconds}) == 1 and seconds[0]["model"] > 0
    assert 0.5 * spent < sum(sum(one.values()) for one in seconds) <= spent


def test_options_below_one_are_refused(members: MemberSet) -> None:
    for option in ("batch_size", "together"):
        with pytest.raises(InputError, match=f"{option}=0"):
            InProcessBackend(members, [WordTask("one")], **{option: 0})


class Elsewhere(WordTask):
    """Judged in the background, each time only when it may."""

    judged_elsewhere = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.may = threading.Semaphore(0)
        self.breaks_at: int | None = None
        self._judging = count()

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        assert self.may.acquire(timeout=20), "nobody let it go on"
        if next(self._judging) == self.breaks_at:
            raise self.error
        return super().score(items, outputs)

    error: Exception = ValueError("no verdict")


WHOLE = [Candidate.whole(name, 3) for name in "abc"]


def whole_jobs(count: int = 3, secondary: bool = False) -> list[Job]:
    return [Job(str(n), WHOLE[n], "search", ALL, secondary=secondary) for n in range(count)]


def test_the_model_goes_on_while_programs_run(members: MemberSet) -> None:
    """With other tasks, and with the next candidates; outcomes are those of waiting each time."""
    plain = InProcessBackend(members, [WordTask("one"), WordTask("three")])
    wanted = list(plain.score(whole_jobs(secondary=True)))

    computed: list[str] = []
    slow = Elsewhere("three")

    class Watched(InProcessBackend):
        def _compute(self, jobs: Sequence[Job]) -> Any:
            group = super()._compute(jobs)
            computed.extend(job.key for job in jobs)
            if computed == ["0", "1"]:  # both groups have been through the model without a verdict
                slow.may.release(9)
            return group

    backend = Watched(members, [WordTask("one"), slow], together=1)
    stream = backend.score(whole_jobs(secondary=True))
    found = [next(stream)]
    assert computed == ["0", "1"]
    found.extend(stream)
    assert [one.key for one in found] == ["0", "1", "2"]
    assert scored(found) == scored(wanted)
    assert [list(one.scores) for one in found] == [["one", "three"]] * 3
    assert [one.secondary for one in found] == [one.secondary for one in wanted]


@pytest.mark.parametrize("done_before", [True, False])
def test_only_waiting_for_programs_counts_as_their_time(
    members: MemberSet, done_before: bool
) -> None:
    slow = Elsewhere("three")

    class Watched(InProcessBackend):
        def _compute(self, jobs: Sequence[Job]) -> Any:
            group = super()._compute(jobs)
            if done_before:
                slow.may.release()
                self._background.submit(lambda: None).result(20)
            else:
                threading.Timer(0.3, slow.may.release).start()
            return group

    backend = Watched(members, [WordTask("one"), slow])
    begin = time.perf_counter()
    (outcome,) = backend.score(whole_jobs(1))
    spent = time.perf_counter() - begin
    assert 0.5 * spent < sum(outcome.seconds.values()) <= spent
    assert (outcome.seconds["programs"] > 0.2) is not done_before


def test_a_verdict_that_fails_is_one_candidates_failure(members: MemberSet) -> None:
    slow = Elsewhere("three")
    slow.breaks_at = 1
    slow.may.release(9)
    outcomes = list(InProcessBackend(members, [WordTask("one"), slow]).score(whole_jobs()))
    assert [one.error is None for one in outcomes] == [True, False, True]
    assert "ValueError: no verdict" in str(outcomes[1].error)


def test_a_sandbox_that_does_not_work_stops_the_search(members: MemberSet) -> None:
    slow = Elsewhere("three")
    slow.breaks_at, slow.error = 1, HM3Error("the sandbox does not start")
    slow.may.release(9)
    stream = InProcessBackend(members, [slow], together=1).score(
        [Job(job.key, job.candidate, "search", {"three": (0, 1, 2)}) for job in whole_jobs()]
    )
    assert next(stream).key == "0"
    with pytest.raises(HM3Error, match="sandbox does not start"):
        next(stream)


def test_a_refused_candidate_does_not_cost_those_before_it_whose_programs_still_run(
    members: MemberSet,
) -> None:
    slow = Elsewhere("three")
    impossible = Candidate(LayerPath.parse("b | a[0] + nobody[1]"))
    jobs = [*whole_jobs(2), Job("bad", impossible, "search", ALL), *whole_jobs(1)]
    found: list[str] = []
    threading.Timer(0.2, slow.may.release, [2]).start()
    with pytest.raises(InputError):
        for outcome in InProcessBackend(members, [WordTask("one"), slow], together=1).score(jobs):
            found.append(outcome.key)
    assert found == ["0", "1"]


def test_an_abandoned_call_leaves_no_programs_to_be_run(members: MemberSet) -> None:
    slow = Elsewhere("three")

    class Watched(InProcessBackend):
        def _compute(self, jobs: Sequence[Job]) -> Any:
            group = super()._compute(jobs)
            if jobs[0].key == "2":
                slow.may.release(2)  # the first two; of these, one waits and one has not begun
            return group

    backend = Watched(members, [slow], together=2)
    candidates = [*WHOLE, STITCHED]
    jobs = [Job(str(n), c, "search", {"three": (0, 1)}) for n, c in enumerate(candidates)]
    stream = backend.score(jobs)
    assert next(stream).key == "0"
    stream.close()
    slow.may.release(9)
    backend._background.submit(lambda: None).result(20)
    assert slow.calls == 3
