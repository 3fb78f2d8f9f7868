from __future__ import annotations

import hm3rl.config.schema
from hm3rl.config.schema import config_folder


def test_a_checkout_finds_its_configs():
    folder = config_folder()
    assert (folder / "config.yaml").is_file()
    assert (folder / "experiment" / "tiny.yaml").is_file()


def test_a_wheel_finds_the_configs_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "hm3rl"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "config.yaml").touch()
    monkeypatch.setattr(hm3rl.config.schema, "__file__", str(package / "config" / "schema.py"))
    assert config_folder() == package / "configs"
