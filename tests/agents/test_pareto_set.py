"""The agent over blends, on a problem whose Pareto set is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.agents.blend_policy import BlendPolicy
from hm3rl.agents.blend_proposals import directions, smooth_tchebycheff
from hm3rl.agents.pareto_set import ParetoSetAgent
from hm3rl.config.agents import PslSettings
from hm3rl.config.schema import RunSettings
from hm3rl.envs.synthetic_blends import SyntheticBlends
from hm3rl.errors import InputError
from hm3rl.objectives.indicators import non_dominated
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.utility import Utility
from hm3rl.paths.depth import depth_basis
from hm3rl.paths.layer_path import LayerPath
from hm3rl.surrogate.dataset import Outcome

PROBLEM = SyntheticBlends.draw(layers=5, experts=2, objectives=2, seed=3)
NAMES = ("x", "y")
GOALS = sample_dirichlet(12, 2, np.random.default_rng(1))


class Budget:
    """Scores paths and insists that each is new."""

    def __init__(self, fail: bool = False) -> None:
        self.seen: list[LayerPath] = []
        self.chosen_by: Counter[str] = Counter()
        self.fail = fail

    def __call__(self, paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        assert len({*paths, *self.seen}) == len(paths) + len(self.seen)
        self.seen += paths
        self.chosen_by.update(chosen_by)
        np.random.rand(len(paths))  # evaluations may draw random numbers; nobody must care
        ok = [not self.fail or (len(self.seen) + i) % 3 > 0 for i in range(len(paths))]
        vectors = PROBLEM.score_paths(paths)
        return [
            Outcome(vector, -vector) if good else Outcome.failure()
            for vector, good in zip(vectors, ok, strict=True)
        ]


def settings(**options: object) -> RunSettings:
    return RunSettings(agent=PslSettings(**options), seed=0)  # type: ignore[arg-type]


def searched(budget: int, fail: bool = False, **options: object) -> tuple[ParetoSetAgent, Budget]:
    agent, spent = ParetoSetAgent.fresh(PROBLEM.space, NAMES, settings(**options)), Budget(fail)
    agent.online(spent, budget, lambda values: None)
    assert len(spent.seen) == budget
    return agent, spent


def lost(agent: ParetoSetAgent, beam: int) -> float:
    """Mean utility that its answers to unseen preferences lack."""
    utility = Utility.of(agent.options)
    vectors = PROBLEM.score_paths([agent.decode(goal, beam) for goal in GOALS])
    best = np.array([PROBLEM.best(goal, utility) for goal in GOALS])
    return float((best - utility(vectors, 0, GOALS)).mean())


def test_the_policy_finds_the_pareto_set() -> None:
    agent, budget = searched(90)
    utility = Utility.of(agent.options)
    coarse = np.linspace(0.0, 1.0, 41)
    uniform = np.array([[a, b] for a in coarse for b in coarse])
    vectors = PROBLEM.value(PROBLEM.space.uniform(uniform))
    best = np.array([PROBLEM.best(goal, utility) for goal in GOALS])
    # The best of 1681 models that are the same at every depth: what layers are there to beat.
    without_layers = (best - utility(vectors[:, None], 0, GOALS[None]).max(axis=0)).mean()
    assert lost(agent, beam=0) < without_layers
    assert lost(agent, beam=8) < without_layers
    assert budget.chosen_by["policy"] > 25
    assert set(budget.chosen_by) <= {"uniform", "policy", "variation"}


def test_without_a_network_nothing_is_the_networks() -> None:
    agent, budget = searched(40, proposals=["variation", "hill_climbing"])
    assert set(budget.chosen_by) <= {"uniform", "variation", "hill_climbing"}
    assert lost(agent, beam=8) < 0.05


LAYERWISE = {"network": "autoregressive", "rollouts": 0.25}


def test_a_policy_that_goes_layer_by_layer_learns_from_its_own_rollouts() -> None:
    agent, budget = searched(60, **LAYERWISE)
    assert lost(agent, beam=8) < 0.05
    assert budget.chosen_by["rollout"] >= 12 and budget.chosen_by["policy"] > 0
    assert agent._episodes is not None and len(agent._episodes) == budget.chosen_by["rollout"]
    without, spent = searched(60, ppo=False, **LAYERWISE)
    assert without._episodes is None and spent.chosen_by["rollout"] >= 12
    assert spent.seen[:20] == budget.seen[:20] and spent.seen != budget.seen


def test_rollouts_that_failed_teach_nothing() -> None:
    agent, budget = searched(40, fail=True, **LAYERWISE)
    assert agent._episodes is not None and 0 < len(agent._episodes) < budget.chosen_by["rollout"]


def test_a_saved_policy_that_goes_layer_by_layer_answers_the_same(tmp_path: Path) -> None:
    agent, _ = searched(24, **LAYERWISE)
    agent.save(tmp_path / "agent.zip")
    again = ParetoSetAgent.load(tmp_path / "agent.zip", agent.settings)
    assert [again.decode(g) for g in GOALS] == [agent.decode(g) for g in GOALS]


@pytest.mark.parametrize("options", [{"rollouts": 0.2}, {**LAYERWISE, "proposals": ["variation"]}])
def test_rollouts_need_a_policy_that_draws(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"agent.rollouts"):
        ParetoSetAgent.check(settings(**options), began=False)


def test_failures_are_known_and_teach_nothing() -> None:
    agent, _ = searched(30, fail=True)
    assert len(agent.vectors) == 20 and np.isfinite(agent.vectors).all()


def test_the_same_seed_proposes_the_same_and_a_saved_agent_goes_on(tmp_path: Path) -> None:
    agent, budget = searched(24)
    assert [str(path) for path in searched(24)[1].seen] == [str(path) for path in budget.seen]
    agent.save(tmp_path / "agent.zip")
    again = ParetoSetAgent.load(tmp_path / "agent.zip", agent.settings)
    for beam in (0, 8):
        assert [again.decode(g, beam) for g in GOALS] == [agent.decode(g, beam) for g in GOALS]
    (preference,) = GOALS[:1]
    agent.refine(budget, 5, preference)
    assert len(budget.seen) == 29
    again.refine(Budget(), 5, preference)
    assert not set(again.propose(8)) & set(budget.seen[:24])


def test_an_agent_saved_with_an_older_kernel_finds_its_length_scales_anew() -> None:
    agent, _ = searched(24)
    saved = agent.arrays()
    saved["hyper"] = np.zeros((len(agent.objectives), 5))
    again = ParetoSetAgent.fresh(agent.space, agent.objectives, settings())
    again.restore(saved)
    goal = np.full(len(agent.objectives), 1 / len(agent.objectives))
    assert again.decode(goal) == agent.decode(goal)  # the policy's own answer, which was saved
    found, wanted = (one.gp.marginal(torch.as_tensor(agent.blends)).mean for one in (again, agent))
    np.testing.assert_allclose(found.detach(), wanted.detach(), atol=0.05)


def test_a_search_is_a_prefix_of_any_longer_one() -> None:
    assert searched(28)[1].seen == searched(44)[1].seen[:28]


def test_more_objectives_than_hypervolumes_are_computed_for() -> None:
    problem = SyntheticBlends.draw(layers=3, experts=2, objectives=5, seed=0)
    agent = ParetoSetAgent.fresh(problem.space, tuple("vwxyz"), settings())
    asked: list[LayerPath] = []

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        asked.extend(paths)
        return [Outcome(vector, -vector) for vector in problem.score_paths(paths)]

    agent.online(evaluate, 30, lambda values: None)
    assert len(set(asked)) == 30


@pytest.mark.parametrize("proposals", [["policy", "magic"], []])
def test_unknown_proposers_are_refused(proposals: list[str]) -> None:
    with pytest.raises(InputError, match=r"agent.proposals.*"):
        ParetoSetAgent.check(settings(proposals=proposals), began=False)


def test_a_policy_begins_at_the_blend_it_is_given() -> None:
    policy = BlendPolicy(objectives=3, depth=4, experts=2, largest=1.5, hidden=8)
    blend = np.random.default_rng(0).uniform(0.1, 1.4, size=(5, 2))
    policy.begin_at(blend)
    answers = policy(torch.as_tensor(sample_dirichlet(6, 3, np.random.default_rng(2))))
    np.testing.assert_allclose(answers.detach().numpy(), np.tile(blend, (6, 1, 1)), atol=1e-9)


def test_variations_move_whole_models_farther_than_single_layers() -> None:
    space = SyntheticBlends.draw(layers=8, experts=2, objectives=2, seed=0).space
    found = directions(space, 2000, np.random.default_rng(0))
    components = np.einsum("jr,mrn->mjn", depth_basis(space.depth), found)
    size = np.sqrt((components**2).mean(axis=(0, 2)))
    assert size[0] > 1.5 * size[2] > 3 * size[-1] > 0
    alone = (np.abs(components) > 1e-9).any(axis=2).sum(axis=1)
    assert (alone == 1).mean() > 0.05 and (alone == 9).mean() > 0.02


def test_the_smooth_utility_has_gradients_in_all_objectives() -> None:
    values = torch.tensor([[0.5, 0.9]], dtype=torch.float64, requires_grad=True)
    goals, utopia = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([1.1, 1.1]).double()
    smooth_tchebycheff(values, goals, utopia, 0.1).sum().backward()
    assert values.grad is not None and (values.grad < -0.02).all()
    sharp = smooth_tchebycheff(values, goals, utopia, 1e-4)
    assert float(sharp.detach()) == pytest.approx(0.5 * 0.6 + 0.05 * 0.4, abs=1e-6)


def test_posterior_means_are_nearer_to_the_truth_than_noisy_scores(tmp_path: Path) -> None:
    noise, rng = 0.02, np.random.default_rng(7)
    agent = ParetoSetAgent.fresh(PROBLEM.space, NAMES, settings(proposals=["variation"]))
    asked: list[LayerPath] = []
    assert agent.posterior([PROBLEM.space.decode(np.zeros(PROBLEM.space.shape))]) is None

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        asked.extend(paths)
        vectors = PROBLEM.score_paths(paths)
        vectors = vectors + noise * rng.standard_normal(vectors.shape)
        return [Outcome(vector, -vector) for vector in vectors]

    agent.online(evaluate, 60, lambda values: None)
    found = agent.posterior(asked)
    assert found is not None
    mean, error = found
    truth = PROBLEM.score_paths(asked)
    assert np.square(mean - truth).mean() < 0.85 * np.square(agent.vectors - truth).mean()
    assert (np.abs(mean - truth) < 2 * error).mean() > 0.8
    # The best of noisy scores are too good.
    lucky, likely = (non_dominated(vectors) for vectors in (agent.vectors, mean))
    too_good = float((agent.vectors - truth)[lucky].mean())
    assert float((mean - truth)[likely].mean()) < too_good
    agent.save(tmp_path / "agent.zip")
    again = ParetoSetAgent.load(tmp_path / "agent.zip", agent.settings).posterior(asked)
    np.testing.assert_allclose(again, found, atol=1e-9)
    # A score that is heard twice is one score.
    agent.observe(asked[:5], [Outcome(vector, -vector) for vector in agent.vectors[:5]])
    np.testing.assert_allclose(agent.posterior(asked), found, atol=1e-9)
