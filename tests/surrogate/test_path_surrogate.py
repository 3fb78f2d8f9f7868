from __future__ import annotations

import numpy as np
import pytest
import torch

from hm3rl.config.agents import GPSettings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.utility import Utility
from hm3rl.paths.variation import random_walk
from hm3rl.surrogate.dataset import Dataset, Outcome
from hm3rl.surrogate.features import FeatureMap
from hm3rl.surrogate.gp import DEPTHS, NOISE, PathGP
from hm3rl.surrogate.local_search import climb
from hm3rl.surrogate.path_surrogate import PathSurrogate
from tests.agents.test_policy import make_space


def known_paths(problem: SyntheticProblem, n: int, seed: int = 0) -> Dataset:
    space, rng = problem.space(), np.random.default_rng(seed)
    dataset = Dataset(space, problem.gains.shape[2])
    while len(dataset) < n:
        row = random_walk(space, rng)
        vector = problem.score_paths([space.decode(row)])[0]
        dataset.add(row, Outcome(vector, -vector))
    return dataset


def test_paths_of_equal_layers_have_equal_features_whatever_the_members_order() -> None:
    plain, permuted = make_space(), make_space([1, 2, 0])
    rng = np.random.default_rng(0)
    paths = [plain.decode(random_walk(plain, rng)) for _ in range(12)]
    first, second = (
        FeatureMap(space)(np.stack([space.encode(path) for path in paths]))
        for space in (plain, permuted)
    )
    gram = [block @ block.T for block in (first.recipe, second.recipe)]
    np.testing.assert_allclose(gram[0], gram[1], atol=1e-6)
    np.testing.assert_array_equal(first.transition, second.transition)


def test_transitions_count_switches_repeats_skips_and_jumps_back() -> None:
    space = make_space()
    a = [space.layer_action(0, layer) for layer in range(4)]
    b1 = space.layer_action(1, 1)
    row = space.pad_tokens([0, a[0], a[0], a[3], b1, space.stop])
    switches, repeats, skips, back, longer, stranger = FeatureMap(space)(row[None]).transition[
        0, -6:
    ]
    assert (switches, repeats, skips, back, longer, stranger) == (1, 1, 1, 1, 0, 0)


def test_the_posterior_is_the_textbook_one() -> None:
    problem = SyntheticProblem.draw(5, 3, 2, seed=0)
    dataset = known_paths(problem, 30)
    mapping = FeatureMap(problem.space())
    features, gp = mapping(dataset.tokens), PathGP(2, mapping.depths)
    train, test = features.rows(np.arange(20)), features.rows(np.arange(20, 30))
    gp.fit(train, dataset.vectors[:20], 0)
    noise = np.exp(gp.log_parameters[0, NOISE].item()) + 1e-6
    kernel = gp._kernel(train, train)[0].numpy() + noise * np.eye(20)
    cross = gp._kernel(test, train)[0].numpy()
    own = gp._kernel(test, test)[0].numpy()
    y = dataset.vectors[:20, 0]
    scale = y.std(ddof=1)
    mean = cross @ np.linalg.solve(kernel, (y - y.mean()) / scale) * scale + y.mean()
    covariance = (own - cross @ np.linalg.solve(kernel, cross.T)) * scale**2
    found_mean, found_covariance = gp.posterior(test)
    np.testing.assert_allclose(found_mean[:, 0], mean, atol=1e-8)
    np.testing.assert_allclose(found_covariance[0], covariance, atol=1e-8)
    np.testing.assert_allclose(gp.mean(test), found_mean, atol=1e-10)
    marginal = gp.marginal(test)[1]
    np.testing.assert_allclose(marginal[:, 0], covariance.diagonal(), atol=1e-8)


def test_fitting_raises_the_likelihood_and_predicts_unseen_paths() -> None:
    problem = SyntheticProblem.draw(8, 4, 3, seed=1)
    dataset = known_paths(problem, 160)
    mapping = FeatureMap(problem.space())
    features, gp = mapping(dataset.tokens), PathGP(3, mapping.depths)
    gp.fit(features.rows(np.arange(120)), dataset.vectors[:120], 30)
    mean, variance = gp.marginal(features.rows(np.arange(120, 160)))
    truth = dataset.vectors[120:]
    residual = ((mean - truth) ** 2).mean(axis=0) / truth.var(axis=0)
    assert (residual < 0.05).all()
    assert (variance > 0).all()


def test_samples_have_the_posteriors_moments() -> None:
    problem = SyntheticProblem.draw(5, 3, 2, seed=0)
    model = PathSurrogate(problem.space(), 2, GPSettings(fit_steps=5))
    model.fit(known_paths(problem, 15))
    tokens = known_paths(problem, 8, seed=9).tokens
    samples = model.samples(tokens, 4000, np.random.default_rng(0))
    mean, std = model.predict(tokens)
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 * std.max() / 60)
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.1, atol=0.02 * std.max())


def test_climbing_a_well_fitted_model_finds_near_optimal_paths() -> None:
    problem = SyntheticProblem.draw(8, 4, 3, seed=2)
    dataset = known_paths(problem, 200)
    model = PathSurrogate(problem.space(), 3, GPSettings(fit_steps=30))
    model.fit(dataset)
    goals = sample_dirichlet(6, 3, np.random.default_rng(0))
    rows = climb(model, dataset.tokens[:6], goals, Utility(), np.random.default_rng(0))
    assert problem.space().legal_rows(rows).all()
    reached = [
        problem.normalised(float(vector @ goal), goal)
        for vector, goal in zip(
            problem.score_paths([problem.space().decode(row) for row in rows]), goals, strict=True
        )
    ]
    assert np.mean(reached) > 0.9


def test_failed_evaluations_are_remembered_but_never_learnt_from() -> None:
    problem = SyntheticProblem.draw(5, 3, 2, seed=0)
    dataset = known_paths(problem, 5)
    row = random_walk(problem.space(), np.random.default_rng(77))
    dataset.add(row, Outcome(np.zeros(2), np.zeros(2), ok=False))
    assert dataset.knows(row)
    assert len(dataset) == 6
    assert len(dataset.vectors) == len(dataset.tokens) == 5
    assert len(dataset.fresh(np.stack([row, row]))) == 0


def test_degenerate_targets_do_not_break_the_fit() -> None:
    problem = SyntheticProblem.draw(5, 3, 2, seed=0)
    dataset = known_paths(problem, 10)
    mapping = FeatureMap(problem.space())
    features, gp = mapping(dataset.tokens), PathGP(2, mapping.depths)
    gp.fit(features, np.column_stack([np.zeros(10), dataset.vectors[:, 0]]), 20)
    assert torch.isfinite(gp.log_parameters).all()
    assert gp.mean(features)[:, 0] == pytest.approx(0.0, abs=1e-6)


def test_depths_that_matter_become_relevant() -> None:
    rng = np.random.default_rng(0)
    gains = 0.02 * rng.normal(size=(6, 4, 2))
    gains[2] = rng.normal(size=(4, 2))
    dataset = known_paths(SyntheticProblem(gains, np.zeros(2)), 80)
    mapping = FeatureMap(dataset.space)
    gp = PathGP(2, mapping.depths)
    gp.fit(mapping(dataset.tokens), dataset.vectors, 60)
    relevance = gp.log_parameters[:, DEPTHS:]
    assert (relevance.argmax(dim=1) == 2).all()
