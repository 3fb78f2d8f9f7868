from __future__ import annotations

import numpy as np
import pytest
import torch

from hm3rl.config.agents import LinearSettings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.utility import Utility
from hm3rl.surrogate.features import FeatureMap
from hm3rl.surrogate.linear import NOISE, PathRegression
from hm3rl.surrogate.local_search import climb
from hm3rl.surrogate.path_surrogate import PathSurrogate
from tests.surrogate.test_path_surrogate import known_paths


def test_the_posterior_is_the_textbook_one() -> None:
    problem = SyntheticProblem.draw(5, 3, 2, seed=0)
    dataset = known_paths(problem, 30)
    mapping = FeatureMap(problem.space())
    features, model = mapping(dataset.tokens), PathRegression(2, mapping.depths)
    train, test = features.rows(np.arange(20)), features.rows(np.arange(20, 30))
    model.fit(train, dataset.vectors[:20], 0)
    # The same in function space: a Gaussian process with the linear kernel.
    prior = model.log_parameters[0].exp().numpy()[model._blocks]
    left, right = model._design(train).numpy(), model._design(test).numpy()
    noise = float(model.log_parameters[0, NOISE].exp())
    kernel = (left * prior) @ left.T + noise * np.eye(20)
    cross, own = (right * prior) @ left.T, (right * prior) @ right.T
    y = dataset.vectors[:20, 0]
    scale = y.std(ddof=1)
    mean = cross @ np.linalg.solve(kernel, (y - y.mean()) / scale) * scale + y.mean()
    covariance = (own - cross @ np.linalg.solve(kernel, cross.T)) * scale**2
    found_mean, found_covariance = model.posterior(test)
    np.testing.assert_allclose(found_mean[:, 0], mean, atol=1e-8)
    np.testing.assert_allclose(found_covariance[0], covariance, atol=1e-8)
    marginal_mean, variance = model.marginal(test)
    np.testing.assert_allclose(marginal_mean, model.mean(test), atol=1e-12)
    np.testing.assert_allclose(variance[:, 0], covariance.diagonal(), atol=1e-8)


def test_additive_outcomes_are_learnt_from_little_more_paths_than_weights() -> None:
    problem = SyntheticProblem.draw(16, 4, 3, seed=1)
    dataset = known_paths(problem, 160)
    mapping = FeatureMap(problem.space())
    features, model = mapping(dataset.tokens), PathRegression(3, mapping.depths)
    model.fit(features.rows(np.arange(100)), dataset.vectors[:100], 30)
    truth = dataset.vectors[100:]
    residual = ((model.mean(features.rows(np.arange(100, 160))) - truth) ** 2).mean(axis=0)
    assert (residual / truth.var(axis=0) < 0.02).all()


def test_evidence_tells_noise_from_signal() -> None:
    problem = SyntheticProblem.draw(6, 3, 1, seed=3)
    dataset = known_paths(problem, 200)
    mapping = FeatureMap(problem.space())
    features = mapping(dataset.tokens)
    vectors = dataset.vectors
    noisy = vectors + 0.5 * vectors.std() * np.random.default_rng(0).normal(size=vectors.shape)
    model = PathRegression(1, mapping.depths)
    model.fit(features, noisy, 30)
    found = float(model.log_parameters[0, NOISE].exp()) * noisy.var(ddof=1)
    assert found == pytest.approx((0.5 * vectors.std()) ** 2, rel=0.3)


def test_degenerate_targets_do_not_break_the_fit() -> None:
    problem = SyntheticProblem.draw(5, 3, 2, seed=0)
    dataset = known_paths(problem, 4)
    mapping = FeatureMap(problem.space())
    features, model = mapping(dataset.tokens), PathRegression(2, mapping.depths)
    model.fit(features, np.column_stack([np.zeros(4), dataset.vectors[:, 0]]), 20)
    assert torch.isfinite(model.log_parameters).all()
    assert model.mean(features)[:, 0] == pytest.approx(0.0, abs=1e-6)


def test_it_serves_as_outcome_model() -> None:
    problem = SyntheticProblem.draw(8, 4, 3, seed=2)
    model = PathSurrogate(problem.space(), 3, LinearSettings(fit_steps=20))
    dataset = known_paths(problem, 120)
    model.fit(dataset)
    assert isinstance(model.scores, PathRegression)
    goals = sample_dirichlet(6, 3, np.random.default_rng(0))
    rows = climb(model, dataset.tokens[:6], goals, Utility(), np.random.default_rng(0))
    vectors = problem.score_paths([problem.space().decode(row) for row in rows])
    reached = [
        problem.normalised(float(v @ goal), goal) for v, goal in zip(vectors, goals, strict=True)
    ]
    assert np.mean(reached) > 0.95
    samples = model.samples(rows, 3000, np.random.default_rng(0))
    mean, std = model.predict(rows)
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.1 * std.max())
