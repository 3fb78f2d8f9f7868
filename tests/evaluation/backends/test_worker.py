"""What a worker process does, run in this one."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.evaluation.backends.base import Job
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.backends.worker import ScoringWorker, identity
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from tests.evaluation.conftest import WordTask

A = Candidate.whole("a", 3)
ITEMS = {"one": (0, 1, 2)}


@pytest.fixture
def backend(members: MemberSet) -> InProcessBackend:
    return InProcessBackend(members, [WordTask("one")])


def worker(backend: InProcessBackend, expected: dict[str, str]) -> ScoringWorker:
    return ScoringWorker(lambda: backend, expected, torch.get_num_threads(), os.getcwd())


def test_it_scores_as_the_driver_does(backend: InProcessBackend) -> None:
    there = worker(backend, identity(backend))
    assert there.load().refusal is None
    job = Job("k", A, "search", ITEMS)
    (mine,) = backend.score([job])
    (outcome,) = there.score([job]).outcomes
    assert outcome.scores["one"].tolist() == mine.scores["one"].tolist()
    assert pickle.loads(pickle.dumps(outcome)).nll["one"].tolist() == mine.nll["one"].tolist()


def test_outcomes_before_a_refusal_are_kept(backend: InProcessBackend) -> None:
    there = worker(backend, identity(backend))
    there.load()
    impossible = Candidate(LayerPath.parse("a | a[7]"))
    reply = there.score([Job("k", A, "search", ITEMS), Job("l", impossible, "search", ITEMS)])
    assert [o.key for o in reply.outcomes] == ["k"]
    travelled = pickle.loads(pickle.dumps(reply)).refusal
    assert isinstance(travelled, InputError) and "uses layer 7" in travelled.what
    assert travelled.remedy == "use layers 0 to 2"


def test_other_weights_items_or_precision_are_refused(
    backend: InProcessBackend, tiny_pool_dir: dict[str, Path]
) -> None:
    folders = dict(tiny_pool_dir)
    folders["b"] = folders["c"]
    base = folders.pop("base")
    others = ModelPool.load(base, folders, dtype=torch.bfloat16)
    other = InProcessBackend(MemberSet(others), [WordTask("one", seed=1)])
    refusal = worker(other, identity(backend)).load().refusal
    assert isinstance(refusal, InputError)
    for named in ("the source b,", "the search items", "precision"):
        assert named in refusal.what
    assert "the source a," not in refusal.what and "the source c," not in refusal.what


def test_what_cannot_be_loaded_is_refused(backend: InProcessBackend) -> None:
    def fail() -> InProcessBackend:
        raise InputError("no weights here", "copy them")

    there = ScoringWorker(fail, identity(backend), 1, os.getcwd())
    refusal = there.load().refusal
    assert isinstance(refusal, InputError) and refusal.what == "no weights here"
