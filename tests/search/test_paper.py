"""The paper's row, and networks that start from another run's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.nn import Module

import hm3rl.paths.members as members_module
from hm3rl import api
from hm3rl.agents.online import OnlineLoop
from hm3rl.agents.regression import Regression
from hm3rl.agents.separate import SeparateAgents
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.config.compose import compose_settings
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import HM3Settings, ParameterSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.run.build import check_settings
from hm3rl.run.job import SearchResult
from hm3rl.search.hm3 import HM3
from hm3rl.search.parameter_level import BATCH
from hm3rl.search.preference_members import theta
from hm3rl.surrogate.dataset import Outcome
from hm3rl.surrogate.gp import PathGP
from hm3rl.surrogate.path_surrogate import PathSurrogate
from tests.small_search import FEW_ITEMS

EXPERTS = ("translation", "math", "code")


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("the paper has nothing of the kind")


PAPER = ParameterSettings(
    operators=["dare_ties"], scale_min=1.0, scale_max=1.0, density_min=0.5, density_max=0.5
)


def test_theta_is_the_same_merge_for_preferences_of_one_lattice_point() -> None:
    settings = ParameterSettings(operators=["dare_ties"], scale_min=1.0, scale_max=1.0)
    one = theta(np.array([0.52, 0.28, 0.2]), EXPERTS, settings)
    assert one == theta(np.array([0.48, 0.33, 0.19]), EXPERTS, settings)
    assert dict(one.weights) == pytest.approx({"translation": 0.5, "math": 0.3, "code": 0.2})
    assert (one.operator, one.scale) == ("dare_ties", 1.0)
    assert one != theta(np.array([0.6, 0.2, 0.2]), EXPERTS, settings)


def test_the_papers_row_is_one_word() -> None:
    settings = compose_settings(["agent=hm3_paper"])
    agent = settings.agent
    assert isinstance(agent, HM3AgentSettings) and isinstance(settings.search, HM3Settings)
    assert (settings.search.name, settings.surrogate.name) == ("no_offline", "none")
    assert settings.paths.alignment == "mlp" and agent.per_preference
    assert settings.search.parameter == replace(PAPER, source="preference")
    assert (agent.head, agent.anchor, agent.gamma) == ("wolpertinger", "none", 0.99)
    # Whatever else teaches the networks or proposes paths is off.
    assert not (agent.critic_warm_up or agent.replay_steps or agent.model_generated)
    assert not (agent.distil_steps or agent.hindsight or agent.acquisition.enabled)


def test_the_papers_row_runs_with_one_theta_and_fresh_networks_for_each_preference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No surrogate is fitted or asked, not even a regression that would refuse; nothing regresses.
    for owner, name in (
        *((PathSurrogate, name) for name in ("_condition", "mean", "predict", "samples")),
        *((PathGP, name) for name in ("fit", "mean", "marginal", "posterior")),
        *((Regression, name) for name in ("step", "distil")),
        (OnlineLoop, "_rescue"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    result = api.search(
        *(word for word in FEW_ITEMS if not word.startswith(("agent.", "search."))),
        "agent=hm3_paper",
        "agent.preferences=2",
        "agent.rollouts=4",
        "agent.hidden=16",
        "agent.embedding=8",
        "budget=16",
        f"output={tmp_path / 'run'}",
    )
    agents = result.agent
    assert isinstance(agents, SeparateAgents)
    assert result.problem.used == 16
    for agent, preference in zip(agents.agents, agents.preferences, strict=True):
        members = agent.space.members
        assert members[:-1] == EXPERTS
        recipe = result.problem.members.recipe(members[-1])
        assert recipe is not None and recipe == theta(preference, EXPERTS, PAPER)
    stitched = [
        candidate
        for candidate in map(result.problem.candidate, result.problem.archive.keys)
        if candidate.path.stitch_points
    ]
    assert stitched and all(candidate.alignment.startswith("mlp@") for candidate in stitched)
    run = api.open_run(tmp_path / "run")
    choice = api.pick(run, {"math": 1.0}, evaluate=False)
    assert choice.origin == "agent"
    refined = agents.agents[0]
    known = len(refined.state.dataset)
    scored = [Outcome(np.full(3, 0.5), np.ones(3))]
    refined.refine(lambda paths, _: scored * len(paths), 3, np.array([1.0, 0.0, 0.0]))
    assert known < len(refined.state.dataset) <= known + 3


def test_a_run_starts_from_the_networks_of_another(
    searched: Callable[..., SearchResult], tmp_path: Path
) -> None:
    first = searched("budget=20").folder.path
    result = api.search(
        *FEW_ITEMS, f"agent.init_from={first}", "budget=12", "seed=4", f"output={tmp_path / 'b'}"
    )
    assert result.problem.used == 12


def test_networks_that_do_not_fit_are_refused_before_anything_is_charged(
    searched: Callable[..., SearchResult], problem: MergeProblem
) -> None:
    first = searched("budget=20").folder.path
    search = HM3Settings(parameter=ParameterSettings(members=3))
    settings = RunSettings(search=search, agent=HM3AgentSettings(init_from=str(first)))
    with pytest.raises(InputError, match="members 5 there and 6 here"):
        HM3(settings).search(problem, 20)
    assert problem.used == 0


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["agent.init_from=nowhere"], "init_from=nowhere"),
        (["agent.per_preference=true", "agent.init_from=nowhere"], "init_from with"),
        (["agent=hm3_paper", "budget=19"], "budget=19 for agent.preferences=10 and 2 phases"),
        (["search.parameter.source=luck"], "source"),
        (["agent=hm3_paper", "~pool.experts.math"], "2 experts and 3 tasks"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    overrides: list[str], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        check_settings(compose_settings(overrides))


def test_no_merge_is_made_twice_though_the_cache_forgets_most_of_them(
    problem: MergeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[tuple[str, int | None]] = []
    make = members_module.merged_module

    def count(
        vectors: TaskVectors, recipe: MergeRecipe, module: Module, layer: int | None
    ) -> Module:
        merged.append((recipe.name, layer))
        return make(vectors, recipe, module, layer)

    monkeypatch.setattr(members_module, "merged_module", count)
    expert = problem.pool.model("math")
    problem.members.cache_bytes = (BATCH + 1) * sum(p.nbytes for p in expert.parameters())
    searcher = HM3(RunSettings(search=HM3Settings(parameter=ParameterSettings(members=1))))
    pool = searcher._pool(problem, 2 * BATCH + 4, np.random.default_rng(0))
    assert len(pool.others) == 2 * BATCH + 3
    searcher._agent(problem, pool)
    assert len(merged) == len(set(merged)) == (2 * BATCH + 4) * (1 + problem.pool.num_layers)
