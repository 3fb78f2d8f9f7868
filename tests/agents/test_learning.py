from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from hm3rl.agents.decoding import roll_out
from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.offline import pretrain
from hm3rl.agents.online import OnlineLoop
from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.ppo import build_ppo
from hm3rl.agents.regression import Regression
from hm3rl.agents.replay import Replay
from hm3rl.agents.served import ServedPreferences
from hm3rl.agents.state import AgentState
from hm3rl.config.agents import AcquisitionSettings, HM3AgentSettings, NoSurrogateSettings
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace
from hm3rl.paths.variation import random_walk
from hm3rl.surrogate.dataset import Outcome
from tests.agents.test_policy import K, M, make_policy, make_space

LEFT, RIGHT = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def settings(**options: object) -> HM3AgentSettings:
    return HM3AgentSettings(embedding=8, hidden=16, pretrain_rate=5e-3, **options)  # type: ignore[arg-type]


def share_of_first(space: PathSpace, row: np.ndarray) -> np.ndarray:
    """(share of layers from member a, share from the others)."""
    used = row[1:][row[1:] < space.stop]
    first = float((space.token_member[used] == 0).mean())
    return np.array([first, 1.0 - first])


def regression_of(policy: PathPolicy, options: HM3AgentSettings) -> Regression:
    utility = Utility(options.scalarisation, options.length_cost, options.utopia)  # type: ignore[arg-type]
    return Regression(policy, options, ServedPreferences(K), utility, np.random.default_rng(0))


def filled_replay(space: PathSpace, n: int = 150) -> Replay:
    rng = np.random.default_rng(0)
    replay = Replay(space, K)
    rows = np.stack([random_walk(space, rng) for _ in range(n)])
    vectors = np.stack([share_of_first(space, row) for row in rows])
    replay.add(rows, vectors, rng.dirichlet(np.ones(K), size=n))
    return replay


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighting": "step"},
        {"scalarisation": "tchebycheff"},
        {"hindsight": False, "temperature": 0.1},
    ],
)
def test_regression_learns_which_paths_serve_which_preference(options: dict) -> None:
    space = make_space(actions="same_depth")
    replay, policy = filled_replay(space), make_policy(space)
    regression = regression_of(policy, settings(**options))
    for _ in range(150):
        regression.step(replay, np.arange(len(replay)))
    rng = np.random.default_rng(1)
    shares = [
        np.mean(
            [
                share_of_first(space, row)[0]
                for row in roll_out(policy, space, np.tile(goal, (60, 1)), 1.0, rng)
            ]
        )
        for goal in (LEFT, RIGHT)
    ]
    assert shares[0] > shares[1] + 0.15


def two_optima(space: PathSpace) -> Replay:
    """Two paths of which each is the best there is on one objective; both made for neither."""
    replay = Replay(space, K)
    rows = np.stack([space.whole(0), space.whole(1)])
    replay.add(rows, np.stack([LEFT, RIGHT]), np.full((2, K), 1 / K))
    return replay


def test_cloning_relabels_a_trajectory_with_a_preference_that_it_serves() -> None:
    space, temperature = make_space(actions="same_depth"), 0.5
    options = settings(regression="cloning", temperature=temperature)
    replay, policy = two_optima(space), make_policy(space)
    regression = regression_of(policy, options)
    batches = [regression._policy_batch(replay, np.arange(2)) for _ in range(60)]
    served = [((b.vector * b.preference).sum(dim=1) > 0.5).float().mean().item() for b in batches]
    # Under a preference the worths of the two differ by twice their spread, so the one that is
    # better has this share of q(lambda | tau), and by symmetry no preference is favoured.
    assert np.mean(served) == pytest.approx(1 / (1 + np.exp(-2 / temperature)), abs=0.01)
    first = [b.preference[:, 0].mean().item() for b in batches]
    assert np.mean(first) == pytest.approx(0.5, abs=0.03)


def test_cloning_learns_a_path_of_its_own_for_each_of_two_optima() -> None:
    space = make_space(actions="same_depth")
    replay, policy = two_optima(space), make_policy(space)
    regression = regression_of(policy, settings(regression="cloning"))
    for _ in range(100):
        regression.step(replay, np.arange(2))
    rows = roll_out(policy, space, np.stack([LEFT, RIGHT]), 0.0, np.random.default_rng(0))
    assert np.array_equal(rows, replay.tokens)


def test_cloning_without_hindsight_ignores_returns() -> None:
    space = make_space(actions="same_depth")
    replay, policy = filled_replay(space), make_policy(space)
    regression = regression_of(policy, settings(regression="cloning", hindsight=False))
    for _ in range(100):
        regression.step(replay, np.arange(len(replay)))
    rows = roll_out(policy, space, np.tile(LEFT, (100, 1)), 1.0, np.random.default_rng(0))
    share = np.mean([share_of_first(space, row)[0] for row in rows])
    assert share == pytest.approx(1 / M, abs=0.12)


def test_critics_learn_vectors_and_hindsight_utilities() -> None:
    space = make_space(actions="same_depth")
    replay, policy = filled_replay(space, 60), make_policy(space, gain=1.0)
    regression = regression_of(policy, settings())
    for _ in range(250):
        regression.step(replay, np.arange(len(replay)))
    rows = np.arange(len(replay))
    batch = replay.batch(rows, np.tile(RIGHT, (len(replay), 1)))
    heads = policy.sequences(batch.path, replay.context, replay.descriptors, batch.preference)
    final = heads.utility[:, -1].detach().numpy()
    assert np.corrcoef(final, replay.vectors[:, 1])[0, 1] > 0.9
    own = replay.batch(rows, replay.preferences)
    values = policy.sequences(own.path, replay.context, replay.descriptors, own.preference).values
    for k in range(K):
        found = values[:, -1, k].detach().numpy()
        assert np.corrcoef(found, replay.vectors[:, k])[0, 1] > 0.9


def test_the_vector_critic_learns_likelihoods_where_they_are_known() -> None:
    space = make_space(actions="same_depth")
    known, policy = filled_replay(space, 60), make_policy(space, gain=1.0, likelihoods=True)
    nll = np.exp(-3.0 * known.vectors)
    replay = Replay(space, K)
    replay.add(known.tokens, known.vectors, known.preferences, nll)
    replay.add(known.tokens[:5], known.vectors[:5], known.preferences[:5])  # none was measured
    regression = regression_of(policy, settings(likelihood_weight=0.5))
    for _ in range(250):
        report = regression.step(replay, np.arange(len(replay)))
    assert {"regression/likelihood/0", "regression/likelihood/1"} <= set(report)
    batch = replay.batch(np.arange(60), known.preferences)
    found = policy.sequences(batch.path, replay.context, replay.descriptors, batch.preference)
    for k in range(K):
        final = found.likelihoods[:, -1, k].detach().numpy()
        assert np.corrcoef(final, np.log(nll[:, k]))[0, 1] > 0.9
        assert final.std() == pytest.approx(1.0, abs=0.3)


def test_model_generated_trajectories_reach_the_policy_but_not_the_critics() -> None:
    space = make_space(actions="same_depth")
    replay = filled_replay(space, 10)
    replay.add(replay.tokens, replay.vectors + 50.0, replay.preferences, model_generated=True)
    regression = regression_of(make_policy(space), settings())
    batches = regression._critic_batches(replay, np.arange(20))
    assert all(float(batch.vector.max()) < 2.0 for batch in batches)
    assert float(regression._policy_batch(replay, np.arange(20)).vector.max()) > 40.0
    replay.forget_model_generated()
    assert len(replay) == 10


def test_pretraining_stops_early_and_keeps_the_best_weights() -> None:
    space = make_space(actions="same_depth")
    replay, policy = filled_replay(space, 40), make_policy(space)
    regression = regression_of(policy, settings())
    report = pretrain(regression, replay, 3000, 2, np.random.default_rng(0))
    assert report["offline/steps"] < 3000
    order = np.random.default_rng(0).permutation(len(replay))
    held = order[: int(0.15 * len(order))]
    assert regression.held_out_loss(replay, held) == pytest.approx(report["offline/held_out"])


def scores(paths: list[LayerPath]) -> np.ndarray:
    return np.array(
        [[np.mean([ref.member == "a" for ref in p.refs]), 0.5 * (p.stem == "b")] for p in paths]
    )


@pytest.mark.parametrize("kind", ["weighted_sum", "tchebycheff"])
def test_ppo_improves_on_paths_with_either_critic(kind: str) -> None:
    space = make_space(actions="same_depth")
    options = settings(rollouts=32, entropy=0.0, learning_rate=5e-3, scalarisation=kind)
    own = GeneratorScope(0)
    with own.scope():
        ppo, episodes = build_ppo(space, K, options, scores, lambda rng: np.array([0.9, 0.1]), 0)
        before = _mean_first(ppo.policy, space)
        for _ in range(25):
            ppo.learn_rollout()
    assert episodes.num_envs == 32
    assert ppo.policy.critic == ("vector" if kind == "weighted_sum" else "scalar")
    assert _mean_first(ppo.policy, space) > before + 0.3


def _mean_first(policy: torch.nn.Module, space: PathSpace) -> float:
    goals = np.tile([0.9, 0.1], (100, 1))
    rows = roll_out(policy, space, goals, 1.0, np.random.default_rng(0))  # type: ignore[arg-type]
    return float(np.mean([share_of_first(space, row)[0] for row in rows]))


def test_the_anchor_runs_after_each_update() -> None:
    space = make_space(actions="same_depth")
    with GeneratorScope(0).scope():
        ppo, _ = build_ppo(space, K, settings(rollouts=4), scores, lambda rng: LEFT, 0)
        calls: list[int] = []
        ppo.anchor = lambda: calls.append(ppo._n_updates)
        ppo.learn_rollout()
        ppo.learn_rollout()
    assert len(calls) == 2
    assert 0 < calls[0] < calls[1]


def test_isolation_neither_disturbs_others_nor_is_disturbed() -> None:
    def draws(own: GeneratorScope, disturb: bool) -> list[float]:
        with own.scope():
            first = float(torch.rand(())) + np.random.rand()
            with own.outside():
                if disturb:
                    torch.rand(100)
                    np.random.rand(100)
            return [first, float(torch.rand(())) + np.random.rand()]

    torch.manual_seed(1)
    np.random.seed(1)
    expected = (float(torch.rand(())), np.random.rand())
    torch.manual_seed(1)
    np.random.seed(1)
    own = GeneratorScope(7)
    first = draws(own, disturb=False)
    assert (float(torch.rand(())), np.random.rand()) == expected
    assert draws(GeneratorScope(7), disturb=True) == first
    assert draws(own, disturb=False) != first


def test_the_agent_computes_on_one_thread_and_evaluations_on_all() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        own = GeneratorScope(0)
        assert torch.get_num_threads() == 3
        with own.scope():
            assert torch.get_num_threads() == 1
            with own.outside():
                assert torch.get_num_threads() == 3
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_iql_recovers_the_best_action_that_the_mean_hides() -> None:
    """Two choices. Behind x the data mostly go wrong (mean 0.4, best 1); behind y all get 0.5."""
    limits = PathLimits(2, 2, stem="s", actions="same_depth")
    names = ("s", "x", "y")
    space = PathSpace(
        names,
        (2, 2, 2),
        limits,
        np.eye(3, dtype=np.float32),
        np.zeros((3, 2, 1), dtype=np.float32),
        np.ones((3, 3), dtype=bool),
    )

    def row(first: int, second: int) -> np.ndarray:
        layers = [space.layer_action(first, 0), space.layer_action(second, 1)]
        return space.pad_tokens([0, *layers, space.stop])

    paths = [*[row(1, 1)] * 2, *[row(1, 2)] * 6, *[row(2, 1)] * 4, *[row(2, 2)] * 4]
    worth = [*[1.0] * 2, *[0.2] * 6, *[0.5] * 8]
    replay = Replay(space, K)
    vectors = np.repeat(np.array(worth)[:, None], K, axis=1)
    replay.add(np.array(paths), vectors, np.full((len(paths), K), 0.5))

    def first_layer(**options: object) -> str:
        torch.manual_seed(0)
        policy = make_policy(space, gain=1.0)
        regression = regression_of(policy, settings(temperature=0.2, **options))
        for _ in range(400):
            regression.step(replay, np.arange(len(replay)))
        rows = roll_out(policy, space, np.full((1, K), 0.5), 0.0, np.random.default_rng(0))
        return names[space.token_member[rows[0, 1]]]

    assert first_layer(regression="iql", expectile=0.9) == "x"
    assert first_layer(regression="iql", expectile=0.5) == "y"


def test_distilled_the_greedy_path_is_the_pools_best_for_every_preference() -> None:
    space = make_space(actions="same_depth")
    replay, policy = filled_replay(space), make_policy(space, gain=1.0)
    regression_of(policy, settings()).distil(replay, replay, 250)
    goals = np.random.default_rng(5).dirichlet(np.ones(K), size=50)
    rows = roll_out(policy, space, goals, 0.0, np.random.default_rng(0))
    found = (np.stack([share_of_first(space, row) for row in rows]) * goals).sum(axis=1)
    best = (replay.vectors @ goals.T).max(axis=0)
    assert found.mean() > best.mean() - 0.02


def test_the_warm_up_trains_critics_and_nothing_else() -> None:
    space = make_space(actions="same_depth")
    replay, policy = filled_replay(space, 40), make_policy(space, gain=1.0)
    regression = regression_of(policy, settings())
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    regression.warm_up(replay, 5)
    changed = {k for k, v in policy.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(name.startswith(("vector_", "utility_")) for name in changed)


@pytest.mark.parametrize("kind", ["weighted_sum", "tchebycheff"])
def test_environment_and_replay_pay_the_same_with_a_length_cost(kind: str) -> None:
    space = make_space()
    options = settings(scalarisation=kind, length_cost=0.07, utopia=1.3)
    regression = regression_of(make_policy(space), options)
    env = MergePathEnv(space, scores, K, kind, 0.07, utopia=1.3)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    rows = np.stack([random_walk(space, rng) for _ in range(6)])
    replay = Replay(space, K)
    replay.add(rows, scores([space.decode(row) for row in rows]), np.tile(LEFT, (6, 1)))
    goals = rng.dirichlet(np.ones(K), size=6)
    replayed = regression.critics.returns(replay.batch(np.arange(6), goals))[:, 0].numpy()
    for row, goal, expected in zip(rows, goals, replayed, strict=True):
        env.reset(options={"preference": goal})
        rewards = [env.step(np.int64(action))[1] for action in row[row != space.pad]]
        assert sum(rewards) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("gamma", "spread"), [(1.0, False), (0.9, False), (1.0, True), (0.9, True)]
)
def test_what_is_still_to_come_is_what_the_buffer_pays(gamma: float, spread: bool) -> None:
    space = make_space(actions="same_depth")
    replay = filled_replay(space, 1)
    batch = replay.batch(np.arange(1), np.full((1, K), 0.5))
    n = int(batch.steps.sum())
    paid = np.full(n, 1.0 / n) if spread else np.eye(n)[-1]
    expected = [sum(gamma ** (j - t) * paid[j] for j in range(t, n)) for t in range(n)]
    np.testing.assert_allclose(batch.to_go(gamma, spread)[0, :n], expected, rtol=1e-5)


@pytest.mark.parametrize(("stale", "rollouts", "rescued"), [(3, 9, 0), (0, 3, 16)])
def test_rollouts_of_known_paths_end_training_or_give_way_to_variations(
    stale: int, rollouts: int, rescued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(stale=stale, rollouts=4, acquisition=AcquisitionSettings(enabled=False))
    options = replace(own, replay_steps=0, anchor="none", critic_warm_up=0, distil_steps=0)
    space = make_space(actions="same_depth")
    state = AgentState(space, options, NoSurrogateSettings(), ("a", "b"), 0)
    state.observe(np.stack([space.whole(0), space.whole(1)]), [scored()] * 2, np.full((2, K), 0.5))
    found = iter([0, 0, 4, 0, 4, 0, 0, 0, 0])  # new paths of each rollout
    counted: list[int] = []
    monkeypatch.setattr(state, "roll_out_real", lambda evaluate: counted.append(1) or next(found))
    asked: list[LayerPath] = []

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        asked.extend(paths)
        return [scored()] * len(paths)

    OnlineLoop(state).run(evaluate, 20, lambda values: None)
    assert (len(counted), len(asked)) == (rollouts, rescued)


def scored() -> Outcome:
    return Outcome(np.array([0.5, 0.5]), np.ones(K))
