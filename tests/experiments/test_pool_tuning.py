"""The log of what was tuned: settings that exist, rows that are not repeated, and ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pools import tuning
from experiments.pools.methods import METHODS, overrides
from experiments.pools.pools import ZOO, pools
from experiments.pools.tuning import SETTINGS, Trial, mean_ranks
from hm3rl import api


@pytest.mark.parametrize("method", SETTINGS)
def test_settings_are_few_and_exist(method: str) -> None:
    if method == "layer_bo":
        pytest.importorskip("botorch")
    every = [*SETTINGS[method].values()]
    assert 2 <= len(every) <= 4
    for words in every:
        api.settings(*overrides(pools()[ZOO]), METHODS[method][0], *words, "budget=40")


def test_a_logged_search_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def pretend(trial: Trial, root: Path, extra: list[str]) -> float:
        asked.append(trial.setting)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return 0.1 * len(asked)

    monkeypatch.setattr(tuning, "attempt", pretend)
    words = ["--methods", "nsga2", "--pools", ZOO, "--log", str(tmp_path / "log.csv")]
    with pytest.raises(KeyboardInterrupt):
        tuning.main(words)
    tuning.main(words)
    assert asked == [*SETTINGS["nsga2"], [*SETTINGS["nsga2"]][-1]]
    found = tuning.logged(tmp_path / "log.csv")
    assert [round(value, 6) for value in found.values()] == [0.1, 0.2, 0.4]
    assert next(iter(found)) == Trial("nsga2", "population 20", ZOO, 10, 40)
    assert "population 6: mean rank 1.00, mean hypervolume 0.4000" in capsys.readouterr().out


def test_a_search_has_the_methods_words_and_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("pymoo")
    few = [
        f"tasks.{task}.{split}_items=24"
        for task in pools()[ZOO].tasks
        for split in ("search", "test")
    ]
    trials = [Trial("nsga2", setting, ZOO, 10, 24) for setting in ("population 20", "population 6")]
    values = [tuning.attempt(trial, tmp_path, few) for trial in trials]
    assert values[0] != values[1] and min(values) > 0.2
    assert tuning.attempt(trials[1], tmp_path, few) == values[1]


def test_ranks_are_over_pools_that_have_all_settings() -> None:
    found = {
        Trial("nsga2", setting, pool, 10, 40): value
        for pool, values in (("D02", (3, 2, 1)), ("D05", (1, 1, 4)), ("D09", (9, 9)))
        for setting, value in zip(SETTINGS["nsga2"], values, strict=False)
    }
    ranks = mean_ranks(found, "nsga2")
    assert [rank for rank, _ in ranks.values()] == [1.75, 2.25, 2.0]
    assert [mean for _, mean in ranks.values()] == [2.0, 1.5, 2.5]
    assert mean_ranks(found, "map") == {}
