from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl.config.compose import compose_settings
from hm3rl.config.explain import dotted_keys
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.files import write_text


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("agent.entropi=1", "unknown key agent.entropi", "did you mean agent.entropy?"),
        ("bugdet=3", "unknown key bugdet", "did you mean budget?"),
        ("agent.lr=1", "unknown key agent.lr", "did you mean agent.learning_rate?"),
        ("agent.gama=1", "unknown key agent.gama", "did you mean agent.gamma?"),
        ("dtype=bfloat16", "unknown key dtype", "did you mean pool.dtype?"),
        ("agent.zzz=1", "unknown key agent.zzz", "keys of agent: name, scalarisation, "),
        ("zzz=1", "unknown key zzz", "keys of a run: name, root"),
        ("search=hm4", "there is no search=hm4", "did you mean hm3? there are: architecture_only"),
        ("experiment=mine", "there is no experiment=mine", "--config-dir"),
        ("agent=mine", "there is no agent=mine", "plugins=[FILE.py]"),
        ("budget=many", "Value 'many'", "a value of that type"),
        ("x=[", "cannot read 'x=['", "KEY=VALUE"),
        ("tasks.arc.kind=lm_eval", "unknown key tasks.arc", "+tasks.arc.kind=KIND"),
        ("expriment=tiny", "unknown key expriment", "did you mean experiment?"),
        ("evaluation/bakend=ray", "evaluation/bakend", "did you mean evaluation/backend?"),
        ("seed=1,2", "seed=1,2", "add -m"),
    ],
)
def test_a_slip_on_the_command_line_is_named_with_the_way_out(
    override: str, what: str, remedy: str
):
    with pytest.raises(InputError) as caught:
        compose_settings([override])
    assert what in caught.value.what
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "override",
    ["+bugdet=3", "+agent.gama=1", "+agent.acquisition.enabld=true", "+tasks.math.pth=x"],
)
def test_a_key_that_nothing_reads_cannot_be_added(override: str):
    with pytest.raises(InputError, match=f"unknown key {override[1:].partition('=')[0]}"):
        compose_settings([override])


def test_keys_of_a_mapping_can_be_added():
    assert compose_settings(["+export.prefer.math=2"]).export.prefer["math"] == 2


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("# @package _global_\nbugdet: 3\n", "bugdet in experiment/mine", "mean budget?"),
        ("# @package _global_\npool: {dtyp: x}\n", "pool.dtyp in experiment/mine", "pool.dtype?"),
        ("# @package _global_\nbudget 3\nseed: 1\n", "mine.yaml, line 3 is not YAML", "key: value"),
        ("# @package _global_\nhydra: {run: {dir: x}}\n", "hydra.run.dir", "output=FOLDER"),
        ("# @package _global_\ntasks: null\n", "field 'tasks' is not Optional", "value of that"),
        ("# @package _global_\na: &a [*a]\n", "nested too deeply", "levels"),
        ("defaults: [{override /pool: own}]\n", "experiment/mine", "# @package _global_"),
    ],
)
def test_a_slip_in_a_file_is_named_with_the_file(tmp_path: Path, text: str, what: str, remedy: str):
    (tmp_path / "experiment").mkdir()
    write_text(tmp_path / "experiment" / "mine.yaml", text)
    with pytest.raises(InputError) as caught:
        compose_settings([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert what in caught.value.what
    assert remedy in caught.value.remedy


def test_dotted_keys_reach_into_the_parts():
    keys = list(dotted_keys(RunSettings))
    assert {"budget", "pool.dtype", "search.parameter.members", "agent.acquisition.enabled"} <= {
        *keys
    }
    assert len(keys) == len(set(keys))
