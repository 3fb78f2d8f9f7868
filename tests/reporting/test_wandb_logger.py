from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm3rl.config.schema import LoggingSettings
from hm3rl.files import RunFolder
from hm3rl.reporting import wandb_logger
from hm3rl.reporting.wandb_logger import WandbLogger, log_weights, run_id
from tests.reporting.test_csv_logger import event


@pytest.fixture(autouse=True)
def no_mode(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


def test_the_id_belongs_to_the_folder(tmp_path: Path):
    assert run_id(RunFolder(tmp_path)) == run_id(RunFolder(tmp_path))
    assert run_id(RunFolder(tmp_path)) != run_id(RunFolder(tmp_path / "other"))


def records(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    assert data[:4] == b":W&B"
    block, start, parts = 32768, 7, []
    while start + 7 <= len(data):
        if block - start % block < 7:  # a header never straddles blocks; the rest is padding
            start += block - start % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, start)
        parts.append(data[start + 7 : start + 7 + length])
        start += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def read_back(folder: Path) -> dict[str, list[object]]:
    """Values by name of the history of the only offline run in a folder, and its artifacts."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # the service writes the file behind our back; this waits for it
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[str, list[object]] = {"artifacts": []}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            name = item.key or ".".join(item.nested_key)
            found.setdefault(name, []).append(json.loads(item.value_json))
        for metric in (record.metric,) if record.HasField("metric") else ():
            found.setdefault("x-axis", []).append((metric.glob_name, metric.step_metric))
        artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact
        artifact = getattr(artifact, "artifact", artifact)
        if artifact.name:
            paths = [entry.path for entry in artifact.manifest.contents]
            found["artifacts"].append((artifact.type, artifact.name, paths))
    return found


def table_of(folder: Path, found: dict[str, list[object]], name: str) -> list[list[object]]:
    """The rows of a logged table, from the file beside the run."""
    (path,) = found[f"{name}.path"]
    (media,) = (folder / "wandb").glob(f"offline-run-*/files/{path}")
    return json.loads(media.read_text())["data"]


@pytest.mark.filterwarnings("default")
def test_an_offline_run_can_be_read_back(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.config.write_text("name: tiny\n")
    folder.front.write_text("name,key\nM00,k1\n")
    logger = WandbLogger(folder, LoggingSettings(wandb="offline"), "tiny", "hm3")
    logger.start({"seed": 0})
    logger.phase("online", 2)
    logger.evaluation(event(1))
    logger.evaluation(event(2, failed=True))
    logger.metrics(2, {"agent/loss": 0.25})
    logger.table("front", ["name", "math"], [["M00", 0.5]])
    logger.finish("finished")
    found = read_back(tmp_path)
    assert found["hypervolume"][0] == 0.125
    assert found["score/math"][0] == 0.5
    assert found["evaluations"][:2] == [1, 2]
    assert found["agent/loss"] == [0.25]
    assert ("*", "evaluations") in found["x-axis"]
    assert table_of(tmp_path, found, "front") == [["M00", 0.5]]
    fronts = table_of(tmp_path, found, "fronts")
    assert fronts == [[2, "online", 0.5, 0.25, "math | math[0:2]"]]
    assert [row[3] for row in table_of(tmp_path, found, "candidates")] == [0.5, None]
    recipes = [artifact for artifact in found["artifacts"] if artifact[0] == "recipes"]
    assert recipes == [("recipes", f"recipes-{run_id(folder)}", ["config.yaml", "front.csv"])]


def summary_of(folder: Path) -> dict[str, object]:
    """The summary of the only offline run in a folder, as wandb shows it."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[str, object] = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.summary.update:
            found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


@pytest.mark.filterwarnings("default")
def test_the_summary_has_plain_numbers_of_the_run_and_none_of_its_last_candidate(tmp_path: Path):
    folder = RunFolder(tmp_path)
    told = {"hypervolume": {"search": 0.5, "test": 0.25}, "front": {"search": 3}, "failed": 1}
    others = {"objectives": ["math"], "z_star": {"search": [1]}, "sources": {}, "evaluations": 1}
    folder.write_json(folder.summary, {**told, **others})
    logger = WandbLogger(folder, LoggingSettings(wandb="offline"), "tiny", "hm3")
    logger.start({"seed": 0})
    logger.evaluation(event(1))
    logger.metrics(1, {"agent/loss": 0.25})
    logger.finish("finished")
    found = summary_of(tmp_path)
    wanted = {"hypervolume": 0.5, "test_hypervolume": 0.25, "front_size": 3, "failed": 1}
    assert {key: found.get(key) for key in wanted} == wanted
    assert found["evaluations"] == 1 and found["status"] == "finished"
    assert not {"score/math", "evaluation/seconds", "agent/loss"} & set(found)


def test_a_run_of_a_sweep_has_the_id_that_the_sweep_gave_it(tmp_path: Path, monkeypatch):
    own = run_id(RunFolder(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert run_id(RunFolder(tmp_path)) == own
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert run_id(RunFolder(tmp_path)) == "given"


@pytest.mark.filterwarnings("default")
def test_a_search_goes_on_when_logging_fails_and_it_is_said(tmp_path: Path, monkeypatch, caplog):
    import wandb

    logger = WandbLogger(RunFolder(tmp_path), LoggingSettings(wandb="offline"), "tiny", "hm3")
    logger.start({"seed": 0})
    logger.evaluation(event(1))

    def broken(**named: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(wandb_logger.wandb, "Table", broken)
    logger.table("front", ["name"], [["M00"]])
    assert wandb.run is None
    logger.evaluation(event(2))
    logger.finish("finished")
    said = [record for record in caplog.records if record.name == wandb_logger.__name__]
    assert len(said) == 1
    assert "disk full" in caplog.text and f"wandb sync {tmp_path}" in caplog.text


@pytest.mark.filterwarnings("default")
def test_a_server_that_cannot_be_reached_leaves_an_offline_run(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_logger, "ANSWER_SECONDS", 1.0)
    began = time.perf_counter()
    logger = WandbLogger(RunFolder(tmp_path), LoggingSettings(wandb="auto"), "tiny", "hm3")
    logger.start({"seed": 0})
    logger.evaluation(event(1))
    logger.finish("finished")
    assert time.perf_counter() - began < 30
    assert "logged offline instead" in caplog.text and "wandb sync" in caplog.text
    assert read_back(tmp_path)["hypervolume"] == [0.125]


def test_weights_that_wandb_does_not_take_are_said(tmp_path: Path, monkeypatch, caplog):
    def broken(*arguments: object, **named: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(wandb_logger, "open_wandb", broken)
    log_weights(RunFolder(tmp_path), LoggingSettings(wandb="offline"), tmp_path)
    assert "gone" in caplog.text


@pytest.mark.filterwarnings("default")
def test_weights_are_an_artifact_of_the_same_run(tmp_path: Path):
    model = tmp_path / "picked"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    log_weights(RunFolder(tmp_path), LoggingSettings(wandb="offline"), model)
    (artifact,) = read_back(tmp_path)["artifacts"]
    assert artifact == ("model", f"model-{run_id(RunFolder(tmp_path))}", ["model.safetensors"])
