"""Processes that share a store agree on who computes what; the dead hold nothing up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hm3rl.evaluation import claims
from hm3rl.evaluation.store import EvaluationStore
from tests.evaluation.test_store import HERE, evaluation

TEST_SPLIT = HERE._replace(split="test")


def lock_files(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}-owner-*"))


def test_what_one_claims_another_does_not_get(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with EvaluationStore(path) as one, EvaluationStore(path) as two:
        assert one.claim(["a", "b"], HERE) == ["a", "b"]
        assert two.claim(["b", "c", "a", "d"], HERE) == ["c", "d"]
        assert one.claim(["b", "c"], HERE) == ["b"]  # its own stays its own
        assert two.claim(["a"], TEST_SPLIT) == ["a"]  # another evaluation
        assert len(lock_files(path)) == 2


def test_a_claim_ends_with_the_result_or_when_it_is_given_up(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "s") as one, EvaluationStore(tmp_path / "s") as two:
        one.claim(["a", "b"], HERE)
        one.put(evaluation("a"), {}, HERE)
        assert two.claim(["a", "b"], HERE) == ["a"]
        two.release(["b"], HERE)  # not its own
        assert two.claim(["b"], HERE) == []
        one.release(["b"], HERE)
        assert two.claim(["b"], HERE) == ["b"]


def test_closing_a_store_frees_its_claims_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with EvaluationStore(path) as one:
        one.claim(["a"], HERE)
    assert lock_files(path) == []
    with EvaluationStore(path) as two:
        assert two.claim(["a"], HERE) == ["a"]
    store = EvaluationStore(path)
    store.claim(["b"], HERE)
    del store  # forgotten, not closed
    assert lock_files(path) == []


CLAIMER = """
import sys
from hm3rl.evaluation.store import EvaluationStore
from tests.evaluation.test_store import HERE
store = EvaluationStore(sys.argv[1])
print(*store.claim(["a", "b"], HERE), flush=True)
sys.stdin.read()
"""


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as process,
        EvaluationStore(path) as store,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["a", "b"]
        assert store.claim(["a", "b", "c"], HERE) == ["c"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert store.claim(["a", "b"], HERE) == ["a", "b"]
        assert len(lock_files(path)) == 1  # the dead one's is swept


def test_a_forked_copy_does_not_end_its_parents_claims(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with EvaluationStore(path) as store:
        store.claim(["a"], HERE)
        child = os.fork()
        if child == 0:
            store._claims.close()
            os._exit(0)
        os.waitpid(child, 0)
        with EvaluationStore(path) as other:
            assert other.claim(["a"], HERE) == []


def test_a_claim_that_is_too_old_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EvaluationStore(tmp_path / "s") as one, EvaluationStore(tmp_path / "s") as two:
        one.claim(["a"], HERE)
        assert two.claim(["a"], HERE) == []
        monkeypatch.setattr(claims, "CLAIM_SECONDS", -1.0)
        assert two.claim(["a"], HERE) == ["a"]


def test_who_stores_something_keeps_the_other_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long request of slow candidates outlasts CLAIM_SECONDS."""
    now = 0.0
    monkeypatch.setattr(claims.time, "time", lambda: now)
    with EvaluationStore(tmp_path / "s") as one, EvaluationStore(tmp_path / "s") as two:
        one.claim(["a", "b"], HERE)
        now = 0.9 * claims.CLAIM_SECONDS
        one.put(evaluation("a"), {}, HERE)
        now = 1.8 * claims.CLAIM_SECONDS
        assert two.claim(["b"], HERE) == []
        now = 2.0 * claims.CLAIM_SECONDS
        assert two.claim(["b"], HERE) == ["b"]


def test_a_store_in_memory_has_nobody_to_share_with() -> None:
    with EvaluationStore(":memory:") as store:
        assert store.claim(["a"], HERE) == ["a"]
        assert store.claim(["a"], HERE) == ["a"]
    assert not list(Path().glob(":memory:*"))


def test_a_closed_store_has_no_claims_and_may_be_told_to_release_them(tmp_path: Path) -> None:
    one = EvaluationStore(tmp_path / "s")
    assert one.claim(["k"], HERE) == ["k"]
    one.close()
    one.release(["k"], HERE)  # as a round does that an error has left half done
    with EvaluationStore(tmp_path / "s") as two:
        assert two.claim(["k"], HERE) == ["k"]
