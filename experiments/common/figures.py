"""Figures of a study: a curve for each method, interquartile mean and interval over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from hm3rl.objectives.statistics import interquartile_interval

COLOURS = ("#009e73", "#0072b2", "#e69f00", "#cc79a7", "#777777", "#56b4e9", "#d55e00", "#000000")
LINES = ("-", "--", ":", "-.", (0, (1, 2)))
"""Colours told apart by the colour-blind, and line styles for grey print."""


def style(number: int) -> dict[str, Any]:
    """Colour and line of the method with a number; 40 differ."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[(number + number // len(COLOURS)) % len(LINES)],
    }


def draw_curves(
    curves: Mapping[str, Sequence[np.ndarray]], ylabel: str, target: Path, band: bool = True
) -> None:
    """Draw what each method has after 1, 2, ... evaluations.

    Args:
        curves: For each method one curve a seed, each of shape (budget,).
        ylabel: What is drawn, with normalisation, reference and split.
        target: PNG file.
        band: Whether the bootstrap interval is shaded.
    """
    figure, axis = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    for number, (name, runs) in enumerate(curves.items()):
        _curve(axis, np.array(runs), name, number, band)
    axis.set_xlabel("evaluations used")
    axis.set_ylabel(ylabel)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _curve(axis: Axes, runs: np.ndarray, name: str, number: int, band: bool) -> None:
    found = interquartile_interval([runs], resamples=500)
    x = np.arange(1, runs.shape[1] + 1)
    look = style(number)
    axis.plot(x, found.value, label=name, **look)
    if band and not np.isnan(found.low).any():
        axis.fill_between(x, found.low, found.high, color=look["color"], alpha=0.12, linewidth=0)


def draw_bars(
    values: Mapping[str, Sequence[float]],
    xlabel: str,
    target: Path,
    start: float | None = None,
    start_label: str = "experts alone",
) -> None:
    """Draw each row's runs as dots beside their interquartile mean.

    Args:
        values: Values of the runs, by row.
        xlabel: What is drawn.
        target: PNG file.
        start: A reference line.
        start_label: What the reference line is.
    """
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.42 * len(values)), layout="constrained")
    for place, (_, runs) in enumerate(values.items()):
        found = interquartile_interval([np.array(runs)], resamples=500)
        axis.plot(runs, np.full(len(runs), place), ".", color="#777777", markersize=5)
        axis.plot(found.value, place, "D", color="#0072b2", markersize=6)
        if not np.isnan(found.low):
            axis.plot([found.low, found.high], [place, place], color="#0072b2", linewidth=1.5)
    if start is not None:
        axis.axvline(start, color="black", linestyle=":", linewidth=1, label=start_label)
        axis.legend(frameon=False, fontsize=8)
    axis.set_yticks(range(len(values)), list(values))
    axis.set_ylim(len(values) - 0.5, -0.5)  # the first row on top, none on the frame
    axis.set_xlabel(xlabel)
    figure.savefig(target, dpi=110)
    plt.close(figure)
