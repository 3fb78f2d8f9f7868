from __future__ import annotations

import pytest

from hm3rl.errors import InputError
from hm3rl.reporting import wandb_mode
from hm3rl.reporting.wandb_mode import resolve_mode


@pytest.fixture(autouse=True)
def no_mode(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


def test_without_a_key_auto_means_offline_and_online_is_refused(monkeypatch):
    monkeypatch.setattr(wandb_mode, "has_key", lambda: False)
    assert resolve_mode("auto") == "offline"
    with pytest.raises(InputError, match="API key"):
        resolve_mode("online")


def test_with_a_key_auto_means_online(monkeypatch):
    monkeypatch.setattr(wandb_mode, "has_key", lambda: True)
    assert resolve_mode("auto") == "online"


def test_an_unknown_mode_is_named():
    with pytest.raises(InputError, match="sometimes"):
        resolve_mode("sometimes")


@pytest.mark.parametrize("configured", ["auto", "online", "offline"])
@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("online", "online"),
        ("offline", "offline"),
        ("dryrun", "offline"),
        ("disabled", "disabled"),
    ],
)
def test_the_variable_outranks_the_configuration(
    configured: str, said: str, mode: str, monkeypatch
):
    monkeypatch.setattr(wandb_mode, "has_key", lambda: True)
    monkeypatch.setenv("WANDB_MODE", said)
    assert resolve_mode(configured) == mode


def test_the_variable_turns_nothing_on_that_was_not_asked_for(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    assert resolve_mode("disabled") == "disabled"


def test_a_mode_of_the_variable_that_is_none_or_has_no_key_is_named(monkeypatch):
    monkeypatch.setattr(wandb_mode, "has_key", lambda: False)
    monkeypatch.setenv("WANDB_MODE", "perhaps")
    with pytest.raises(InputError, match="WANDB_MODE=perhaps"):
        resolve_mode("auto")
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match="WANDB_MODE=online, but wandb has no API key"):
        resolve_mode("auto")
