"""The two pictures of a run: its front and its hypervolume against evaluations.

Colours are told apart in grey too: markers and line styles differ as well.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

PHASE_STYLE = {
    "parameter": ("#0072b2", "s"),
    "offline": ("#e69f00", "^"),
    "online": ("#009e73", "o"),
    "random paths": ("#999999", "v"),
}


def read_evaluations(path: Path) -> list[dict[str, str]]:
    """Rows of evaluations.csv of the fidelity that decides: that of the first rows, the sources."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if row.get("fidelity") == rows[0].get("fidelity")]


def plot_front(
    rows: Sequence[Mapping[str, str]],
    objectives: Sequence[str],
    front_keys: Sequence[str],
    sources: Mapping[str, Sequence[float]],
    target: Path,
    labels: Mapping[str, str] | None = None,
    references: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """All candidates of a run in every pair of objectives, the front and the sources marked.

    Args:
        rows: Rows of evaluations.csv.
        objectives: The tasks, at least two for a picture with two axes.
        front_keys: Keys of the non-dominated candidates.
        sources: Raw scores of each expert, by name.
        target: PNG file to write.
        labels: Other labels for the axes of some objectives.
        references: Raw scores of the uniform blends, by name; they lie too close for names.
    """
    names = [(labels or {}).get(name, name) for name in objectives]
    pairs = list(combinations(range(len(objectives)), 2)) or [(0, 0)]
    columns = min(3, len(pairs))
    lines = -(-len(pairs) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.9 * lines), squeeze=False, layout="constrained"
    )
    on_front = set(front_keys)
    scored = [row for row in rows if row["phase"] != "sources" and row["failed"] == "0"]
    for (i, j), axis in zip(pairs, grid.flat, strict=False):
        _scatter(axis, scored, objectives, i, j, on_front)
        if references:
            points = np.array(list(references.values()))
            axis.scatter(
                points[:, i], points[:, j], marker="x", color="black", zorder=4, label="uniform"
            )
        for name, scores in sources.items():
            axis.scatter(scores[i], scores[j], marker="*", s=110, color="black", zorder=4)
            left = scores[i] > 0.75
            axis.annotate(
                name,
                (scores[i], scores[j]),
                textcoords="offset points",
                xytext=(-6 if left else 6, 6),
                ha="right" if left else "left",
                fontsize=8,
                # A name may lie over a crowd of points.
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=5,
            )
        axis.set_xlabel(f"{names[i]} (search split)")
        axis.set_ylabel(names[j])
        axis.set_xlim(-0.03, 1.05)
        axis.set_ylim(-0.03, 1.08)
    for axis in list(grid.flat)[len(pairs) :]:
        axis.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def _scatter(
    axis: Axes,
    rows: Sequence[Mapping[str, str]],
    objectives: Sequence[str],
    i: int,
    j: int,
    on_front: set[str],
) -> None:
    for phase in dict.fromkeys(row["phase"] for row in rows):
        colour, marker = PHASE_STYLE.get(phase, ("#cc79a7", "D"))
        points = np.array(
            [
                [float(row[objectives[i]]), float(row[objectives[j]])]
                for row in rows
                if row["phase"] == phase
            ]
        )
        axis.scatter(
            points[:, 0], points[:, 1], s=14, color=colour, marker=marker, alpha=0.45, label=phase
        )
    best = np.array(
        [
            [float(row[objectives[i]]), float(row[objectives[j]])]
            for row in rows
            if row["key"] in on_front
        ]
    )
    if len(best):
        axis.scatter(
            best[:, 0],
            best[:, 1],
            s=46,
            facecolors="none",
            edgecolors="black",
            linewidths=0.9,
            label="front",
            zorder=3,
        )


def plot_hypervolume(rows: Sequence[Mapping[str, str]], target: Path, sources: float) -> None:
    """Hypervolume of the archive against evaluations charged, phases told apart.

    Args:
        rows: Rows of evaluations.csv.
        target: PNG file to write.
        sources: Hypervolume of the experts' own points.
    """
    scored = [row for row in rows if row["phase"] != "sources"]
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    start = (0.0, sources)
    for phase in dict.fromkeys(row["phase"] for row in scored):
        part = [row for row in scored if row["phase"] == phase]
        x = [start[0], *(float(row["evaluations"]) for row in part)]
        y = [start[1], *(float(row["hypervolume"]) for row in part)]
        colour, marker = PHASE_STYLE.get(phase, ("#cc79a7", "D"))
        axis.plot(
            x, y, color=colour, marker=marker, markevery=[-1], label=phase, drawstyle="steps-post"
        )
        start = (x[-1], y[-1])
    axis.axhline(sources, color="black", linestyle=":", linewidth=1, label="experts alone")
    axis.set_xlabel("evaluations used")
    axis.set_ylabel("hypervolume of f / z*, reference 0")
    axis.legend(frameon=False, loc="upper left")
    figure.savefig(target, dpi=120)
    plt.close(figure)
