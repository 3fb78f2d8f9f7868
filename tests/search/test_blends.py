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
from hm3rl.config.agents import PslSettings
from hm3rl.config.compose import compose_settings
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.blend import is_blend
from hm3rl.objectives.indicators import hypervolume
from hm3rl.paths.assembly import assemble
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.run.build import check_settings
from hm3rl.run.conclusion import experts
from hm3rl.run.job import SearchResult
from hm3rl.search.architecture_level import posterior


def psl() -> RunSettings:
    return RunSettings(agent=PslSettings(), seed=0)


WORDS = ("agent=psl", "budget=30", "agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")


def test_a_network_proposes_blends(searched: Callable[..., SearchResult]) -> None:
    result = searched(*WORDS, "agent.proposals=[policy]")
    assert result.problem.used == 30
    assert result.summary["chosen_by"]["policy"] > 0
    assert set(result.summary["chosen_by"]) == {"uniform", "policy"}
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


def test_the_front_goes_by_posterior_means(searched: Callable[..., SearchResult]) -> None:
    result = searched(*WORDS)
    run, archive = api.open_run(result.folder.path), result.problem.archive
    assert run.posterior is not None and run.agent is not None
    assert run.posterior.means.keys == archive.keys
    mean, error = run.agent.posterior([run.candidate(key).path for key in archive.keys])
    np.testing.assert_allclose(run.posterior.means.normalised, mean, atol=1e-5)
    errors = np.array([run.posterior.errors[key] for key in archive.keys])
    np.testing.assert_allclose(errors / archive.z_star, error, atol=1e-5)
    assert {row.key for row in result.front} == set(run.posterior.means.front_keys())
    for row, model in zip(run.front_rows(), result.front, strict=True):
        at = archive.keys.index(row["key"])
        assert float(row["posterior_math"]) == pytest.approx(
            mean[at, 1] * archive.z_star[1], abs=1e-4
        )
        assert float(row["posterior_math_se"]) == pytest.approx(errors[at, 1], abs=1e-4)
        assert float(row["search_math"]) == pytest.approx(archive.vector(row["key"])[1], abs=1e-4)
        assert float(row["test_math"]) == pytest.approx(model.test.vector[1], abs=1e-4)
    volumes = result.summary["hypervolume"]
    assert result.summary["front"]["by"] == "posterior"
    assert volumes["posterior"]["search"] == pytest.approx(hypervolume(mean), abs=1e-4)
    shown = [model.test.vector for model in result.front]
    shown += [np.array(scores["test"]) for scores in result.summary["sources"].values()]
    z_star = result.summary["z_star"]["test"]
    assert volumes["posterior"]["test"] == pytest.approx(hypervolume(np.array(shown) / z_star))


def test_figures_that_methods_are_compared_by_are_of_scores(
    searched: Callable[..., SearchResult],
) -> None:
    problem, volumes = searched(*WORDS).problem, searched(*WORDS).summary["hypervolume"]
    assert volumes["search"] == problem.archive.hypervolume() != volumes["posterior"]["search"]
    front = [problem.candidate(key) for key in problem.archive.front_keys()]
    tested = [one.vector for one in problem.rescore([*front, *experts(problem)], "test")]
    z_star = searched(*WORDS).summary["z_star"]["test"]
    assert volumes["test"] == pytest.approx(hypervolume(np.array(tested) / z_star))


def test_what_a_surrogate_cannot_represent_stands_with_its_score(problem: MergeProblem) -> None:
    class Agent(ParetoSetAgent):
        def posterior(self, paths):
            return np.full((len(paths), 3), 0.5), np.full((len(paths), 3), 0.01)

    agent = Agent(BlendSpace(("math", "code"), problem.pool.num_layers), problem.objectives, psl())
    candidates = {problem.key(one): one for one in experts(problem)}
    found = posterior(problem, agent, candidates)
    assert found is not None
    for key, candidate in candidates.items():
        own = problem.evaluation(key)
        outside = candidate.path.stem == "translation"
        mean, error = (
            (own.vector, own.standard_errors)
            if outside
            else (0.5 * problem.z_star, 0.01 * problem.z_star)
        )
        np.testing.assert_allclose(found.means.vector(key), mean)
        np.testing.assert_allclose(found.errors[key], error)


@pytest.mark.parametrize("name", ["architecture_only", "no_offline"])
def test_ablations_of_levels_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="walks blends"):
        check_settings(compose_settings(["agent=psl", f"search={name}"]))


@pytest.mark.parametrize("words", [["paths=any"], ["paths.stem=math"]])
def test_paths_that_blends_do_not_walk_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match=words[0]):
        check_settings(compose_settings(["agent=psl", *words]))
