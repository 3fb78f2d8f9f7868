"""Who may run generated programs under limits alone, and that everybody who would is asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.config.compose import to_dict
from hm3rl.config.schema import EvaluationSettings, RunSettings
from hm3rl.errors import InputError
from hm3rl.run.build import load_scoring_backend
from hm3rl.run.preflight import check_report
from hm3rl.tasks import build
from hm3rl.tasks.isolation import is_required
from hm3rl.tasks.sandbox import SandboxPool


@pytest.mark.parametrize(
    ("isolation", "sources", "required"),
    [
        ("auto", ["zoo:base", "zoo:math"], False),
        ("auto", ["zoo:base", "models/mine"], True),
        ("auto", ["smollm2:base"], True),
        ("auto", [], True),
        ("warn", ["models/mine"], False),
        ("require", ["zoo:base"], True),
    ],
)
def test_what_others_models_write_is_locked_up_by_the_kernel(
    isolation: str, sources: list[str], required: bool
) -> None:
    assert is_required(EvaluationSettings(isolation=isolation), sources) == required


@pytest.fixture
def limits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose kernel offers nothing."""
    monkeypatch.setattr(build, "SandboxPool", partial(SandboxPool, mechanisms=()))


TINY = (
    "experiment=tiny",
    "tasks.translation.search_items=4",
    "tasks.math.search_items=4",
    "tasks.code.search_items=4",
    "tasks.translation.test_items=4",
    "tasks.math.test_items=4",
    "tasks.code.test_items=4",
)
VERBS: dict[str, Callable[[RunSettings], object]] = {
    "search": api.search_with,
    "evaluate": lambda settings: api.evaluate("zoo:code", settings),
    "check": check_report,
    "a worker of the pool": lambda settings: load_scoring_backend(to_dict(settings)),
}


@pytest.mark.usefixtures("limits_only")
@pytest.mark.parametrize("verb", VERBS)
def test_it_is_refused_before_any_work(verb: str, tmp_path: Path) -> None:
    settings = api.settings(*TINY, "evaluation.isolation=require", f"output={tmp_path / 'run'}")
    with pytest.raises(InputError, match="by Python alone") as caught:
        VERBS[verb](settings)
    assert "evaluation.isolation=warn" in caught.value.remedy
    assert not (tmp_path / "run" / "evaluations.csv").exists()


@pytest.mark.usefixtures("limits_only")
def test_shipped_models_run_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert api.evaluate("zoo:code", api.settings(*TINY)).status == "ok"
    assert any("Python alone" in record.message for record in caplog.records)
    report = check_report(api.settings(*TINY))
    assert "Python alone" in report["code programs"]


@pytest.mark.usefixtures("limits_only")
def test_where_no_program_runs_nothing_is_asked() -> None:
    overrides = ("~tasks.code", "~export.prefer.code", "evaluation.isolation=require")
    settings = api.settings(*TINY, *overrides)
    assert api.evaluate("zoo:math", settings).status == "ok"
