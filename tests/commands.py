"""Commands as tests call them."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from hm3rl.cli import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def assert_refused(result: Result, *named: str) -> None:
    assert result.exit_code == 2, result.output
    for word in named:
        assert word in result.output
    assert "->" in result.output  # every message says the way out
    assert "Traceback" not in result.output
