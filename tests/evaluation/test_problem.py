"""The rules every searcher plays by: budget, archive, free sources, free test scores."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import BudgetExhausted, InputError, MachineError
from hm3rl.evaluation.backends import in_process
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.events import EvaluationEvent, NullLogger
from hm3rl.objectives.indicators import hypervolume
from hm3rl.paths import Candidate, LayerPath, PathLimits
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.build import build_tasks
from tests.evaluation.conftest import EchoTask, WordTask, blend

LIMITS = PathLimits(3, 3, actions="same_depth")


class Listener(NullLogger):
    def __init__(self) -> None:
        self.events: list[EvaluationEvent] = []

    def evaluation(self, event: EvaluationEvent) -> None:
        self.events.append(event)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def problem(members: MemberSet, evaluator: Evaluator, listener: Listener) -> MergeProblem:
    problem = MergeProblem(members, evaluator, LIMITS, budget=5, logger=listener)
    problem.prepare()
    return problem


def path(text: str) -> Candidate:
    return Candidate(LayerPath.parse(text))


ONE, TWO, THREE = path("a | a[0:2] + b[2]"), path("b | a[0:2] + b[2]"), path("c | b[0:2] + c[2]")


def test_the_sources_are_scored_for_nothing(problem: MergeProblem, listener: Listener) -> None:
    assert (problem.used, problem.remaining, problem.trace) == (0, 5, [])
    sources = [Candidate.whole(name, 3) for name in ("a", "b", "c", "base")]
    assert all(problem.seen(source) for source in sources)
    vectors = np.array([e.vector for e in problem.known(sources)])
    assert problem.archive.keys == tuple(problem.key(source) for source in sources)
    assert problem.z_star.tolist() == vectors[:3].max(axis=0).tolist()  # the base does not count
    assert [e.phase for e in listener.events] == ["sources"] * 4
    assert [e.used for e in listener.events] == [0] * 4
    problem.prepare()
    assert len(listener.events) == 4


def test_distinct_new_candidates_are_charged(problem: MergeProblem) -> None:
    source = Candidate.whole("a", 3)
    found = problem.evaluate([ONE, source, ONE, TWO], "online")
    assert problem.used == 2 and problem.remaining == 3
    assert found[0] is found[2] and found[1] is problem.known([source])[0]
    assert problem.evaluate([TWO, ONE], "online") == [found[3], found[0]]
    assert problem.used == 2
    assert problem.candidate(found[0].key) == ONE and problem.evaluation(found[3].key) is found[3]


def test_a_warm_store_saves_time_but_no_budget(
    problem: MergeProblem, members: MemberSet, evaluator: Evaluator, tasks: tuple[WordTask, ...]
) -> None:
    first = problem.evaluate([ONE, TWO], "online")
    calls = tasks[0].calls
    listener = Listener()
    again = MergeProblem(members, evaluator, LIMITS, budget=5, logger=listener)
    again.prepare()
    second = again.evaluate([ONE, TWO], "online")
    assert again.used == 2 and tasks[0].calls == calls
    assert [e.scores for e in second] == [e.scores for e in first]
    assert again.trace == problem.trace
    assert all(event.cached and event.seconds == 0 for event in listener.events)


def test_who_chose_each_evaluation_is_counted(problem: MergeProblem, listener: Listener) -> None:
    problem.evaluate([ONE, TWO, ONE], "online", chosen_by=["policy", "variation", "rollout"])
    problem.evaluate([TWO, THREE], "online")
    assert problem.chosen_by == {"policy": 1, "variation": 1, "online": 1}
    told = [event.chosen_by for event in listener.events[-3:]]
    assert told == ["policy", "variation", "online"]


def test_asking_for_more_than_is_left_scores_nothing(
    problem: MergeProblem, store: EvaluationStore, listener: Listener
) -> None:
    problem.evaluate([ONE, TWO], "online")
    stored, captured = len(store), len(listener.events)
    more = [path(f"{s} | {s}[0] + {t}[1] + c[2]") for s in "ab" for t in "ab"]
    with pytest.raises(BudgetExhausted) as caught:
        problem.evaluate([ONE, *more], "online")
    assert (caught.value.asked, caught.value.remaining) == (4, 3)
    assert (problem.used, len(store), len(listener.events)) == (2, stored, captured)
    problem.evaluate([ONE, *more[:3]], "online")
    assert problem.remaining == 0
    problem.evaluate([ONE, *more[:3]], "online")


def test_events_and_trace_follow_the_order_of_submission(
    problem: MergeProblem, listener: Listener
) -> None:
    found = problem.evaluate([TWO, ONE, THREE], "offline")
    events = listener.events[4:]
    assert [e.key for e in events] == [e.key for e in found] == [p.key for p in problem.trace]
    assert [e.used for e in events] == [p.used for p in problem.trace] == [1, 2, 3]
    assert [e.hypervolume for e in events] == [p.hypervolume for p in problem.trace]
    assert events[0].text == "b | a[0:2] + b[2]" and events[0].phase == "offline"
    assert Candidate.from_dict(events[0].candidate) == TWO
    assert events[0].scores == dict(zip(("one", "three"), found[0].scores, strict=True))
    assert events[0].seconds == pytest.approx(found[0].total_seconds) and not events[0].cached
    everything = np.stack([problem.archive.vector(k) for k in problem.archive.keys])
    assert problem.trace[-1].hypervolume == pytest.approx(hypervolume(everything / problem.z_star))


def test_rescoring_is_free_and_changes_nothing(problem: MergeProblem, listener: Listener) -> None:
    problem.evaluate([ONE], "online")
    before = (problem.used, problem.archive.keys, len(listener.events))
    (test, unseen) = problem.rescore([ONE, TWO])
    assert test.split == "test" and test.secondary is not None and unseen.ok
    assert (problem.used, problem.archive.keys, len(listener.events)) == before
    assert not problem.seen(TWO)
    assert problem.known([ONE])[0].split == "search"


def test_a_failure_is_charged_but_is_no_point_of_the_archive(
    problem: MergeProblem, listener: Listener
) -> None:
    broken = Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3)
    volume = problem.archive.hypervolume()
    (failed,) = problem.evaluate([broken], "parameter")
    assert not failed.ok and problem.used == 1
    assert failed.key not in problem.archive and problem.archive.hypervolume() == volume
    assert listener.events[-1].failed and listener.events[-1].scores == {}
    assert problem.seen(broken)


def test_paths_outside_the_limits_are_refused_but_whole_members_are_not(
    problem: MergeProblem, members: MemberSet, evaluator: Evaluator
) -> None:
    for text in ("a | a[0:2]", "a | a[0] + a[0] + a[2]"):
        with pytest.raises(InputError, match="breaks the limits"):
            problem.evaluate([path(text)], "online")
    assert problem.used == 0
    narrow = MergeProblem(members, evaluator, PathLimits(3, 3, stem="b"), budget=2)
    with pytest.raises(InputError, match="breaks the limits"):
        narrow.evaluate([ONE], "online")
    narrow.evaluate([Candidate.whole(blend(0.5, 0.5, 0.0), 3), TWO], "parameter")
    assert narrow.used == 2


def test_a_task_nobody_can_do_is_named(members: MemberSet, store: EvaluationStore) -> None:
    evaluator = Evaluator(members, [WordTask("one"), EchoTask("silence")], store)
    named = "no expert scores above 0 on the search items of the task silence"
    with pytest.raises(InputError, match=named) as caught:
        MergeProblem(members, evaluator, LIMITS, budget=3).prepare()
    assert caught.value.remedy


def test_a_source_that_cannot_run_is_named(
    members: MemberSet, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("no heads")

    monkeypatch.setattr(in_process, "assemble", crash)
    with pytest.raises(InputError, match="source 'a' cannot be scored: ZeroDivisionError"):
        MergeProblem(members, evaluator, LIMITS, budget=3).prepare()


def test_items_too_long_for_the_models_are_refused_before_anything_is_scored(
    members: MemberSet, store: EvaluationStore
) -> None:
    task = WordTask("one")
    task.max_new_tokens = 1
    with pytest.raises(InputError, match="max_new_tokens is 1"):
        MergeProblem(members, Evaluator(members, [task], store), LIMITS, budget=3).prepare()
    assert len(store) == 0


def test_a_budget_below_zero_and_an_unprepared_archive_are_refused(
    members: MemberSet, evaluator: Evaluator
) -> None:
    with pytest.raises(InputError, match="budget=-1"):
        MergeProblem(members, evaluator, LIMITS, budget=-1)
    with pytest.raises(RuntimeError, match="prepare"):
        _ = MergeProblem(members, evaluator, LIMITS, budget=1).archive


def test_a_share_of_the_items_costs_that_share_and_more_of_them_the_rest(
    problem: MergeProblem, tasks: tuple[WordTask, ...], listener: Listener
) -> None:
    volume, keys = problem.archive.hypervolume(), problem.archive.keys
    (quarter,) = problem.evaluate([ONE], "rung", "items:0.25")
    assert quarter.fidelity == "items:0.25" and len(quarter.per_item["one"]) == 3
    assert (problem.used, problem.remaining) == (0.25, 4)
    assert problem.evaluate([ONE, ONE], "rung", "items:0.25") == [quarter, quarter]
    assert problem.used == 0.25
    assert (problem.archive.hypervolume(), problem.archive.keys) == (volume, keys)
    assert not problem.seen(ONE)
    assert (problem.price("items:0.5"), problem.price("proxy"), problem.price()) == (0.5, 0.5, 1)
    (full,) = problem.evaluate([ONE], "rung")
    assert problem.used == 1 and isinstance(problem.used, int)
    assert full.key in problem.archive and problem.seen(ONE)
    problem.evaluate([ONE], "rung", "items:0.75")  # its items were all paid for
    assert problem.used == 1
    assert [point.used for point in problem.trace] == [0.25, 1]
    events = listener.events[4:]
    assert [e.fidelity for e in events] == ["items:0.25", "full", "items:0.75"]
    assert [e.used for e in events] == [0.25, 1, 1] and not events[0].on_front
    whole = problem.evaluator.totals.items - 4 * 24  # the sources' items
    assert whole == 24


def test_proxies_are_paid_for_apart(members: MemberSet, evaluator: Evaluator) -> None:
    problem = MergeProblem(members, evaluator, LIMITS, budget=2, proxy_cost=0.1)
    problem.prepare()
    problem.evaluate([ONE, TWO, THREE], "rung", "proxy:0.5")
    assert (problem.used_proxy, problem.used) == (1.5, 0.15)
    problem.evaluate([ONE, TWO, THREE], "rung", "proxy")
    assert (problem.used_proxy, problem.used) == (3, 0.3)
    problem.evaluate([ONE], "rung")
    assert (problem.used_proxy, problem.used, problem.remaining) == (3, 1.3, 0)
    assert len(problem.archive.keys) == 5
    with pytest.raises(BudgetExhausted, match=r"1 evaluations asked for, 0\.7 left"):
        problem.evaluate([TWO], "rung")
    problem.evaluate([TWO], "rung", "items:0.5")
    assert problem.used == 1.8


def test_the_sources_are_free_at_every_share(problem: MergeProblem) -> None:
    source = Candidate.whole("a", 3)
    for fidelity in ("items:0.5", "proxy"):
        (part,) = problem.evaluate([source], "rung", fidelity)
        assert part.ok and problem.used == 0 and problem.trace == []


def test_proxies_that_cost_nothing_are_counted_all_the_same(
    members: MemberSet, evaluator: Evaluator
) -> None:
    problem = MergeProblem(members, evaluator, LIMITS, budget=0, proxy_cost=0)
    problem.evaluate([ONE, TWO], "rung", "proxy:0.5")
    assert (problem.used_proxy, problem.used) == (1, 0)


def test_a_search_that_decides_by_proxies_pays_one_evaluation_each(
    zoo_members: MemberSet, store: EvaluationStore, listener: Listener
) -> None:
    names = zoo_members.pool.expert_names
    small = {name: SizedTaskSettings(kind=name, search_items=8, test_items=4) for name in names}
    tasks = build_tasks(small, EvaluationSettings(), zoo_members.pool.tokenizer)
    problem = MergeProblem(
        zoo_members,
        Evaluator(zoo_members, tasks, store),
        PathLimits(6, 8),
        budget=3,
        logger=listener,
        proxy_cost=0.1,
        fidelity="proxy",
    )
    one, two = (path(f"{a} | {a}[0:4] + {b}[4:8]") for a, b in pairwise(names))
    found = problem.evaluate([one, two], "online")
    assert [e.fidelity for e in found] == ["proxy"] * 2
    assert (problem.used, problem.remaining, problem.price()) == (2, 1, 1)
    assert found[0].key in problem.archive and all(e.decides for e in listener.events)
    experts = problem.known([Candidate.whole(name, 8) for name in names])
    assert problem.z_star.tolist() == np.max([e.vector for e in experts], axis=0).tolist()
    problem.evaluate([path(f"{names[2]} | {names[2]}[0:7]")], "rung", "proxy:0.5")
    assert problem.used == 2.5 and not listener.events[-1].decides
    (tested,) = problem.rescore([one])
    assert tested.fidelity == "full"


def test_a_search_decides_by_all_items(members: MemberSet, evaluator: Evaluator) -> None:
    with pytest.raises(InputError, match="all items"):
        MergeProblem(members, evaluator, LIMITS, budget=1, fidelity="items:0.5")


def test_workers_that_die_while_the_sources_are_scored_end_no_run_for_good(
    members: MemberSet,
    evaluator: Evaluator,
    store: EvaluationStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_: object) -> object:
        raise MachineError("3 workers died or failed while they scored the candidate a | a[0:3]")

    monkeypatch.setattr(in_process, "assemble", lost)
    with pytest.raises(MachineError, match="3 workers died"):
        MergeProblem(members, evaluator, LIMITS, budget=5).prepare()
    assert len(store) == 0
    monkeypatch.undo()
    MergeProblem(members, evaluator, LIMITS, budget=5).prepare()
    assert len(store) == 4
