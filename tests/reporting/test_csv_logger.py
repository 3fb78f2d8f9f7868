from __future__ import annotations

import csv
import json
from pathlib import Path

from hm3rl.events import EvaluationEvent, LoggerGroup, RunLogger
from hm3rl.files import RunFolder
from hm3rl.reporting.csv_logger import CsvLogger


def event(used: int, failed: bool = False) -> EvaluationEvent:
    return EvaluationEvent(
        used=used,
        phase="online",
        key=f"k{used}",
        text="math | math[0:2]",
        candidate={"path": "math | math[0:2]"},
        scores={"math": 0.5, "code": 0.25},
        hypervolume=0.125,
        on_front=True,
        seconds=0.1,
        cached=False,
        failed=failed,
    )


def test_every_evaluation_is_on_disk_when_the_call_returns(tmp_path: Path):
    folder = RunFolder(tmp_path)
    logger = CsvLogger(folder, ("math", "code"))
    logger.evaluation(event(1))
    with folder.evaluations.open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["evaluations"], row["math"], row["hypervolume"]) == ("1", "0.500000", "0.125000")
    line = json.loads(folder.archive.read_text())
    assert line["candidate"] == {"path": "math | math[0:2]"}
    logger.finish("finished")


def test_metrics_are_in_long_form_and_the_log_names_failures(tmp_path: Path):
    folder = RunFolder(tmp_path)
    logger = CsvLogger(folder, ("math", "code"))
    logger.start({"name": "a", "seed": 1})
    logger.phase("online", 3)
    logger.metrics(7, {"loss": 0.5})
    logger.evaluation(event(8, failed=True))
    logger.finish("interrupted")
    assert folder.metrics.read_text().splitlines()[1] == "7,loss,0.5"
    log = folder.log.read_text()
    assert "k8 failed" in log and log.splitlines()[-1].endswith("interrupted")


def test_a_resumed_run_starts_its_tables_anew_and_appends_to_the_log(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for _ in range(2):
        logger = CsvLogger(folder, ("math", "code"))
        logger.evaluation(event(1))
        logger.finish("finished")
    assert len(folder.evaluations.read_text().splitlines()) == 2
    assert folder.log.read_text().count("finished") == 2


def test_a_group_hands_every_event_to_every_logger(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")]
    group = LoggerGroup([CsvLogger(folder, ("math", "code")) for folder in folders])
    assert isinstance(group, RunLogger)
    group.start({})
    group.phase("online", 1)
    group.evaluation(event(1))
    group.metrics(1, {"x": 1.0})
    group.table("front", ["a"], [[1]])
    group.finish("finished")
    assert folders[0].evaluations.read_text() == folders[1].evaluations.read_text()
    assert folders[0].metrics.read_text() == folders[1].metrics.read_text()
