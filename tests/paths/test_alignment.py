"""Alignment maps in closed form and by Deep CORAL, on states whose moments are known."""

from __future__ import annotations

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.paths.alignment import closed_form
from hm3rl.paths.alignment_kind import split_alignment
from hm3rl.paths.coral import fit_mlp
from hm3rl.paths.statistics import Calibration, Moments

WIDTH = 6


def states(seed: int, shift: float, count: int = 400) -> torch.Tensor:
    """Correlated states with a mean, shape (count, WIDTH)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return noise @ mixing + shift


@pytest.fixture
def source() -> torch.Tensor:
    return states(0, 0.5)


@pytest.fixture
def target() -> torch.Tensor:
    return 3 * states(1, -1.0)


def fit(kind: str, source: torch.Tensor, target: torch.Tensor, shrinkage: float = 0.0):
    return closed_form(
        kind, "k" * 16, Moments.of(source, True), Moments.of(target, True), shrinkage
    )


def test_moments_are_those_of_the_states(source):
    moments = Moments.of(source, full=True)
    torch.testing.assert_close(moments.mean, source.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(source.T, correction=0))
    torch.testing.assert_close(Moments.of(source).variance, source.var(0, correction=0))
    assert moments.mean_square == pytest.approx(source.square().mean().item())


def test_scalar_gives_the_mean_square_and_no_shift(source, target):
    found = fit("scalar", source, target)
    assert found(source).square().mean().item() == pytest.approx(target.square().mean().item())
    assert torch.equal(found(torch.zeros(2, WIDTH)), torch.zeros(2, WIDTH))
    assert found.factor > 0


def test_diagonal_gives_every_channels_mean_and_variance(source, target):
    aligned = fit("diagonal", source, target)(source.float())
    torch.testing.assert_close(aligned.mean(0), target.mean(0).float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(aligned.var(0), target.var(0).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["full", "full_paper"])
def test_full_gives_mean_and_covariance(source, target, kind):
    aligned = fit(kind, source, target)(source.float()).double()
    torch.testing.assert_close(aligned.mean(0), target.mean(0), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(torch.cov(aligned.T), torch.cov(target.T), atol=1e-3, rtol=1e-4)


def test_full_is_the_map_that_moves_least(source, target):
    optimal, papers = fit("full", source, target), fit("full_paper", source, target)
    torch.testing.assert_close(optimal.weight, optimal.weight.T, atol=1e-4, rtol=1e-4)
    assert torch.linalg.eigvalsh(optimal.weight).min() > 0
    moved = [(m(source.float()) - source).square().mean().item() for m in (optimal, papers)]
    assert moved[0] < 0.99 * moved[1]


@pytest.mark.parametrize("kind", ["scalar", "diagonal", "full", "full_paper"])
def test_equal_moments_leave_everything_as_it_is(source, kind):
    aligned = fit(kind, source, source, shrinkage=1e-3)(source.float())
    torch.testing.assert_close(aligned, source.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["full", "full_paper"])
def test_fewer_states_than_channels_stay_bounded(kind):
    few, target = states(0, 0.0, count=3), states(1, 0.0)
    found = fit(kind, few, target, shrinkage=1e-3)
    assert torch.isfinite(found.weight).all()
    assert found.weight.abs().max() < 1e3


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_states_that_cannot_be_aligned_are_a_failure(target, bad):
    with pytest.raises(ArithmeticError, match="mean square"):
        fit("scalar", torch.full((5, WIDTH), bad), target)
    states = torch.full((5, WIDTH), bad)
    with pytest.raises(ArithmeticError, match="mean square"):
        fit_mlp("0123456789abcdef", states, Moments.of(states, True), Moments.of(target, True))


def test_coral_comes_nearer_to_the_covariance_than_the_diagonal_map(source, target):
    wanted = torch.cov(target.T)
    moments = Moments.of(source, True), Moments.of(target, True)

    def distance(mapped: torch.Tensor) -> float:
        return (torch.cov(mapped.double().T) - wanted).norm().item()

    trained = fit_mlp("0123456789abcdef", source, *moments)
    start = fit("diagonal", source, target)
    assert distance(trained(source.float())) < 0.3 * distance(start(source.float()))


def test_coral_is_determined_by_its_arguments_and_seeded_by_its_key(source, target):
    moments = Moments.of(source, True), Moments.of(target, True)
    one, two, other = (
        fit_mlp(key, source, *moments, steps=5)
        for key in ("0123456789abcdef", "0123456789abcdef", "0123456789abcdff")
    )
    assert torch.equal(one(source.float()), two(source.float()))
    assert not torch.equal(one(source.float()), other(source.float()))
    assert not any(tensor.requires_grad for tensor in one.weights)


def test_untrained_coral_is_the_diagonal_map(source, target):
    moments = Moments.of(source, True), Moments.of(target, True)
    start = fit_mlp("0123456789abcdef", source, *moments, steps=0)(source.float())
    diagonal = fit("diagonal", source, target, shrinkage=1e-3)(source.float())
    torch.testing.assert_close(start, diagonal, atol=1e-3, rtol=1e-3)


def test_padding_is_no_token():
    calibration = Calibration.of([(5, 6), (7, 8, 9)])
    assert calibration.attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert calibration.position_ids.tolist() == [[0, 0, 1], [0, 1, 2]]
    hidden = torch.arange(6.0).reshape(2, 3, 1)
    assert calibration.tokens(hidden).flatten().tolist() == [1, 2, 3, 4, 5]
    padded = Calibration(
        torch.tensor([[0, 9, 5, 6], [9, 7, 8, 9]]), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    )
    assert padded.key == calibration.key != Calibration.of([(5, 6), (7, 8, 8)]).key
    with pytest.raises(InputError, match="needs calibration sequences"):
        Calibration.of([])


@pytest.mark.parametrize("text", ["bent", "bent@12345678"])
def test_unknown_kinds(text):
    with pytest.raises(InputError, match="unknown alignment 'bent'"):
        split_alignment(text)


def test_kinds_but_none_name_their_batch():
    assert split_alignment("none") == ("none", "")
    assert split_alignment("full@12345678") == ("full", "12345678")
    for text in ("scalar", "scalar@"):
        with pytest.raises(InputError, match="names no calibration batch"):
            split_alignment(text)
    with pytest.raises(InputError, match="has a calibration batch"):
        split_alignment("none@12345678")
