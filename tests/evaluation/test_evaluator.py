"""Every score once: from the store if it is there, committed before anybody sees it if not."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import InputError, MachineError
from hm3rl.evaluation.answers import Answers
from hm3rl.evaluation.backends import in_process
from hm3rl.evaluation.backends.base import PARTS
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.build import build_tasks
from tests.evaluation.conftest import EchoTask, WordTask, blend

A, B, C = (Candidate.whole(name, 3) for name in "abc")


def test_scores_lie_in_order_and_per_item(evaluator: Evaluator) -> None:
    found = evaluator.evaluate([B, A])
    assert [e.key for e in found] == [evaluator.key(B), evaluator.key(A)]
    for e in found:
        assert e.tasks == ("one", "three") and e.split == "search" and e.ok
        assert e.scores == tuple(e.per_item[task].mean() for task in e.tasks)
        assert all(len(e.per_item_nll[task]) == 12 for task in e.tasks)
        assert set(e.seconds) == set(PARTS) and e.seconds["model"] > 0
        assert min(e.seconds.values()) >= 0
    assert found[0].scores != found[1].scores


def test_the_store_is_asked_first_and_repeats_are_scored_once(
    evaluator: Evaluator, tasks: tuple[WordTask, WordTask], members: MemberSet
) -> None:
    first = evaluator.evaluate([A, B, A])
    assert first[0] is first[2]
    assert (evaluator.totals.computed, evaluator.totals.hits, tasks[0].calls) == (2, 1, 2)
    again = Evaluator(members, tasks, evaluator.store)
    scored = list(again.stream([B, A]))
    assert all(one.cached for one in scored) and again.totals.computed == 0
    assert scored[1].evaluation.scores == first[0].scores
    assert np.array_equal(scored[0].evaluation.per_item["three"], first[1].per_item["three"])
    assert tasks[0].calls == 2


def test_an_evaluation_is_on_disk_before_it_is_handed_out(
    evaluator: Evaluator, store: EvaluationStore
) -> None:
    for candidate, one in zip([A, B], evaluator.stream([A, B]), strict=True):
        with EvaluationStore(store.path) as other:
            found = other.get([one.evaluation.key], evaluator.condition("search"))
            assert found[one.evaluation.key].scores == one.evaluation.scores
            plain = other.candidate(one.evaluation.key)
            assert plain is not None and Candidate.from_dict(plain) == candidate


def test_what_changes_a_score_changes_the_condition(
    members: MemberSet, store: EvaluationStore, tiny_pool_dir: dict[str, Path]
) -> None:
    folders = dict(tiny_pool_dir)
    low = ModelPool.load(folders.pop("base"), folders, dtype=torch.bfloat16)
    conditions = [
        Evaluator(members, [WordTask("one")], store).condition("search"),
        Evaluator(members, [WordTask("one")], store).condition("test"),
        Evaluator(members, [WordTask("one", seed=1)], store).condition("search"),
        Evaluator(members, [WordTask("one"), WordTask("two")], store).condition("search"),
        Evaluator(MemberSet(low), [WordTask("one")], store).condition("search"),
    ]
    assert len(set(conditions)) == len(conditions)
    assert conditions[-1].dtype == "bfloat16"
    assert (
        Evaluator(members, [WordTask("one")], store, batch_size=3).condition("search")
        == (conditions[0])
    )


def test_another_attention_implementation_is_another_condition(
    members: MemberSet, store: EvaluationStore, tiny_pool_dir: dict[str, Path]
) -> None:
    folders = dict(tiny_pool_dir)
    eager = ModelPool.load(folders.pop("base"), folders)
    for name in eager.names:
        eager.model(name).config._attn_implementation = "eager"
    usual = Evaluator(members, [WordTask("one")], store)
    other = Evaluator(MemberSet(eager), [WordTask("one")], store)
    assert usual.condition("search").backend == "torch-cpu"  # as older stores have it
    condition = other.condition("search")
    assert condition.backend == "torch-cpu-eager"
    # What an older version computed, which said nothing of attention: the run's own store may
    # answer with it, one that several runs share may not.
    older = usual.condition("search")._replace(suite=condition.suite)
    stored = Evaluation.of_items(
        other.key(A), "search", {"one": np.full(12, 0.5)}, {"one": np.ones(12)}, None, {}
    )
    store.put(stored, {}, older)
    assert store.get([other.key(A)], condition) == {}
    other.adopt_older_conditions()
    assert other.evaluate([A])[0].scores == (0.5,) and other.totals.computed == 0
    usual.adopt_older_conditions()  # changes nothing
    assert len(store) == 1


def test_stitched_and_merged_candidates_are_scored(
    evaluator: Evaluator, members: MemberSet
) -> None:
    merged = blend(0.5, 0.5, 0.0)
    path = LayerPath.parse(f"b | a[0] + {merged.name}[1] + c[2]")
    whole, stitched, alone = evaluator.evaluate(
        [Candidate.whole(merged, 3), Candidate.of(path, [merged]), A]
    )
    assert whole.ok and stitched.ok and alone.ok
    assert len({whole.nll, stitched.nll, alone.nll}) == 3
    assert members.names == ("a", "b", "c", merged.name)


def test_a_crash_is_a_recorded_failure(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, store: EvaluationStore
) -> None:
    real = in_process.assemble

    def crash(candidate: Candidate, members: MemberSet) -> object:
        if candidate == B:
            raise IndexError("layer fell off")
        return real(candidate, members)

    monkeypatch.setattr(in_process, "assemble", crash)
    a, b, c = evaluator.evaluate([A, B, C])
    assert a.ok and c.ok and not b.ok
    assert "IndexError: layer fell off" in str(b.error) and "Traceback" in str(b.error)
    assert b.scores == () and b.cause == "candidate"
    with pytest.raises(ValueError, match="it has no scores"):
        _ = b.vector
    assert evaluator.totals.failures == 1
    monkeypatch.undo()
    assert not evaluator.evaluate([B], secondary=True)[0].ok  # it stays what it was


def test_invalid_logits_are_a_failure_and_no_score(evaluator: Evaluator) -> None:
    (broken,) = evaluator.evaluate([Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3)])
    assert broken.status == "failed" and "InvalidLogitsError" in str(broken.error)


def test_impossible_candidates_and_interrupts_are_not_recorded(
    evaluator: Evaluator, store: EvaluationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="uses layer 7"):
        evaluator.evaluate([Candidate(LayerPath.parse("a | a[7]"))])
    with pytest.raises(InputError, match="no source of the pool"):
        evaluator.evaluate([Candidate.whole("nobody", 3)])

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_process, "answer_together", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate([A])
    assert len(store) == 0


@pytest.mark.parametrize("step", ["assemble", "answer_together"])
@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (OSError(28, "No space left on device"), 2),
        (MemoryError(), 2),
        (RuntimeError("can't start new thread"), 2),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), 1),
    ],
)
def test_what_the_machine_failed_to_do_is_tried_once_more_and_never_stored(
    evaluator: Evaluator,
    store: EvaluationStore,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: Exception,
    tries: int,
) -> None:
    (expected,) = evaluator.evaluate([B])
    real, calls = getattr(in_process, step), [0]

    def fail(*_: object, **__: object) -> object:
        calls[0] += 1
        raise error

    monkeypatch.setattr(in_process, step, fail)
    with pytest.raises(MachineError):
        evaluator.evaluate([A])
    assert calls[0] == tries and len(store) == 1 and evaluator.totals.failures == 0
    monkeypatch.setattr(in_process, step, real)
    assert evaluator.evaluate([A, B])[0].ok  # a resumed run goes on
    assert evaluator.evaluate([B])[0].scores == expected.scores


def test_a_failure_of_the_machine_that_passes_changes_no_score(
    evaluator: Evaluator, members: MemberSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [WordTask("one"), WordTask("three")]
    with EvaluationStore(":memory:") as other:
        expected = Evaluator(members, tasks, other).evaluate([A, B, C])
    real, calls = in_process.assemble, count()

    def once(candidate: Candidate, members: MemberSet) -> object:
        if next(calls) == 1:
            raise OSError(5, "Input/output error")
        return real(candidate, members)

    monkeypatch.setattr(in_process, "assemble", once)
    found = evaluator.evaluate([A, B, C])
    assert [e.scores for e in found] == [e.scores for e in expected]


def test_a_failure_without_a_cause_is_computed_again_and_a_candidates_own_is_not(
    evaluator: Evaluator, store: EvaluationStore
) -> None:
    key, condition = evaluator.key(A), evaluator.condition("search")
    old = Evaluation.failure(key, "search", ("one", "three"), "Lost", {}, cause=None)
    store.put(old, {}, condition)
    assert store.get([key], condition)[key].error == "Lost"  # it can still be looked at
    assert evaluator.evaluate([A])[0].ok and len(store) == 1
    broken = Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3)
    assert not evaluator.evaluate([broken])[0].ok
    computed = evaluator.totals.computed
    assert not evaluator.evaluate([broken])[0].ok and evaluator.totals.computed == computed
    assert store.drop_failed() == 1
    assert not evaluator.evaluate([broken])[0].ok and evaluator.totals.computed == computed + 1


def test_secondary_metrics_are_added_when_asked_for(evaluator: Evaluator) -> None:
    (plain,) = evaluator.evaluate([A])
    assert plain.secondary is None
    (more,) = evaluator.evaluate([A], secondary=True)
    assert more.secondary is not None and more.secondary.keys() == {"one", "three"}
    assert 0 < more.secondary["one"]["length"] <= 1
    assert more.scores == plain.scores
    assert evaluator.totals.computed == 2
    (kept,) = evaluator.evaluate([A])
    assert kept.secondary == more.secondary and evaluator.totals.computed == 2


def test_the_test_split_is_another_split(evaluator: Evaluator) -> None:
    (search,), (test,) = evaluator.evaluate([A]), evaluator.evaluate([A], split="test")
    assert (search.split, test.split) == ("search", "test")
    assert search.nll != test.nll


def test_a_task_to_be_minimised_enters_turned_round(
    members: MemberSet, store: EvaluationStore
) -> None:
    class Fewer(WordTask):
        direction = "minimise"

    fewer = Evaluator(members, [Fewer("one")], store).evaluate([A])[0]
    more = Evaluator(members, [WordTask("one")], store).evaluate([A])[0]
    assert fewer.scores[0] == pytest.approx(1 - more.scores[0])


def test_scores_outside_the_unit_interval_are_a_failure(
    members: MemberSet, store: EvaluationStore
) -> None:
    class Wild(WordTask):
        def score(self, items: object, outputs: object) -> list[float]:
            return [1.5] * 12

    (wild,) = Evaluator(members, [Wild("one")], store).evaluate([A])
    assert not wild.ok and "outside [0, 1]" in str(wild.error)


def test_items_that_were_not_decoded_score_zero(
    members: MemberSet, store: EvaluationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Answers([None] * 12, np.ones(12), 0)
    monkeypatch.setattr(in_process, "answer_together", lambda *_, **__: [nothing])
    (silent,) = Evaluator(members, [EchoTask("one")], store).evaluate([A])
    assert silent.ok and silent.scores == (0.0,) and silent.nll == (1.0,)


def test_bad_arguments_are_refused(
    members: MemberSet, store: EvaluationStore, evaluator: Evaluator
) -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        Evaluator(members, [WordTask("one")], store, batch_size=0)
    with pytest.raises(InputError, match="unknown fidelity 'half'"):
        evaluator.evaluate([A], fidelity="half")


def test_the_shipped_experts_are_good_at_their_own_task(
    zoo_members: MemberSet, store: EvaluationStore
) -> None:
    """End to end on real models: generation, execution of programs, chrF, the store."""
    names = zoo_members.pool.expert_names
    small = {name: SizedTaskSettings(kind=name, search_items=40, test_items=2) for name in names}
    tasks = build_tasks(small, EvaluationSettings(), zoo_members.pool.tokenizer)
    evaluator = Evaluator(zoo_members, tasks, store)
    found = evaluator.evaluate([Candidate.whole(name, 8) for name in names], secondary=True)
    table = np.array([e.scores for e in found])
    assert (table.diagonal() > 0.9).all()
    assert (table.argmax(axis=0) == np.arange(3)).all()
    chrf = [e.secondary["translation"]["chrf"] for e in found if e.secondary is not None]
    assert chrf[0] > 0.95 and chrf[0] >= found[0].scores[0] and min(chrf) > 0.1
    likely = np.array([e.nll for e in found])
    assert (likely.argmin(axis=0) == np.arange(3)).all()
