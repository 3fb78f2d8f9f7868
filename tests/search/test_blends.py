"""Blends from the search to the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hm3rl import api
from hm3rl.agents.pareto_set import ParetoSetAgent
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.merging.blend import is_blend
from hm3rl.paths.assembly import assemble
from hm3rl.run.build import check_settings
from hm3rl.run.job import SearchResult

WORDS = ("agent=psl", "budget=30", "agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")


def test_a_network_proposes_blends(searched: Callable[..., SearchResult]) -> None:
    result = searched(*WORDS)
    assert result.problem.used == 30
    assert result.summary["chosen_by"]["policy"] > 0
    assert set(result.summary["chosen_by"]) <= {"uniform", "policy", "variation"}
    candidates = [result.problem.candidate(point.key) for point in result.problem.trace]
    assert not any(candidate.recipes for candidate in candidates)
    layered = [len(set(candidate.path.refs)) for candidate in candidates]
    assert max(layered) == result.problem.pool.num_layers
    assert any(is_blend(name) for name in candidates[-1].members)


def test_an_unseen_preference_gives_a_checkpoint(
    searched: Callable[..., SearchResult], tmp_path: Path
) -> None:
    run = api.open_run(searched(*WORDS).folder.path)
    assert isinstance(run.agent, ParetoSetAgent)
    choice = api.pick(run, {"translation": 1, "math": 3}, evaluate=False)
    assert choice.origin == "agent"
    api.export(run, choice.candidate, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokens = torch.arange(5, 25)[None]
    assembled = assemble(choice.candidate, run.problem.members)
    with torch.no_grad():
        ours, theirs = assembled(tokens).logits, loaded(tokens).logits
    np.testing.assert_allclose(ours.float(), theirs.float(), atol=1e-4)
    card = (tmp_path / "model" / "README.md").read_text()
    assert str(choice.candidate.path) in card
    again = api.merge(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    assert again is not None


def test_the_report_shows_blends(searched: Callable[..., SearchResult], tmp_path: Path) -> None:
    folder = searched(*WORDS).folder.path
    report = (folder / "report.html").read_text()
    data = json.loads(report.split('id="data">')[1].split("</script>")[0])
    (one,) = data["runs"]
    assert one["chosen_by"] == searched(*WORDS).summary["chosen_by"]
    assert any("{" in model["path"] for model in one["front"])


@pytest.mark.parametrize("name", ["architecture_only", "no_offline"])
def test_ablations_of_levels_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="walks blends"):
        check_settings(compose_settings(["agent=psl", f"search={name}"]))
