from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hm3rl.agents.decoding import roll_out
from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.policy import DecodingState
from hm3rl.agents.ppo import build_ppo
from hm3rl.agents.wolpertinger import Discretiser, WolpertingerPolicy
from hm3rl.objectives.utility import Utility
from hm3rl.paths.space import PathSpace
from tests.agents.test_learning import filled_replay, regression_of, scores, settings
from tests.agents.test_policy import K, make_space

OPTIONS = settings(
    head="wolpertinger", neighbours=3, epsilon=0.0, rollouts=6, anchor="none", entropy=0.0
)


def learner(space: PathSpace, **changes: object) -> tuple:
    with GeneratorScope(0).scope():
        return build_ppo(
            space, K, replace(OPTIONS, **changes), scores, lambda rng: np.array([0.9, 0.1]), 0
        )


def start(space: PathSpace, n: int, temperature: float = 0.0) -> DecodingState:
    """Situations after the stem and one layer."""
    path = np.tile(space.pad_tokens([0, space.layer_action(0, 0)]), (n, 1))
    legal = np.tile(space.mask([0, space.layer_action(0, 0)]), (n, 1))
    return DecodingState(path, np.full(n, 2), legal, np.full((n, K), 0.5), np.full(n, temperature))


def discretiser_of(policy: WolpertingerPolicy) -> Discretiser:
    assert policy.discretiser is not None
    return policy.discretiser


def test_the_nearest_legal_actions_are_found_and_illegal_ones_never() -> None:
    space = make_space(actions="same_depth")
    policy = learner(space)[0].policy
    decoding = start(space, 1)
    embedded = policy.embeddings.numpy()
    wanted = space.layer_action(2, 1)  # legal at depth 1
    near, exists = discretiser_of(policy).nearest(policy, embedded[[wanted]], decoding.legal)
    assert near[0, 0] == wanted
    assert exists.all() and decoding.legal[0, near[0]].all()
    forbidden = space.layer_action(2, 3)
    near, _ = discretiser_of(policy).nearest(policy, embedded[[forbidden]], decoding.legal)
    assert forbidden not in near[0]
    distances = ((embedded - embedded[forbidden]) ** 2).sum(axis=1)
    legal = np.flatnonzero(decoding.legal[0])
    assert near[0].tolist() == legal[distances[legal].argsort(kind="stable")].tolist()[:3]


def test_the_critic_chooses_among_the_neighbours() -> None:
    space = make_space()
    policy = learner(space, critic="scalar")[0].policy
    decoding = start(space, 1)
    proto = policy.embeddings.numpy()[[space.layer_action(1, 2)]]
    discretiser = discretiser_of(policy)
    near, _ = discretiser.nearest(policy, proto, decoding.legal)
    chosen = discretiser(policy, proto, decoding)[0]
    values = {}
    for action in near[0]:
        path = decoding.path.copy()
        path[0, 2] = action
        worth = policy.worth(
            torch.as_tensor(path),
            torch.tensor([3]),
            discretiser.context,
            discretiser.descriptors,
            torch.full((1, K), 0.5),
        )
        values[int(action)] = float(worth.detach())
    assert chosen == max(values, key=lambda action: values[action])


def test_one_neighbour_is_plain_projection() -> None:
    space = make_space()
    policy = learner(space, neighbours=1)[0].policy
    decoding = start(space, 1)
    for action in np.flatnonzero(decoding.legal[0]):
        proto = policy.embeddings.numpy()[[action]]
        assert discretiser_of(policy)(policy, proto, decoding)[0] == action


def test_epsilon_draws_evenly_among_the_neighbours_and_never_when_greedy() -> None:
    space = make_space()
    policy = learner(space, epsilon=1.0)[0].policy
    n = 600
    proto = np.tile(policy.embeddings.numpy()[[space.layer_action(1, 2)]], (n, 1))
    near, _ = discretiser_of(policy).nearest(policy, proto[:1], start(space, 1).legal)
    drawn = discretiser_of(policy)(policy, proto, start(space, n, temperature=1.0))
    counts = [(drawn == action).mean() for action in near[0]]
    np.testing.assert_allclose(counts, 1 / 3, atol=0.07)
    assert len(set(discretiser_of(policy)(policy, proto, start(space, n)))) == 1


@pytest.mark.parametrize("reward", ["terminal", "spread"])
def test_stop_has_the_utility_that_f_hat_gives_the_completed_path(reward: str) -> None:
    class Oracle:
        ready = True

        def mean(self, rows: np.ndarray) -> np.ndarray:
            return np.full((len(rows), K), self.value)

    space = make_space()  # any layer anywhere, at least two
    policy = learner(space, neighbours=space.num_actions, reward=reward)[0].policy
    body = [0, space.layer_action(0, 0), space.layer_action(0, 1)]
    decoding = DecodingState(
        space.pad_tokens(body)[None],
        np.array([3]),
        space.mask(body)[None],
        np.full((1, K), 0.5),
        np.zeros(1),
    )
    discretiser, oracle = discretiser_of(policy), Oracle()
    discretiser.model = oracle  # type: ignore[assignment]
    proto = np.zeros((1, policy.embeddings.shape[1]))
    for oracle.value, stops in ((50.0, True), (-50.0, False)):
        assert bool(discretiser(policy, proto, decoding)[0] == space.stop) is stops


def test_rollouts_store_protos_whose_ratio_is_one_before_the_update() -> None:
    space = make_space(actions="same_depth")
    ppo, episodes = learner(space)
    asked: list[int] = []
    episodes.env.score_paths = lambda paths: asked.append(len(paths)) or scores(paths)
    seen: list[tuple[float, float]] = []
    update = ppo.train

    def spy() -> None:
        buffer = ppo.rollout_buffer
        actions = torch.as_tensor(buffer.actions[0])
        observations = {k: torch.as_tensor(v[0]) for k, v in buffer.observations.items()}
        _, log_prob, _ = ppo.policy.evaluate_actions(observations, actions)
        seen.append(
            (
                float((log_prob.detach() - torch.as_tensor(buffer.log_probs[0])).abs().max()),
                float(actions.std()),
            )
        )
        update()

    ppo.train = spy
    with GeneratorScope(1).scope():
        ppo.learn_rollout()
    assert asked == [6]
    assert seen[0][0] < 1e-4  # ratio 1: the stored proto, not the action it was mapped to
    assert seen[0][1] > 0.1
    assert ppo.rollout_buffer.actions.shape[-1] == policy_width(ppo.policy)


def policy_width(policy: WolpertingerPolicy) -> int:
    return policy.embeddings.shape[1]


def test_regression_moves_the_mean_onto_the_embedding_and_decoding_follows() -> None:
    space = make_space(actions="same_depth")
    replay = filled_replay(space, 4)
    policy = learner(space, neighbours=1)[0].policy
    teacher = filled_replay(space, 1)
    options = replace(OPTIONS, neighbours=1)
    regression_of(policy, options).distil(replay, teacher, 150)
    policy.freeze(replay.context, replay.descriptors)
    goals = np.random.default_rng(0).dirichlet(np.ones(K), size=8)
    rows = roll_out(policy, space, goals, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, np.repeat(teacher.tokens, 8, axis=0))


def test_ppo_learns_with_proto_actions() -> None:
    space = make_space(actions="same_depth")
    ppo, _ = learner(space, rollouts=32, learning_rate=5e-3, neighbours=2, epsilon=0.1)
    goals = np.tile([0.9, 0.1], (100, 1))

    def mean() -> float:
        rows = roll_out(ppo.policy, space, goals, 1.0, np.random.default_rng(0))
        return float(np.mean([scores([space.decode(row)])[0, 0] for row in rows]))

    before = mean()
    with GeneratorScope(1).scope():
        for _ in range(20):
            ppo.learn_rollout()
    assert mean() > before + 0.15


def test_the_mapping_uses_the_same_utility_as_everyone() -> None:
    space = make_space()
    policy = learner(space, length_cost=0.1, scalarisation="tchebycheff", utopia=2.0)[0].policy
    assert discretiser_of(policy).utility == Utility("tchebycheff", 0.1, 2.0)
