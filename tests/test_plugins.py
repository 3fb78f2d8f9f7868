from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hm3rl import api, registry
from hm3rl.cli import app
from hm3rl.config.parts import SETTINGS, options_of
from hm3rl.errors import InputError
from hm3rl.plugins import absolute, load_plugins
from tests.small_search import TASKS


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


# --- parts of one's own, each in a file of tests/own_parts ----------------------------------------

OWN = Path(__file__).parent / "own_parts"


def plugins(*names: str) -> str:
    return f"plugins=[{','.join(str(OWN / f'{name}.py') for name in names)}]"


ALL = [
    plugins("operator", "task", "surrogate", "agent"),
    *(f"tasks.{task}.{split}_items=24" for task in TASKS for split in ("search", "test")),
    *("+tasks.digits.kind=lenient", "tasks.digits.least=0.75", "tasks.digits.search_items=24"),
    *("surrogate=nearest", "surrogate.neighbours=3", "agent=table", "agent.noise=0.1"),
    "search.parameter.operators=[thin_median,task_arithmetic]",
    *("search.parameter.members=2", "search.parameter_share=0.4"),
]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_every_file_is_short():
    for file in OWN.glob("*.py"):
        assert len(file.read_text().splitlines()) < 60, file


def test_one_search_uses_parts_of_every_kind(tmp_path: Path):
    run = tmp_path / "run"
    done = call("search", *ALL, "budget=16", f"output={run}")
    assert done.exit_code == 0, done.output
    settings = api.open_run(run).settings
    assert (settings.agent.name, settings.agent.noise) == ("table", 0.1)
    assert (settings.surrogate.name, settings.surrogate.neighbours) == ("nearest", 3)
    assert settings.tasks["digits"].least == 0.75
    asked = [json.loads(line) for line in (run / "archive.jsonl").read_text().splitlines()]
    assert "thin_median" in str(asked)
    picked = call("pick", run, "--prefer", "math=2 code=1", "--no-eval", "--json")
    assert picked.exit_code == 0, picked.output
    assert json.loads(picked.stdout)["origin"] == "agent"
    more = call("search", f"resume={run}", "budget=18")
    assert more.exit_code == 0, more.output


def test_a_searcher_of_ones_own_has_options(tmp_path: Path):
    words = [plugins("searcher"), "search=climber", "search.patience=3", "search.start=last"]
    items = [f"tasks.{t}.{s}_items=24" for t in TASKS for s in ("search", "test")]
    done = call("search", *words, *items, "budget=5", f"output={tmp_path / 'run'}")
    assert done.exit_code == 0, done.output
    refused = call("check", *words[:2], "search.patience=0")
    assert refused.exit_code == 2
    assert "search.patience=0" in refused.output
    refused = call("check", *words[:2], "search.steps=1")
    assert "unknown key search.steps" in refused.output


def test_a_file_of_ones_own_names_its_plugins(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /search: climber\n"
        f"plugins: [{OWN / 'searcher.py'}]\nsearch:\n  patience: 7\n"
    )
    code = (
        "from hm3rl import api\n"
        f"print(api.settings('experiment=mine', config_dir={str(tmp_path)!r}).search)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "GreedySettings(name='climber', patience=7" in done.stdout


def test_a_sweep_over_a_part_of_ones_own(tmp_path: Path):
    items = [f"tasks.{t}.{s}_items=24" for t in TASKS for s in ("search", "test")]
    words = [plugins("searcher"), "search=climber,parameter_only", "budget=4", *items]
    done = call("search", "-m", *words, f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.exit_code == 0, done.output
    names = {api.open_run(tmp_path / "sweep" / job).settings.search.name for job in "01"}
    assert names == {"climber", "parameter_only"}


def test_a_plugin_that_failed_half_way_registers_nothing(tmp_path: Path):
    file = tmp_path / "half.py"
    file.write_text(
        "from hm3rl.registry import register\n"
        "@register('searcher', 'half')\nclass Half: pass\n1 / 0\n"
    )
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load_plugins([str(file)])
    assert "half" not in registry.names("searcher")


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(InputError, match="hm3"):
        registry.register("searcher", "hm3")(object)
    with pytest.raises(InputError, match="unknown kind"):
        registry.register("sercher", "mine")


def test_a_package_that_is_missing_is_named_before_any_work():
    part = registry.Part("searcher", "x", object, needs=("no_such_package",))
    with pytest.raises(InputError, match="no_such_package"):
        part.check_packages()


@pytest.mark.parametrize("kind", registry.KINDS)
def test_what_ships_is_where_the_table_says(kind: str):
    for part in registry.parts(kind):
        if not part.missing_packages() and registry.is_shipped(kind, part.name):
            assert part.load() is not None
        if kind in SETTINGS:
            assert isinstance(options_of(kind, part.name), SETTINGS[kind])


def test_options_are_read_without_torch():
    code = (
        "import sys\nfrom hm3rl.config.parts import store_groups\nstore_groups()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
