from __future__ import annotations

import numpy as np
import pytest

from hm3rl.agents.behaviour import elites, member_weights, variations
from hm3rl.objectives.utility import Utility
from hm3rl.paths.space import PathSpace
from hm3rl.paths.variation import crossover, mixtures, mutate, neighbours, random_walk
from hm3rl.surrogate.dataset import Dataset, Outcome
from tests.agents.test_policy import K, L, M, make_space

GOALS = np.random.default_rng(5).dirichlet(np.ones(K), size=60)


def known(space: PathSpace, vectors: list[list[float]]) -> Dataset:
    """The members' own paths with given outcomes."""
    dataset = Dataset(space, K)
    for member, vector in enumerate(vectors):
        dataset.add(space.whole(member), Outcome(np.array(vector), np.zeros(K)))
    return dataset


@pytest.mark.parametrize("actions", ["any", "same_depth"])
def test_every_move_is_legal_and_changes_something(actions: str) -> None:
    space, rng = make_space(actions=actions), np.random.default_rng(0)
    changed = 0
    for _ in range(100):
        first, second = random_walk(space, rng), random_walk(space, rng)
        rows = np.stack(
            [
                mutate(space, first, rng),
                mutate(space, first, rng, 3),
                crossover(space, first, second, rng),
            ]
        )
        assert space.legal_rows(rows).all()
        changed += int((rows != first).any(axis=1).sum())
    assert changed > 290


def test_neighbours_hold_every_single_replacement_and_stem() -> None:
    space = make_space(actions="same_depth")
    row = space.whole(0)
    found = {tuple(r) for r in neighbours(space, row, 1000, np.random.default_rng(0))}
    expected = set()
    for member in (1, 2):
        expected.add(tuple([member, *row[1:]]))
        for depth in range(L):
            changed = row.copy()
            changed[1 + depth] = space.layer_action(member, depth)
            expected.add(tuple(changed))
    assert expected <= found
    assert tuple(row) not in found


def test_skips_and_repeats_happen_where_lengths_allow_them() -> None:
    space, rng = make_space(), np.random.default_rng(0)
    lengths = {int((mutate(space, space.whole(0), rng) < space.stop).sum()) - 1 for _ in range(200)}
    assert lengths == {L - 1, L, L + 1}


def test_mixtures_take_members_by_weight() -> None:
    space = make_space(actions="same_depth")
    weights = np.tile([0.7, 0.3, 0.0], (300, 1))
    rows = mixtures(space, weights, 0.5, np.random.default_rng(0))
    counts = np.bincount(space.token_member[rows[:, 1 : 1 + L]].ravel(), minlength=M)
    assert counts[2] == 0
    assert counts[0] / counts.sum() == pytest.approx(0.7, abs=0.06)


def test_members_weigh_by_the_utility_of_their_own_path() -> None:
    dataset = known(make_space(), [[1.0, 0.2], [0.2, 1.0]])
    weights = member_weights(dataset, np.array([[1.0, 0.0], [0.0, 1.0]]), Utility())
    assert weights[0].argmax() == 0
    assert weights[1].argmax() == 1
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert weights[0, 1] < weights[0, 2] < weights[0, 0]  # the unknown member counts as average


def test_tchebycheff_elites_include_the_balanced_path_a_weighted_sum_never_picks() -> None:
    dataset = known(make_space(), [[1.0, 0.0], [0.0, 1.0], [0.45, 0.45]])
    balanced = dataset.tokens[2]
    linear = elites(dataset, GOALS, Utility("weighted_sum"))
    chebyshev = elites(dataset, GOALS, Utility("tchebycheff"))
    assert not (linear == balanced).all(axis=1).any()
    assert (chebyshev == balanced).all(axis=1).any()


@pytest.mark.parametrize("vectors", [[], [[1.0, 0.2], [0.2, 1.0]]])
def test_variations_are_legal_one_for_each_preference(vectors: list[list[float]]) -> None:
    space = make_space()
    rows = variations(known(space, vectors), GOALS, Utility(), np.random.default_rng(0))
    assert len(rows) == len(GOALS)
    assert space.legal_rows(rows).all()
    assert len(np.unique(rows, axis=0)) > 20
