from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import load_agent
from hm3rl.agents.transfer import start_from
from hm3rl.config.agents import (
    AcquisitionSettings,
    GPSettings,
    HM3AgentSettings,
    LinearSettings,
    SurrogateSettings,
)
from hm3rl.config.schema import RunSettings
from hm3rl.config.values import CHOICES
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.errors import InputError
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import Outcome

PROBLEM = SyntheticProblem.draw(layers=6, members=4, objectives=3, seed=0)
NAMES = ("x", "y", "z")


def quick(
    seed: int = 0, surrogate: SurrogateSettings | None = None, **options: object
) -> RunSettings:
    small = HM3AgentSettings(
        embedding=8,
        hidden=16,
        pretrain_steps=60,
        distil_steps=60,
        replay_steps=4,
        model_generated=16,
        acquisition=AcquisitionSettings(proposals=120, samples=16, explore_share=0.25),
    )
    return RunSettings(
        seed=seed,
        surrogate=surrogate or GPSettings(fit_steps=15, refit_steps=4),
        agent=replace(small, **options),  # type: ignore[arg-type]
    )


def choices(settings: Any, above: str = "") -> dict[str, tuple[str, ...]]:
    """The words that each option of settings and their parts may be, by its key."""
    found: dict[str, tuple[str, ...]] = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value):
            found.update(choices(value, f"{above}{one.name}."))
        elif CHOICES in one.metadata:
            found[above + one.name] = one.metadata[CHOICES]
    return found


class Budget:
    """Scores paths and insists that each is new."""

    def __init__(self, fail: bool = False) -> None:
        self.seen: list[str] = []
        self.chosen_by: Counter[str] = Counter()
        self.fail = fail

    def __call__(self, paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        assert len(chosen_by) == len(paths)
        self.chosen_by.update(chosen_by)
        texts = [str(path) for path in paths]
        assert len(set(texts) | set(self.seen)) == len(texts) + len(self.seen)
        self.seen += texts
        np.random.rand(len(paths))  # evaluations may draw random numbers; nobody must care
        vectors = PROBLEM.score_paths(paths)
        ok = [not self.fail or len(self.seen) % 3 > 0 for _ in paths]
        return [Outcome(v, -v, good) for v, good in zip(vectors, ok, strict=True)]


def run(settings: RunSettings, offline: int, online: int) -> tuple:
    agent, budget = MergeAgent.fresh(PROBLEM.space(), NAMES, settings), Budget()
    if offline:
        agent.offline(budget, offline, lambda values: None)
        assert len(budget.seen) == offline
    agent.online(budget, online, lambda values: None)
    assert len(budget.seen) == offline + online
    return agent, budget.seen


def test_it_spends_its_budget_exactly_and_ends_near_the_optimum() -> None:
    agent, _ = run(quick(), 40, 45)
    goals = sample_dirichlet(10, 3, np.random.default_rng(3))
    archive = np.mean(
        [PROBLEM.normalised(float((agent.state.dataset.vectors @ g).max()), g) for g in goals]
    )
    decoded = [PROBLEM.score_paths([agent.decode(g, beam=4)])[0] @ g for g in goals]
    best = np.mean([PROBLEM.normalised(float(u), g) for u, g in zip(decoded, goals, strict=True)])
    assert archive > 0.85
    assert best > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"scalarisation": "tchebycheff", "conditioning": "film"},
        {"acquisition": AcquisitionSettings(enabled=False), "anchor": "kl", "rollouts": 4},
        {"reward": "spread", "critic": "scalar", "anchor": "none", "hindsight": False},
        {"acquisition": AcquisitionSettings(proposals=80, samples=8, function="utility")},
        {"length_cost": 0.01, "regression": "cloning", "model_generated": 0},
        {"surrogate": LinearSettings()},
        {"head": "wolpertinger", "neighbours": 3, "anchor": "kl"},
        {"head": "wolpertinger", "reward": "spread", "critic": "scalar", "gamma": 0.99},
        {"regression": "iql", "gamma": 0.99},
    ],
)
def test_every_option_runs_without_an_offline_phase(options: dict) -> None:
    run(quick(**options), 0, 21)


def test_the_same_seed_makes_the_same_decisions() -> None:
    first, second, other = (run(quick(seed), 16, 18)[1] for seed in (1, 1, 2))
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"surrogate": LinearSettings(fit_steps=15)},
        {"head": "wolpertinger"},
        {"likelihood_weight": 0.5},
    ],
)
def test_an_agent_survives_its_zip(tmp_path: Path, options: dict) -> None:
    agent, _ = run(quick(**options), 12, 8)
    agent.save(tmp_path / "agent.zip")
    again = MergeAgent.load(tmp_path / "agent.zip")
    goals = sample_dirichlet(5, 3, np.random.default_rng(0))
    for beam in (0, 4):
        assert [again.decode(g, beam) for g in goals] == [agent.decode(g, beam) for g in goals]
    paths = [agent.decode(g) for g in goals]
    for found, expected in zip(again.predict(paths), agent.predict(paths), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_an_agent_that_version_0_1_saved_opens_as_it_was(tmp_path: Path) -> None:
    old = Path(__file__).parent / "data" / "agent_version_1.zip"
    agent = load_agent(old, quick())
    assert isinstance(agent, MergeAgent)
    options = agent.state.settings
    assert (options.hidden, options.model_generated, options.acquisition.samples) == (4, 4, 8)
    assert options.acquisition.function == "utility"
    assert agent.state.surrogate.settings == LinearSettings(fit_steps=3, refit_steps=1)
    goals = [np.array([share, 1 - share]) for share in (0.0, 0.5, 1.0)]
    assert {str(agent.decode(goal)) for goal in goals} == {"m0 | m1[0] + m2[1] + m1[2]"}
    # What that version chose and predicted, from 16 paths and three whole models.
    best = ["m0 | m1[0:2] + m0[2]", "m0 | m2[0] + m1[1] + m0[2]", "m0 | m2[0] + m1[1:3]"]
    paths = [agent.decode(goal, beam=4) for goal in goals]
    assert [str(path) for path in paths] == best and len(agent.state.dataset) == 16
    mean, std = agent.predict(paths)
    expected = [[-0.49877, 2.089271], [0.066106, 1.888844], [0.970907, -0.013941]]
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    expected = [[0.000588, 0.000975], [0.000457, 0.000758], [0.000488, 0.00081]]
    np.testing.assert_allclose(std, expected, atol=1e-5)
    agent.save(tmp_path / "agent.zip")
    again = MergeAgent.load(tmp_path / "agent.zip")
    np.testing.assert_allclose(again.predict(paths)[0], mean, atol=1e-8)
    problem = SyntheticProblem.draw(layers=3, members=3, objectives=2, seed=6)
    small = quick(embedding=4, hidden=4)
    start_from(MergeAgent.fresh(problem.space(), ("x", "y"), small).state, str(old))


def test_a_file_that_is_no_agent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent.zip").write_text("nothing")
    with pytest.raises(InputError, match="no saved agent"):
        MergeAgent.load(tmp_path / "agent.zip")


def test_what_is_absorbed_is_free_and_never_asked_for() -> None:
    space = PROBLEM.space()
    agent, budget = MergeAgent.fresh(space, NAMES, quick()), Budget()
    whole = [space.decode(space.whole(m)) for m in range(4)]
    own = [path for path in whole if space.offers(path)]  # only m0's stem is legal
    stranger = LayerPath.whole("stranger", 6)
    outcomes = [Outcome(v, -v) for v in PROBLEM.score_paths(own)]
    agent.absorb([*own, stranger], [*outcomes, outcomes[0]])
    assert len(agent.state.dataset) == len(own) == 1
    agent.online(budget, 12, lambda values: None)
    assert str(own[0]) not in budget.seen


@pytest.mark.parametrize("head", ["categorical", "wolpertinger"])
def test_ppo_learns_nothing_from_rollouts_that_failed(head: str) -> None:
    agent = MergeAgent.fresh(PROBLEM.space(), NAMES, quick(head=head, rollouts=4))
    before = {name: value.clone() for name, value in agent.state.policy.state_dict().items()}
    used = agent.state.roll_out_real(lambda paths, _: [Outcome.failure() for _ in paths])
    assert used == len(agent.state.dataset.failed) > 0 and len(agent.state.replay) == 0
    after = agent.state.policy.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_failures_are_charged_passed_over_and_remembered(tmp_path: Path) -> None:
    agent, budget = (
        MergeAgent.fresh(PROBLEM.space(), NAMES, quick(rollouts=4)),
        Budget(fail=True),
    )
    agent.offline(budget, 12, lambda values: None)
    agent.online(budget, 20, lambda values: None)
    assert len(budget.seen) == 32
    assert 0 < len(agent.state.dataset.vectors) < 32
    agent.save(tmp_path / "agent.zip")
    again = MergeAgent.load(tmp_path / "agent.zip").state.dataset
    assert len(again) == 32
    np.testing.assert_array_equal(again.failed, agent.state.dataset.failed)


def test_a_small_space_is_exhausted_without_repeating() -> None:
    limits = PathLimits(2, 2, stem="m0", actions="same_depth")
    space = PathSpace(
        ("m0", "m1"),
        (2, 2),
        limits,
        np.eye(2, dtype=np.float32),
        np.zeros((2, 2, 1), dtype=np.float32),
        np.ones((2, 2), dtype=bool),
    )
    seen: list[str] = []

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        seen.extend(str(path) for path in paths)
        return [Outcome(np.array([p.refs[0].member == "m0", 0.5]), np.zeros(2)) for p in paths]

    agent = MergeAgent.fresh(space, ("x", "y"), quick(rollouts=2))
    agent.offline(evaluate, 3, lambda values: None)
    agent.online(evaluate, 10, lambda values: None)
    assert len(seen) == len(set(seen)) == 4


def test_it_says_which_of_its_parts_chose_each_path() -> None:
    agent, budget = MergeAgent.fresh(PROBLEM.space(), NAMES, quick(rollouts=4)), Budget()
    agent.offline(budget, 8, lambda values: None)
    assert set(budget.chosen_by) <= {"behaviour", "variation", "hill_climbing"}
    agent.online(budget, 80, lambda values: None)
    made = {"behaviour", "variation", "hill_climbing", "policy", "rollout"}
    assert set(budget.chosen_by) == made and budget.chosen_by.total() == 88


def test_merges_that_are_no_members_teach_the_outcome_model(tmp_path: Path) -> None:
    agent, budget = MergeAgent.fresh(PROBLEM.space(), NAMES, quick()), Budget()
    vectors = PROBLEM.value(np.tile(np.arange(4)[:, None], (1, 6)))
    descriptors = np.zeros((4, 6, 1), dtype=np.float32)
    agent.learn_merges(np.eye(4, dtype=np.float32), descriptors, [Outcome(v, v) for v in vectors])
    agent.offline(budget, 12, lambda values: None)
    whole = agent.space.decode(agent.space.whole(2))
    mean, std = agent.predict([whole])
    assert str(whole) not in budget.seen
    np.testing.assert_allclose(mean[0], vectors[2], atol=0.25 * vectors.std(axis=0).max())
    agent.save(tmp_path / "agent.zip")
    again = MergeAgent.load(tmp_path / "agent.zip").predict([whole])
    np.testing.assert_allclose(again[0], mean, atol=1e-8)
    np.testing.assert_allclose(again[1], std, atol=1e-8)


@pytest.mark.parametrize("key", sorted(choices(HM3AgentSettings())))
def test_words_that_name_no_option_are_refused(key: str) -> None:
    settings = quick()
    *room, name = key.split(".")
    setattr(getattr(settings.agent, room[0]) if room else settings.agent, name, "nonsense")
    with pytest.raises(InputError, match=f"agent.{key}=nonsense"):
        MergeAgent.fresh(PROBLEM.space(), NAMES, settings)
