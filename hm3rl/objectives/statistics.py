"""Statistics of several runs: what a table of methods may claim from a handful of seeds.

After Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice":
interquartile means with stratified bootstrap intervals and probabilities of improvement instead of
means of a few runs. Two things deviate. Runs of one seed share their random draws in this
project, so comparisons can also be *paired* by seed. And a stratum is whatever was repeated under
several seeds (a pool of models, a set of tasks); most tables have a single one, where the
stratified bootstrap is the ordinary percentile bootstrap over seeds.

With five seeds an interval is rough: the percentile bootstrap of so few values is too narrow, and
its ends are order statistics of means of the very same five numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from hm3rl.objectives.scalarisation import Scalarisation, scalarise

RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A statistic with a confidence interval around it.

    Attributes:
        value: The statistic of the runs themselves, a number or an array of shape (N,).
        low: Lower end of the interval, same shape; NaN where a stratum has a single run.
        high: Upper end, likewise.
    """

    value: Any
    low: Any
    high: Any


def interquartile_mean(scores: np.ndarray, axis: int = -1) -> Any:
    """Mean of the middle half: the lowest and the highest quarter of the runs are dropped.

    As in Agarwal et al. (2021), section 4.3, floor(n / 4) runs are dropped at each end: of five
    runs the best and the worst, of fewer than four none.

    Args:
        scores: One value for each run along `axis`.
        axis: Axis of the runs.

    Returns:
        The mean, without that axis.
    """
    return stats.trim_mean(np.asarray(scores, dtype=np.float64), 0.25, axis=axis)


def interquartile_interval(
    strata: Sequence[np.ndarray], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Interquartile mean over all runs, with its stratified bootstrap interval.

    Runs are drawn again with replacement inside each stratum, and the percentiles of the statistic
    over the resamples are the interval (Agarwal et al., 2021, section 4.1).

    Args:
        strata: One array for each stratum, shape (runs,) for numbers or (runs, N) for curves; a
            resample draws whole curves.
        resamples: Bootstrap resamples.
        level: Confidence level.
        seed: Seed of the resampling.

    Returns:
        Statistic and interval, numbers or shape (N,).
    """
    arrays = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    value = interquartile_mean(np.concatenate(arrays), axis=0)

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(interquartile_mean(np.concatenate(samples, axis=axis), axis))

    return _bootstrap(value, arrays, statistic, False, resamples, level, seed)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray, paired: bool = False) -> float:
    """How likely a run of ours beats a run of theirs; equals count one half.

    Unpaired it is the Mann-Whitney statistic divided by the number of pairs (Agarwal et al., 2021,
    section 4.3): every run of ours against every run of theirs. Paired, runs of the same seed meet.

    Args:
        ours: Scores, shape (n,), higher is better.
        theirs: Scores, shape (m,); paired: shape (n,), in the same order of seeds.
        paired: Whether only runs of equal position are compared.

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: Paired, but the shapes differ.
    """
    if paired and np.shape(ours) != np.shape(theirs):
        raise ValueError(f"{np.shape(ours)} and {np.shape(theirs)} runs cannot be paired")
    return float(_wins(np.asarray(ours), np.asarray(theirs), paired))


def improvement_interval(
    ours: np.ndarray,
    theirs: np.ndarray,
    paired: bool = False,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """`probability_of_improvement` with its bootstrap interval.

    Args:
        ours: Scores, shape (n,), higher is better.
        theirs: Scores, shape (m,).
        paired: Whether runs are compared, and drawn again, seed by seed.
        resamples: Bootstrap resamples.
        level: Confidence level.
        seed: Seed of the resampling.

    Returns:
        Probability and interval. If one side won every comparison the interval has no width,
        which says that there are few runs and not that the probability is certain.
    """
    value = probability_of_improvement(ours, theirs, paired)
    samples = [np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)]

    def statistic(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return _wins(np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1), paired)

    return _bootstrap(value, samples, statistic, paired, resamples, level, seed)


def mean_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean with the interval of Student's t, for example of differences paired by seed.

    Args:
        values: Shape (n,).
        level: Confidence level.

    Returns:
        Mean and interval; NaN ends for a single value.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, math.nan, math.nan)
    half = stats.t.ppf(0.5 + level / 2, len(array) - 1) * stats.sem(array)
    return Interval(mean, float(mean - half), float(mean + half))


def evaluations_to_reach(curve: np.ndarray, target: float) -> float:
    """How many evaluations a run needed to reach a value.

    Args:
        curve: Value after 1, 2, ..., N evaluations, shape (N,); it never falls.
        target: The value.

    Returns:
        The first number of evaluations with curve >= target; infinity if there is none.
    """
    reached = np.flatnonzero(np.asarray(curve) >= target)
    return float(reached[0] + 1) if len(reached) else math.inf


def anytime_expected_utility(
    points: np.ndarray,
    preferences: np.ndarray,
    start: np.ndarray,
    kind: Scalarisation = "weighted_sum",
) -> np.ndarray:
    """Expected utility (EUM; Zintgraf et al., 2015) of what is known after each evaluation.

    Args:
        points: Normalised scores f / z* in the order of evaluation, shape (N, K); a row of NaN is
            an evaluation that failed.
        preferences: Preferences the mean is over, shape (P, K).
        start: Points known before, the sources' own, shape (S, K), S >= 1.
        kind: Scalarisation.

    Returns:
        Shape (N,); it never falls.
    """
    known = np.concatenate([np.asarray(start, np.float64), np.asarray(points, np.float64)])
    utilities = scalarise(known[:, None, :], np.asarray(preferences)[None, :, :], kind)
    best = np.maximum.accumulate(np.where(np.isnan(utilities), -np.inf, utilities), axis=0)
    return np.asarray(best.mean(axis=1)[len(start) :])


def _wins(ours: np.ndarray, theirs: np.ndarray, paired: bool) -> np.ndarray:
    """Share of comparisons won along the last axis, equals counting one half."""
    if paired:
        return ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=-1)
    left, right = ours[..., :, None], theirs[..., None, :]
    return ((left > right) + 0.5 * (left == right)).mean(axis=(-2, -1))


def _bootstrap(
    value: Any,
    samples: Sequence[np.ndarray],
    statistic: Any,
    paired: bool,
    resamples: int,
    level: float,
    seed: int,
) -> Interval:
    """The percentile interval of a statistic whose samples are drawn again along axis 0."""
    if any(len(sample) < 2 for sample in samples):
        nothing = np.full(np.shape(value), math.nan)[()]
        return Interval(value, nothing, nothing)
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        paired=paired,
        vectorized=True,
        axis=0,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, found.low, found.high)
