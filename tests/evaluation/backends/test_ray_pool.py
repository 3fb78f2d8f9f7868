"""The real Ray on this machine: the same scores, and workers that die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hm3rl.errors import InputError, MachineError
from hm3rl.evaluation.backends.base import Job
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from tests.evaluation.conftest import WordTask, blend

pytest.importorskip("ray", reason="the extra `ray` is not installed")
from hm3rl.evaluation.backends.ray_pool import RayBackend

pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and subprocesses to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*accelerator.*:FutureWarning"),
]

MERGED = blend(0.5, 0.3, 0.2)
CANDIDATES = [
    Candidate.whole("a", 3),
    Candidate.whole(MERGED, 3),
    Candidate(LayerPath.parse("b | a[0] + c[1] + a[2]")),
    Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3),  # invalid logits
    Candidate.of(LayerPath.parse(f"c | {MERGED.name}[0] + a[1] + {MERGED.name}[2]"), [MERGED]),
]


class Suicidal(WordTask):
    """Kills the process that scores it, as often as the file says."""

    def __init__(self, name: str, lives: Path) -> None:
        super().__init__(name)
        self.lives = lives

    def score(self, items: object, outputs: object) -> list[float]:
        left = int(self.lives.read_text())
        if left:
            self.lives.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(items, outputs)  # type: ignore[arg-type]


def load(folders: dict[str, Path], lives: Path | None = None) -> InProcessBackend:
    experts = {name: path for name, path in folders.items() if name != "base"}
    pool = ModelPool.load(folders["base"], experts)
    second = WordTask("three") if lives is None else Suicidal("three", lives)
    return InProcessBackend(MemberSet(pool), [WordTask("one"), second])


def ray_backend(folders: dict[str, Path], lives: Path | None = None) -> RayBackend:
    return RayBackend(load(folders, lives), partial(load, folders, lives), workers=2, threads=1)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for all tests of this file; backends use the one that is there."""
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def jobs(backend: RayBackend, candidates: list[Candidate]) -> list[Job]:
    items = {"one": tuple(range(12)), "three": tuple(range(12))}
    return [Job(str(n), candidate, "search", items) for n, candidate in enumerate(candidates)]


@pytest.mark.usefixtures("ray_here")
def test_scores_are_those_of_one_process_and_so_is_the_key(
    tiny_pool_dir: dict[str, Path], tmp_path: Path
) -> None:
    local, remote = load(tiny_pool_dir), ray_backend(tiny_pool_dir)
    tasks = tuple(local.tasks.values())
    with EvaluationStore(tmp_path / "a") as one, EvaluationStore(tmp_path / "b") as other:
        here = Evaluator(local.members, tasks, one, backend=local)
        there = Evaluator(local.members, tasks, other, backend=remote)
        assert here.condition("search") == there.condition("search")
        expected, found = here.evaluate(CANDIDATES), there.evaluate(CANDIDATES * 2)
        assert there.totals.computed == len(CANDIDATES) and there.totals.failures == 1
        for mine, yours in zip(expected * 2, found, strict=True):
            assert (mine.key, mine.status, mine.scores) == (yours.key, yours.status, yours.scores)
            for task in mine.per_item:
                assert np.array_equal(mine.per_item[task], yours.per_item[task])
            assert mine.nll == pytest.approx(yours.nll, rel=1e-5)
        assert "InvalidLogitsError" in str(found[3].error)
        with pytest.raises(InputError, match="uses layer 7"):
            there.evaluate([Candidate(LayerPath.parse("a | a[7]"))])
        half = there.evaluate([Candidate.whole("b", 3)], fidelity="items:0.5")[0]
        assert (
            half.scores == here.evaluate([Candidate.whole("b", 3)], fidelity="items:0.5")[0].scores
        )
    remote.close()


@pytest.mark.usefixtures("ray_here")
def test_a_killed_workers_candidates_are_scored_elsewhere(
    tiny_pool_dir: dict[str, Path], tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    lives.write_text("1")
    remote = ray_backend(tiny_pool_dir, lives)
    outcomes = list(remote.score(jobs(remote, CANDIDATES)))
    assert lives.read_text() == "0"
    assert [o.error is None for o in outcomes] == [True, True, True, False, True]
    reference = load(tiny_pool_dir)
    for outcome, wanted in zip(outcomes, reference.score(jobs(remote, CANDIDATES)), strict=True):
        assert all((outcome.scores[t] == wanted.scores[t]).all() for t in wanted.scores)
    remote.close()


@pytest.mark.usefixtures("ray_here")
def test_three_deaths_are_no_failure_and_not_stored_so_the_run_can_go_on(
    tiny_pool_dir: dict[str, Path], tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    lives.write_text("3")
    remote = ray_backend(tiny_pool_dir, lives)
    local = load(tiny_pool_dir)
    with EvaluationStore(tmp_path / "store") as store:
        tasks = tuple(local.tasks.values())
        evaluator = Evaluator(local.members, tasks, store, backend=remote)
        with pytest.raises(MachineError, match=r"3 workers died.* worker process has died"):
            evaluator.evaluate(CANDIDATES[:1])
        assert lives.read_text() == "0" and len(store) == 0
        assert evaluator.evaluate(CANDIDATES[:1])[0].ok
    remote.close()


@pytest.mark.usefixtures("ray_here")
def test_a_worker_with_other_weights_is_refused(
    tiny_pool_dir: dict[str, Path],
) -> None:
    other = {**tiny_pool_dir, "a": tiny_pool_dir["b"]}
    remote = RayBackend(load(tiny_pool_dir), partial(load, other), workers=1, threads=1)
    with pytest.raises(InputError, match="the source a differ"):
        list(remote.score(jobs(remote, CANDIDATES[:1])))


@pytest.mark.usefixtures("ray_here")
def test_more_workers_than_the_cluster_has_room_for_are_refused(
    tiny_pool_dir: dict[str, Path],
) -> None:
    remote = RayBackend(load(tiny_pool_dir), partial(load, tiny_pool_dir), workers=5)
    with pytest.raises(InputError, match="need 5 CPUs, the Ray cluster has 2"):
        list(remote.score(jobs(remote, CANDIDATES[:1])))
