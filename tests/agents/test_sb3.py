"""Algorithms of Stable-Baselines3 and sb3-contrib under the agents' contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hm3rl.agents.sb3 import RANDOM, SB3Agent
from hm3rl.agents.sb3_learner import algorithms
from hm3rl.config.agents import SB3Settings
from hm3rl.config.schema import RunSettings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.envs.synthetic_blends import SyntheticBlends
from hm3rl.errors import InputError
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.paths.layer_path import LayerPath
from hm3rl.surrogate.dataset import Outcome

ON_MEMBERS = ("MaskablePPO", "PPO", "A2C", "TRPO", "DQN", "QRDQN", "RecurrentPPO")
ON_BLENDS = ("SAC", "TD3", "DDPG", "TQC")
BUDGET = 20
UNSEEN = sample_dirichlet(6, 2, np.random.default_rng(7))


class Problem:
    """A problem of known scores that refuses to be asked anything twice."""

    def __init__(self, blended: bool, layers: int = 4) -> None:
        self.problem = (
            SyntheticBlends.draw(layers, 2, 2, seed=0)
            if blended
            else SyntheticProblem.draw(layers, 3, 2, seed=0)
        )
        self.space = self.problem.space if blended else self.problem.space()
        self.asked: list[LayerPath] = []
        self.failing: set[int] = set()
        self.chosen_by: Counter[str] = Counter()

    def __call__(self, paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        assert len(set(paths)) == len(paths)
        assert not set(paths) & set(self.asked)
        self.asked += paths
        self.chosen_by.update(chosen_by)
        return [
            Outcome.failure() if number in self.failing else Outcome(vector, -vector)
            for number, vector in enumerate(self.problem.score_paths(paths))
        ]


def run_of(algorithm: str, budget: int = BUDGET, **options: object) -> RunSettings:
    return RunSettings(agent=SB3Settings(algorithm=algorithm, **options), budget=budget, seed=0)


def made(problem: Problem, settings: RunSettings) -> SB3Agent:
    return SB3Agent.fresh(problem.space, ("speed", "quality"), settings)


def ignore(values: dict[str, float]) -> None:
    pass


@pytest.mark.parametrize("algorithm", [*ON_MEMBERS, *ON_BLENDS])
def test_the_whole_budget_goes_to_new_paths_and_the_policy_is_saved(algorithm: str, tmp_path: Path):
    problem, settings = Problem(algorithm in ON_BLENDS), run_of(algorithm)
    SB3Agent.check(settings, began=False)
    assert SB3Agent.walks_blends(settings) == (algorithm in ON_BLENDS)
    agent = made(problem, settings)
    agent.offline(problem, 5, ignore)
    assert len(problem.asked) == 5
    agent.online(problem, BUDGET - 5, ignore)
    assert len(problem.asked) == BUDGET == problem.chosen_by.total()
    assert agent.env.illegal_episodes == 0
    decoded = [agent.decode(preference) for preference in UNSEEN]
    assert all(problem.space.offers(path) for path in decoded)
    agent.save(tmp_path / "agent.zip")
    again = SB3Agent.load(tmp_path / "agent.zip", settings)
    assert [again.decode(preference) for preference in UNSEEN] == decoded
    assert len(agent.propose(3, UNSEEN[0])) == 3
    assert agent.seconds > 0


def test_every_algorithm_on_offer_is_tried_here():
    assert set(algorithms()) == {*ON_MEMBERS, *ON_BLENDS}


def test_the_same_seed_makes_the_same_decisions():
    asked = []
    for _ in range(2):
        problem = Problem(blended=False)
        np.random.seed(len(asked))  # nobody else's generator matters
        made(problem, run_of("DQN")).online(problem, BUDGET, ignore)
        asked.append(problem.asked)
    assert asked[0] == asked[1]


def test_it_learns():
    problem = Problem(blended=False, layers=6)
    agent = made(problem, run_of("A2C", budget=100))
    agent.online(problem, 100, ignore)
    worth = [
        problem.problem.normalised(
            float(problem.problem.score_paths([agent.decode(one)])[0] @ one), one
        )
        for one in UNSEEN
    ]
    assert np.mean(worth) > 0.5  # 0 are random paths, 1 the best


def test_what_is_known_costs_nothing_and_is_paid():
    problem = Problem(blended=False, layers=2)
    agent = made(problem, run_of("PPO", stale=8))
    members = [LayerPath.parse(f"m0 | m{n}[0:2]") for n in range(3)]
    vectors = problem.problem.score_paths(members)
    agent.absorb(members, [Outcome(vector, -vector) for vector in vectors])
    agent.online(problem, 4, ignore)
    assert len(problem.asked) == 4 and not set(members) & set(problem.asked)
    np.testing.assert_array_equal(agent.env.score_paths(members), vectors)


def test_random_paths_take_the_place_of_known_ones_and_are_counted():
    problem = Problem(blended=False, layers=3)
    # Q-learning that neither explores nor learns walks one path only.
    still = dict.fromkeys(
        ("exploration_initial_eps", "exploration_final_eps", "learning_rate", "learning_starts"), 0
    )
    agent = made(problem, run_of("DQN", stale=4, kwargs=still))
    agent.online(problem, 12, ignore)
    assert len(problem.asked) == 12
    assert problem.chosen_by[RANDOM] >= 6


def test_a_space_without_a_new_path_ends_the_search_and_says_so(caplog):
    problem = Problem(blended=False, layers=2)  # nine paths
    made(problem, run_of("A2C", stale=8)).online(problem, 20, ignore)
    assert len(problem.asked) == 9
    assert "11 evaluations are not used" in caplog.text


@pytest.mark.parametrize("algorithm", ["DQN", "SAC"])
def test_a_replay_buffer_begins_with_stored_paths(algorithm: str):
    problem = Problem(algorithm == "SAC")
    agent = made(problem, run_of(algorithm))
    agent.absorb(paths := agent._random(3, np.random.default_rng(0)), problem(paths))
    buffer, envs, horizon = agent.learner.replay_buffer, 8, agent.env.space.horizon
    assert buffer.size() == 3 * horizon
    ends = buffer.dones[: buffer.size()].all(axis=1)
    assert ends.reshape(3, horizon).sum(axis=1).tolist() == [1, 1, 1]
    preferences = buffer.observations["preference"][: buffer.size()][ends]
    vectors = problem.problem.score_paths(paths)
    expected = np.einsum("nek,nk->ne", preferences, vectors)
    assert expected.shape == (3, envs)
    np.testing.assert_allclose(buffer.rewards[: buffer.size()][ends], expected, rtol=1e-5)
    # The actions lead there: they are those by which the paths are walked again.
    walked = agent.env.begin(np.random.default_rng(0), {})
    for action in buffer.actions[:horizon, 0]:
        legal = np.flatnonzero(agent.env.mask(walked))
        agent.env.take(walked, action if algorithm == "SAC" else legal[int(action[0])])
    assert agent.env.path(walked) == paths[0]


def test_failures_are_paid_for_and_never_a_reward():
    problem = Problem(blended=False)
    problem.failing = {0, 1, 2}
    agent = made(problem, run_of("DQN", kwargs={"learning_starts": 9999}))
    agent.online(problem, BUDGET, ignore)
    assert len(problem.asked) == BUDGET
    failed = [path for path, outcome in agent._outcomes.items() if not outcome.ok]
    assert failed
    buffer = agent.learner.replay_buffer
    assert buffer.timeouts.any()  # told as cut off, so that no zero is learned from


def test_arguments_reach_the_algorithm():
    problem = Problem(blended=True)
    kwargs = {"learning_rate": 0.01, "action_noise": 0.3, "policy_kwargs": {"net_arch": [7]}}
    learner = made(problem, run_of("TD3", kwargs=kwargs)).learner
    assert learner.learning_rate == 0.01
    assert learner.action_noise._sigma.tolist() == [0.3, 0.3]
    assert learner.policy.net_arch == [7]
    assert learner.gamma == 1.0


@pytest.mark.parametrize(
    ("algorithm", "options", "said"),
    [
        ("DQM", {}, "agent.algorithm=DQM"),
        ("CrossQ", {}, "use one of"),
        ("DQN", {"kwargs": {"lerning_rate": 1}}, "did you mean agent.kwargs.learning_rate"),
        ("DQN", {"kwargs": {"seed": 1}}, "no argument seed"),
        ("DQN", {"form": "box"}, "agent.form=box"),
        ("SAC", {"form": "discrete"}, "agent.form=discrete"),
        ("PPO", {"kwargs": {"batch_size": 1}}, "does not take"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(algorithm: str, options: dict, said: str):
    with pytest.raises(InputError, match=said):
        SB3Agent.check(run_of(algorithm, **options), began=False)


def test_ppo_acts_on_blends_on_request():
    problem, settings = Problem(blended=True), run_of("PPO", form="box")
    assert SB3Agent.walks_blends(settings)
    made(problem, settings).online(problem, BUDGET, ignore)
    assert len(problem.asked) == BUDGET
