"""Are scores predicted better by way of the negative log-likelihoods than directly?

    python -m experiments.agent_checks.likelihoods runs/fronts/hm3/budget300-seed{0,1,2}

The paths that finished hm3 runs evaluated are divided at random: n to learn from, all but 120 to
predict. `direct` is the surrogate's Gaussian process of the scores. `via` predicts each task's
logarithm of the likelihood with another, maps it to the score by a polynomial fitted to the n paths
(a line below 40, else a parabola) and adds a process of what that leaves over. `both` is the mean
of the two. The value is the share of the test paths' variance explained, averaged over the tasks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.files import write_csv, write_text
from hm3rl.surrogate.features import PathFeatures
from hm3rl.surrogate.gp import PathGP

RESULTS = Path(__file__).parent / "results"
SIZES = (20, 40, 80)
HELD_BACK = 120
STEPS = 60
SMALLEST = 1e-6
"""Smaller likelihoods count as this, so that they have a logarithm."""


def gaussian_process(
    train: PathFeatures, targets: np.ndarray, test: PathFeatures, depths: np.ndarray
) -> np.ndarray:
    """Posterior means on the test paths, shape (m, O)."""
    process = PathGP(targets.shape[1], depths)
    process.fit(train, targets, STEPS)
    return process.mean(test)


def via_likelihoods(
    train: PathFeatures,
    test: PathFeatures,
    scores: np.ndarray,
    logarithms: np.ndarray,
    depths: np.ndarray,
) -> np.ndarray:
    """Scores of the test paths by way of predicted likelihoods, shape (m, K)."""
    low, high = logarithms.min(axis=0), logarithms.max(axis=0)
    predicted = np.clip(gaussian_process(train, logarithms, test, depths), low, high)
    degree = 1 if len(scores) < 40 else 2
    curves = [np.polyfit(x, y, degree) for x, y in zip(logarithms.T, scores.T, strict=True)]
    fitted = np.stack([np.polyval(c, x) for c, x in zip(curves, logarithms.T, strict=True)], axis=1)
    mapped = np.stack([np.polyval(c, x) for c, x in zip(curves, predicted.T, strict=True)], axis=1)
    return mapped + gaussian_process(train, scores - fitted, test, depths)


def explained(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of the variance explained, mean over the tasks."""
    error = ((predicted - truth) ** 2).sum(axis=0)
    return float((1.0 - error / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)).mean())


def main() -> None:
    """Write results/likelihoods.csv and likelihoods.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    values: dict[tuple[int, str], list[float]] = {}
    rows: list[list[object]] = []
    for seed, folder in enumerate(args.runs):
        agent = MergeAgent.load(folder / "agent.zip")
        depths, scores = agent.state.surrogate.features.depths, agent.state.dataset.vectors
        features = agent.state.surrogate.features(agent.state.dataset.tokens)
        logarithms = np.log(np.maximum(agent.state.dataset.nll, SMALLEST))
        order = np.random.default_rng(seed).permutation(len(scores))
        held = order[HELD_BACK:]
        for n in SIZES:
            known = order[:n]
            train, test = features.rows(known), features.rows(held)
            direct = gaussian_process(train, scores[known], test, depths)
            via = via_likelihoods(train, test, scores[known], logarithms[known], depths)
            for name, found in (("direct", direct), ("via", via), ("both", (direct + via) / 2)):
                value = explained(found, scores[held])
                values.setdefault((n, name), []).append(value)
                rows.append(["tiny_zoo", name, seed, f"explained_{n}", f"{value:.4f}"])
    RESULTS.mkdir(exist_ok=True)
    columns = ["problem", "variant", "seed", "metric", "value"]
    write_csv(RESULTS / "likelihoods.csv", columns, rows)
    lines = ["| paths known | direct | via | both |", "|---:|---:|---:|---:|"]
    for n in SIZES:
        means = [np.mean(values[n, name]) for name in ("direct", "via", "both")]
        lines.append(f"| {n} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    write_text(RESULTS / "likelihoods.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
