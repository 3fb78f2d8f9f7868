"""A folder is known by its record: checked and unchanged, or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.export.checkpoint import export_candidate
from hm3rl.export.record import RECORD_FILE, verify_record
from hm3rl.export.weights import parse_size
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet


@pytest.fixture
def folder(tiny_pool, tmp_path) -> Path:
    export_candidate(Candidate.whole("a", 3), MemberSet(tiny_pool), tmp_path / "model")
    return tmp_path / "model"


def test_an_exported_folder_is_verified_and_its_card_may_be_edited(folder):
    (folder / "README.md").write_text("# mine\n")
    record = verify_record(folder)
    assert record["passed"] is True
    assert record["logit_error"] <= record["tolerance"]
    assert set(record["files"]) == {f.name for f in folder.iterdir()} - {RECORD_FILE}


def damage(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif kind == "missing":
        (folder / "tokenizer.json").unlink()
    elif kind == "added":
        (folder / "more.bin").touch()
    elif kind == "no record":
        (folder / RECORD_FILE).unlink()
    elif kind == "failed":
        record = json.loads((folder / RECORD_FILE).read_text())
        (folder / RECORD_FILE).write_text(json.dumps(record | {"passed": False}))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("changed", "model.safetensors .* was changed"),
        ("missing", "tokenizer.json is missing"),
        ("added", "more.bin was added"),
        ("no record", RECORD_FILE),
        ("failed", "did not pass"),
    ],
)
def test_a_folder_changed_after_its_check_is_refused(folder, kind, named):
    damage(folder, kind)
    with pytest.raises(InputError, match=named):
        verify_record(folder)


def test_sizes():
    assert parse_size("5GB") == 5 * 10**9
    assert parse_size("1.5 MiB") == 3 * 2**19
    for text in ("5", "0GB", "GB", "five GB", "-1GB"):
        with pytest.raises(InputError, match="no size"):
            parse_size(text)
