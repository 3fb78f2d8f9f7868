from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.reporting import wandb_logger
from hm3rl.reporting.wandb_logger import WandbLogger, resolve_mode, run_id
from hm3rl.runs import RunFolder
from hm3rl.settings import LoggingSettings
from tests.reporting.test_csv_logger import event


def test_without_a_key_auto_means_offline_and_online_is_refused(monkeypatch):
    monkeypatch.setattr(wandb_logger, "has_key", lambda: False)
    assert resolve_mode("auto") == "offline"
    with pytest.raises(InputError, match="API key"):
        resolve_mode("online")


def test_with_a_key_auto_means_online(monkeypatch):
    monkeypatch.setattr(wandb_logger, "has_key", lambda: True)
    assert resolve_mode("auto") == "online"


def test_an_unknown_mode_is_named():
    with pytest.raises(InputError, match="sometimes"):
        resolve_mode("sometimes")


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


@pytest.mark.filterwarnings("default")
def test_an_offline_run_can_be_read_back(tmp_path: Path):
    import wandb
    from wandb.proto import wandb_internal_pb2

    logger = WandbLogger(RunFolder(tmp_path), LoggingSettings(wandb="offline"), "tiny", "hm3")
    logger.start({"seed": 0})
    logger.phase("online", 1)
    logger.evaluation(event(1))
    logger.metrics(1, {"agent/loss": 0.25})
    logger.table("front", ["name", "math"], [["M00", 0.5]])
    logger.finish("finished")
    wandb.teardown()  # the service writes the file behind our back; this waits for it
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    history: dict[str, object] = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            history[name] = json.loads(item.value_json)
    assert history["hypervolume"] == 0.125
    assert history["score/math"] == 0.5
    assert history["agent/loss"] == 0.25
    assert any(name.startswith("front") for name in history)
