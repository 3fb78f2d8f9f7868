"""The runner of the pools: rows, prefixes, what is skipped, and who may look at a sealed set."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments.pools import judgements, results, run
from experiments.pools.results import HELD_OUT, SEARCH, Front, Key


def solved(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, dtype=bool)


ONE = Key("X", "hm3", 0, 40)


def front(key: Key = ONE) -> Front:
    """Two experts and one model: held-out f / z* are (1, 1/2), (1/3, 1) and (2/3, 1/2)."""
    return Front(
        key=key,
        commit="0123456789ab",
        experts=("a", "b"),
        models=("k",),
        solved={
            "a": solved([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0]]),
            "b": solved([[0, 1], [1, 1], [1, 0]]),
        },
        search=np.array([[0.7, 0.5], [0.2, 1.0], [0.5, 0.5]]),
        volume=0.5,
        about={"front": 1},
    )


def test_a_front_is_read_as_it_was_written() -> None:
    one = front()
    again = Front.from_line(one.to_line())
    assert again.key == one.key and again.models == one.models and again.about == one.about
    for task in one.tasks:
        assert (again.solved[task] == one.solved[task]).all()
    assert again.points == pytest.approx(np.array([[1, 0.5], [1 / 3, 1], [2 / 3, 0.5]]))
    # 1 * 1/2 for the first expert, and 1/3 * 1/2 above it for the second.
    assert again.held_out == pytest.approx(2 / 3)


def test_items_may_count_more_than_once() -> None:
    counts = {"a": np.array([[1, 0], [1, 2], [1, 2], [1, 0]])}
    points = front().normalised(counts)
    assert points.shape == (3, 2, 2)
    assert points[:, :, 0] == pytest.approx(front().points)
    # Only the second and third item: the experts solve both and none, the model both.
    assert points[:, 0, 1] == pytest.approx([1, 0, 1])
    assert points[:, 1, 1] == pytest.approx([0.5, 1, 0.5])


def test_of_rows_with_the_same_key_the_last_counts(tmp_path: Path) -> None:
    one = front()
    results.add([one], "A", tmp_path)
    results.add([front()], "A", tmp_path)
    have = results.known(tmp_path)
    assert have[one.key, SEARCH] == (0.5, one.commit)
    assert have[one.key, HELD_OUT][0] == pytest.approx(2 / 3, abs=1e-6)
    assert len((tmp_path / "methods.csv").read_text().splitlines()) == 5
    assert list(results.fronts("X", tmp_path)) == [one.key]
    assert results.fronts("Y", tmp_path) == {} and results.known(tmp_path / "nowhere") == {}


WORDS = ["--pools", "zoo", "--methods", "parameter_only", "--items", "24", "24"]


def test_a_run_leaves_rows_is_not_repeated_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--root", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    run.main([*WORDS, *there, "--budgets", "64", "72"])
    have = results.known(tmp_path / "results")
    keys = [Key("zoo", "parameter_only", 0, budget) for budget in (64, 72)]
    assert set(have) == {(key, split) for key in keys for split in (SEARCH, HELD_OUT)}
    less, more = (have[key, SEARCH][0] for key in keys)
    assert 0.3 < less <= more
    found = results.fronts("zoo", tmp_path / "results")
    assert all(len(found[key].models) <= 24 for key in keys)
    assert found[keys[1]].about["chosen_by"] == {"parameter": 72}
    assert found[keys[0]].about["curve"][-1][1] == pytest.approx(less, abs=1e-6)
    capsys.readouterr()
    run.main([*WORDS, *there, "--budgets", "72", "64"])
    assert capsys.readouterr().out == ""
    # Killed before its row was written, it comes to the same.
    (tmp_path / "results" / "methods.csv").unlink()
    run.main([*WORDS, *there, "--budgets", "72"])
    again = results.known(tmp_path / "results")
    assert again == {one: value for one, value in have.items() if one[0] == keys[1]}


def test_a_failed_run_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def broken(args: object, pool: object, method: str, seed: int) -> None:
        tried.append(seed)
        if seed == 1:
            raise ValueError("nothing works")

    monkeypatch.setattr(run, "run_pool", broken)
    with pytest.raises(SystemExit, match="1 failed: zoo parameter_only seed 1"):
        run.main([*WORDS, "--results", str(tmp_path), "--seeds", "0", "1", "2"])
    assert tried == [0, 1, 2] and "nothing works" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--set", "A", "--pools", "A01"], "judged as a whole"),
        (["--pools", "A01"], "no such pool of development"),
        (["--items", "24", "24"], "name another folder"),
    ],
)
def test_words_that_would_spoil_results_are_refused(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.parse(["--methods", "hm3", *words])
    assert why in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "checkout"
    (folder / "experiments" / "pools" / "results").mkdir(parents=True)
    (folder / "code.py").write_text("1\n")
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "some change")


ABOUT = {"budgets": [40], "seeds": [0]}


def test_a_second_look_needs_a_reason(checkout: Path) -> None:
    file = checkout / "experiments" / "pools" / "judgements.jsonl"

    def begin(*methods: str, again: str = "") -> None:
        judgements.begin("A", methods, ABOUT, again, file, checkout)

    begin("hm3")
    judgements.note(judgements.JUDGED, "A", ["hm3"], {**ABOUT, "result": {}}, file, checkout)
    commit(checkout)
    with pytest.raises(judgements.Refused, match="looked at before for hm3"):
        begin("hm3", "map")
    begin("map")
    judgements.begin("B", ["hm3"], ABOUT, "", file, checkout)
    begin("hm3", again="the table had a mistake")
    lines = judgements.looks(file)
    assert [(one["state"], one["set"], one["methods"]) for one in lines] == [
        ("begun", "A", ["hm3"]),
        ("judged", "A", ["hm3"]),
        ("begun", "A", ["map"]),
        ("begun", "B", ["hm3"]),
        ("begun", "A", ["hm3"]),
    ]
    assert lines[-1]["again"] == "the table had a mistake" and len(lines[0]["commit"]) == 12


def test_a_look_goes_on_with_the_same_code_alone(checkout: Path) -> None:
    file = checkout / "experiments" / "pools" / "judgements.jsonl"
    judgements.begin("A", ["hm3"], ABOUT, "", file, checkout)
    # Results that were committed meanwhile are no change of the code.
    (checkout / "experiments" / "pools" / "results" / "methods.csv").write_text("rows\n")
    judgements.begin("A", ["hm3"], ABOUT, "", file, checkout)
    commit(checkout)
    judgements.begin("A", ["hm3"], ABOUT, "", file, checkout)
    assert len(judgements.looks(file)) == 1
    (checkout / "code.py").write_text("2\n")
    with pytest.raises(judgements.Refused, match=r"uncommitted: code\.py"):
        judgements.begin("A", ["hm3"], ABOUT, "", file, checkout)
    commit(checkout)
    with pytest.raises(judgements.Refused, match="looked at before for hm3"):
        judgements.begin("A", ["hm3"], ABOUT, "", file, checkout)


def test_what_is_uncommitted_is_seen_from_the_commit(checkout: Path) -> None:
    assert judgements.changed(checkout) == []
    assert not judgements.commit(checkout).endswith("+")
    (checkout / "new.py").write_text("\n")
    assert judgements.changed(checkout) == ["new.py"]
    assert judgements.commit(checkout).endswith("+")


def test_a_sealed_set_is_judged_and_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted: list[tuple[object, ...]] = []

    def pretend(args: object, pool: run.Pool, method: str, seed: int) -> None:
        results.add([front(Key(pool.name, method, seed, 40))], pool.set, tmp_path)

    monkeypatch.setattr(judgements, "begin", lambda *given: noted.append(given))
    monkeypatch.setattr(judgements, "note", lambda *given: noted.append(given))
    monkeypatch.setattr(run, "run_pool", pretend)
    run.main(["--set", "A", "--methods", "hm3", "--budgets", "40", "--results", str(tmp_path)])
    begun, ended = noted
    assert begun == ("A", ["hm3"], ABOUT, "")
    assert ended[:3] == ("judged", "A", ["hm3"])
    result = ended[3]["result"]  # type: ignore[index]
    assert result["hm3"]["40"]["A01"] == 0.6667 and len(result["hm3"]["40"]) == 12
    json.dumps(result)


def test_a_refused_look_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise judgements.Refused("not again")

    monkeypatch.setattr(judgements, "begin", refuse)
    monkeypatch.setattr(run, "run_pool", lambda *given: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match="not again"):
        run.main(["--set", "A", "--methods", "hm3"])
