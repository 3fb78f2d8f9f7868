from __future__ import annotations

import numpy as np
import torch

from hm3rl.envs.synthetic_blends import SyntheticBlends
from hm3rl.surrogate.blend_gp import SCALES, BlendGP

PROBLEM = SyntheticBlends.draw(layers=6, experts=3, objectives=2, seed=1)


def fitted(n: int = 60) -> tuple[BlendGP, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    level = rng.random((n, 1, 3))
    blends = np.clip(level + rng.normal(0.0, 0.1, size=(n, 7, 3)), 0.0, 1.0)
    gp = BlendGP(outputs=2, depth=6, experts=3)
    gp.fit(blends[: n // 2], PROBLEM.value(blends[: n // 2]), steps=60)
    return gp, blends, PROBLEM.value(blends)


def test_it_predicts_blends_that_it_has_not_seen() -> None:
    gp, blends, vectors = fitted()
    found = gp.marginal(torch.as_tensor(blends[30:]))
    error = ((found.mean.numpy() - vectors[30:]) ** 2).mean(axis=0)
    assert (error < 0.1 * vectors[30:].var(axis=0)).all()
    inside = np.abs(found.mean.numpy() - vectors[30:]) < 3 * found.std.numpy()
    assert inside.mean() > 0.9


def test_gradients_in_the_blends_are_those_of_differences() -> None:
    gp, blends, _ = fitted()
    point = torch.tensor(blends[40:42], requires_grad=True)
    found = gp.marginal(point)
    (found.mean.sum() + found.std.sum()).backward()
    assert point.grad is not None
    for index in ((0, 0, 1), (1, 3, 0), (1, 6, 2)):
        moved = []
        for step in (1e-5, -1e-5):
            other = blends[40:42].copy()
            other[index] += step
            after = gp.marginal(torch.as_tensor(other))
            moved.append(float(after.mean.sum() + after.std.sum()))
        difference = (moved[0] - moved[1]) / 2e-5
        np.testing.assert_allclose(float(point.grad[index]), difference, rtol=1e-3)


def test_joint_samples_have_the_marginal_moments() -> None:
    gp, blends, _ = fitted()
    some = torch.as_tensor(blends[50:54])
    samples = gp.samples(some, 20_000, np.random.default_rng(3))
    found = gp.marginal(some)
    np.testing.assert_allclose(samples.mean(axis=0), found.mean.numpy(), atol=5e-3)
    np.testing.assert_allclose(samples.std(axis=0), found.std.numpy(), rtol=0.05)


def test_equal_blends_are_sampled_as_one() -> None:
    gp, blends, _ = fitted()
    twice = torch.as_tensor(np.concatenate([blends[:40]] * 3 + [blends[:40] + 1e-9]))
    samples = gp.samples(twice, 16, np.random.default_rng(0))
    np.testing.assert_allclose(samples[:, :40], samples[:, 120:], atol=1e-3)


def test_many_coefficients_are_no_farther_apart_than_few_before_any_data() -> None:
    found = []
    for depth in (6, 60):
        gp = BlendGP(outputs=1, depth=depth, experts=3)
        blends = np.random.default_rng(0).random((2, 1 + depth, 3))
        gp.fit(blends[:1], np.zeros((1, 1)), steps=0)
        found.append(float(gp.marginal(torch.as_tensor(blends[1:])).std[0, 0]))
    assert found[1] < 1.2 * found[0]


def test_it_finds_out_which_coefficients_matter() -> None:
    blends = np.random.default_rng(0).random((60, 7, 3))
    gp = BlendGP(outputs=2, depth=6, experts=3)
    values = np.stack([np.sin(3 * blends[:, 2, 0]), blends[:, 5, 1] ** 2], axis=1)
    gp.fit(blends, values, steps=60)
    lengths = gp.log_parameters[:, SCALES:].reshape(2, 7, 3)
    assert [divmod(int(row.argmin()), 3) for row in lengths] == [(2, 0), (5, 1)]
