"""What searches name for preferences they never saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pools import answers
from experiments.pools.answers import DECODED, FRONT, NETWORK
from experiments.pools.results import Key


def test_answers_are_compared_with_their_own_front_on_the_pools_that_all_have() -> None:
    rows = {}
    for pool, front, network, other in (("D01", -0.2, -0.1, -0.3), ("D02", -0.4, -0.5, -0.2)):
        rows[Key(pool, "psl", 0, 40), FRONT] = front
        rows[Key(pool, "psl", 0, 40), NETWORK] = network
        rows[Key(pool, "none", 0, 40), FRONT] = other
        rows[Key(pool, "none", 0, 40), DECODED] = other + 0.01
    rows[Key("D03", "psl", 0, 40), FRONT] = 5.0
    said = answers.table(rows, ["psl", "none"], 40).splitlines()
    assert said[0].startswith("2 pools: D01, D02;")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in said[4:]]
    assert cells == [
        ["psl", "front", "-0.3000", "", ""],
        ["psl", "network", "-0.3000", "+0.0000 ± 0.1000", "1 of 2"],
        ["none", "front", "-0.2500", "", ""],
        ["none", "decoded", "-0.2400", "+0.0100 ± 0.0000", "2 of 2"],
    ]
    assert answers.table(rows, ["psl", "none"], 100) == "No pool has all of these answers."


def test_a_finished_search_is_asked_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "PREFERENCES", 3)
    words = ["--pools", "zoo", "--budget", "16", "--items", "24", "24", "--methods", "psl", "none"]
    words += ["--root", str(tmp_path / "runs"), "--results", str(tmp_path)]
    answers.main(words)
    said = capsys.readouterr().out
    have = answers.known(tmp_path)
    assert {(key.method, kind) for key, kind in have} == {
        ("psl", FRONT),
        ("psl", NETWORK),
        ("psl", DECODED),
        ("none", FRONT),
        ("none", DECODED),
    }
    # What is lacking to 1.1 of the best expert is at most 1.1, and the base is better than nothing.
    assert all(-1.1 < value < 0 for value in have.values())

    def searched(*words: str) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr("hm3rl.api.search", searched)
    answers.main([*words, "--no-run"])
    answers.main(words)
    again = capsys.readouterr().out
    assert again == 2 * said[said.index("1 pools") :]
