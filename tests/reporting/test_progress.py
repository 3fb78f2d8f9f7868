from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from hm3rl.reporting.progress import ProgressLogger


def shown(status: str, terminal: bool) -> list[str]:
    """Lines that a run of one phase leaves on an 80-column console, escape codes taken away."""
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, no_color=True)
    logger = ProgressLogger(10, console, Path("runs/a"))
    logger.start({})
    logger.phase("online", 7)
    logger.finish(status)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_file_gets_one_line_a_phase_and_nothing_that_moves():
    assert shown("finished", terminal=False) == ["run: runs/a", "online: up to 7 evaluations"]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_unfinished_run_says_how_to_go_on(status: str, terminal: bool):
    assert f"{status}; go on with: hm3rl search resume=runs/a" in shown(status, terminal)[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_that_would_be_refused_again_gets_no_such_advice(terminal: bool):
    assert not any("resume" in line for line in shown("refused", terminal))
