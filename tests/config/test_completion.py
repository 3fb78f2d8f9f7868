from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hm3rl.config.completion import completions, in_shell


@pytest.mark.parametrize(
    ("typed", "before", "found"),
    [
        ("bud", (), ["budget="]),
        ("evaluation.be", (), []),
        ("evaluation.ba", (), ["evaluation.backend=", "evaluation.batch_size="]),
        ("evaluation.backend=", (), ["evaluation.backend=in_process", "evaluation.backend=ray"]),
        ("experiment=tiny", (), ["experiment=tiny", "experiment=tiny5", "experiment=tiny_length"]),
        ("agent=h", (), ["agent=hm3", "agent=hm3_paper"]),
        ("agent.learn", (), ["agent.learning_rate="]),
        ("agent.acquisition.f", (), ["agent.acquisition.function="]),
        ("agent.kw", ("agent=sb3",), ["agent.kwargs."]),
        ("agent.kw", (), []),
        ("agent.hindsight=", (), ["agent.hindsight=true", "agent.hindsight=false"]),
        ("nothing.at.all", (), []),
        ("seed=", (), []),
    ],
)
def test_what_is_typed_is_gone_on_with(typed: str, before: tuple[str, ...], found: list[str]):
    assert completions(typed, before) == found


@pytest.mark.parametrize(
    ("typed", "before", "found"),
    [
        ("agent=hm3_", (), ["agent=hm3_paper"]),
        ("hm3_", ("agent", "="), ["hm3_paper"]),
        ("=", ("evaluation.backend",), ["in_process", "ray"]),
        ("agent.alg", ("agent", "=", "sb3"), ["agent.algorithm="]),
    ],
)
def test_a_shell_that_divides_words_at_the_sign_is_understood(
    typed: str, before: tuple[str, ...], found: list[str]
):
    assert in_shell(typed, before) == found


@pytest.mark.parametrize(
    ("words", "found"), [("budg", ["budget="]), ("agent=sb3 agent.alg", ["agent.algorithm="])]
)
def test_the_shell_is_told(words: str, found: list[str]):
    line = f"hm3rl search {words}"
    asked = {"_HM3RL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    done = subprocess.run(
        [sys.executable, "-c", "from hm3rl.cli import app; app(prog_name='hm3rl')"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert all(word in done.stdout for word in found), done.stderr
