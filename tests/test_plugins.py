from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.plugins import absolute, load_plugins


def test_a_file_is_loaded_once(tmp_path: Path):
    file = tmp_path / "counted.py"
    file.write_text("import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\n")
    first, second = load_plugins([str(file), str(file)])
    assert first is second
    assert sys.counted == 1


def test_a_file_is_named_absolutely(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute(["mine.py", "package.module"]) == [str(tmp_path / "mine.py"), "package.module"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nowhere.py", None, "no plugin file"),
        ("no_such_package.module", None, "cannot be imported"),
        ("broken.py", "1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_refused_when_the_configuration_is_read(
    tmp_path: Path, name: str, text: str | None, said: str
):
    if text is not None:
        (tmp_path / name).write_text(text)
    plugin = str(tmp_path / name) if name.endswith(".py") else name
    with pytest.raises(InputError, match=said):
        api.settings(f"plugins=[{plugin}]")
