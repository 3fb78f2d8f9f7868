"""The computing itself: any items, with or without decoding, one candidate's failure alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pytest

from hm3rl.errors import HM3Error, InputError
from hm3rl.evaluation.backends import in_process as module
from hm3rl.evaluation.backends.base import Job, Outcome
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.settings import EvaluationSettings, TaskSettings
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
) -> Outcome:
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
    small = {name: TaskSettings(kind=name, search_items=30, test_items=2) for name in names}
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


def scored(outcomes: Iterable[Outcome]) -> dict[str, list[list[float]]]:
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
        def _score(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
            sizes.append(len(jobs))
            return super()._score(jobs)

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
