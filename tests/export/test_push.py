"""Pushing: everything is checked locally first; only the hub itself is replaced here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hm3rl.errors import HM3Error, InputError
from hm3rl.export import push as push_module
from hm3rl.export.checkpoint import export_candidate
from hm3rl.export.push import push
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet


class Hub:
    """Stands where `HfApi` stands, and reads what it is given to upload."""

    calls: list[tuple[str, dict[str, Any]]]
    error: Exception | None = None

    def __init__(self, token: str) -> None:
        self.token = token

    def create_repo(self, repo_id: str, **settings: Any) -> None:
        Hub.calls.append(("create", {"repo_id": repo_id, "token": self.token, **settings}))

    def upload_folder(self, folder_path: Path, allow_patterns: list[str], **settings: Any) -> str:
        if Hub.error is not None:
            raise Hub.error
        content = {name: (folder_path / name).read_bytes() for name in allow_patterns}
        Hub.calls.append(("upload", {"content": content, **settings}))
        return "https://huggingface.co/me/model/commit/1"


@pytest.fixture
def folder(tiny_pool, tmp_path) -> Path:
    export_candidate(Candidate.whole("a", 3), MemberSet(tiny_pool), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def hub(monkeypatch) -> type[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(push_module, "get_token", lambda: None)
    monkeypatch.setattr(push_module, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    monkeypatch.setattr(Hub, "error", None)
    return Hub


def test_every_file_of_the_folder_is_uploaded(folder, hub):
    report = push(folder, "me/model", private=True, token="secret")
    (_, created), (_, uploaded) = hub.calls
    assert (created["repo_id"], created["private"], created["token"]) == (
        "me/model",
        True,
        "secret",
    )
    assert uploaded["content"] == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert report.files == tuple(sorted(uploaded["content"]))
    assert report.size == sum(file.stat().st_size for file in folder.iterdir())
    assert "huggingface.co" in report.url


def test_bad_input_is_refused_before_the_hub_is_asked(folder, hub, monkeypatch):
    with pytest.raises(InputError, match="no token"):
        push(folder, "me/model")
    for name in ("model", "a/b/c", "me/mo del", "me/-model"):
        with pytest.raises(InputError, match="names no repository"):
            push(folder, name, token="secret")
    with pytest.raises(InputError, match="no folder"):
        push(folder / "absent", "me/model")  # that comes before a login
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        push(folder, "me/model", token="secret")
    assert hub.calls == []


def test_a_folder_that_was_changed_is_not_pushed(folder, hub):
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="changed after its reload check"):
        push(folder, "me/model", token="secret")
    assert hub.calls == []


def test_a_broken_upload_is_a_failure_not_bad_input(folder, hub):
    hub.error = ConnectionResetError("gone")
    with pytest.raises(HM3Error, match="broke off") as caught:
        push(folder, "me/model", token="secret")
    assert not isinstance(caught.value, InputError)
