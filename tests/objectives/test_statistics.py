from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from hm3rl.objectives.indicators import expected_utility
from hm3rl.objectives.statistics import (
    anytime_expected_utility,
    evaluations_to_reach,
    improvement_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
)


def test_of_five_runs_the_best_and_the_worst_do_not_count():
    assert interquartile_mean(np.array([9.0, 2.0, 3.0, 4.0, -50.0])) == pytest.approx(3.0)
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == pytest.approx(3.0)


def test_the_interval_of_three_runs_has_the_percentiles_of_all_resamples():
    # Three runs: nothing is trimmed, and all 27 resamples are equally likely.
    runs = np.array([0.0, 1.0, 5.0])
    means = sorted(np.mean(draw) for draw in product(runs, repeat=3))
    found = interquartile_interval([runs], resamples=20_000, level=0.8)
    assert found.value == pytest.approx(2.0)
    assert found.low == pytest.approx(np.quantile(means, 0.1, method="inverted_cdf"), abs=1e-9)
    assert found.high == pytest.approx(np.quantile(means, 0.9, method="inverted_cdf"), abs=1e-9)


def test_runs_are_drawn_inside_their_stratum():
    # Within a stratum all runs agree, so no resample differs; mixed, they would.
    low, high = np.full(4, 0.2), np.full(4, 0.8)
    found = interquartile_interval([low, high])
    assert found.value == found.low == found.high == pytest.approx(0.5)
    mixed = interquartile_interval([np.concatenate([low, high])])
    assert mixed.low < 0.5 < mixed.high


def test_curves_are_drawn_whole():
    curves = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = interquartile_interval([curves])
    assert found.value == pytest.approx([0.5, 0.5])
    # What one column gains in a resample the other loses.
    assert found.low + found.high[::-1] == pytest.approx([1.0, 1.0])


def test_a_single_run_has_no_interval():
    found = interquartile_interval([np.array([0.3])])
    assert found.value == pytest.approx(0.3) and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(mean_interval(np.array([1.0])).high)


def test_improvement_by_hand():
    ours, theirs = np.array([1.0, 3.0]), np.array([2.0, 3.0])
    # 1 < 2, 1 < 3, 3 > 2, 3 = 3
    assert probability_of_improvement(ours, theirs) == pytest.approx(1.5 / 4)
    # 1 < 2, 3 = 3
    assert probability_of_improvement(ours, theirs, paired=True) == pytest.approx(0.5 / 2)


def test_pairs_stay_together_when_they_are_drawn_again():
    ours = np.array([0.1, 0.5, 0.9])
    better_on_each_seed = improvement_interval(ours + 0.01, ours, paired=True)
    assert better_on_each_seed == (1.0, 1.0, 1.0)
    unpaired = improvement_interval(ours + 0.01, ours)
    assert unpaired.value == pytest.approx(6 / 9) and unpaired.low < 0.5


def test_runs_of_different_number_cannot_be_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        probability_of_improvement(np.ones(3), np.ones(2), paired=True)


def test_the_interval_of_the_mean_is_students():
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert found.value == pytest.approx(2.0)
    assert found.high - found.value == pytest.approx(4.302652730 / math.sqrt(3))
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_evaluations_to_reach():
    curve = np.array([0.1, 0.4, 0.4, 0.7])
    assert evaluations_to_reach(curve, 0.4) == 2
    assert evaluations_to_reach(curve, 0.05) == 1
    assert evaluations_to_reach(curve, 0.8) == math.inf


def test_expected_utility_after_each_evaluation_is_that_of_the_set_known_then():
    rng = np.random.default_rng(0)
    points, start = rng.uniform(size=(6, 3)), rng.uniform(size=(2, 3))
    preferences = rng.dirichlet(np.ones(3), size=20)
    curve = anytime_expected_utility(points, preferences, start)
    for n in range(6):
        known = np.concatenate([start, points[: n + 1]])
        assert curve[n] == pytest.approx(expected_utility(known, preferences))


def test_a_failed_evaluation_changes_nothing():
    preferences = np.array([[0.5, 0.5]])
    points = np.array([[math.nan, math.nan], [0.6, 0.4]])
    curve = anytime_expected_utility(points, preferences, np.array([[0.2, 0.2]]))
    assert curve == pytest.approx([0.2, 0.5])
