"""The front as a table: for the terminal (rich) and for people who open the folder (Markdown)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hm3rl.runs import RunFolder, write_text


def short_score(score: str, error: str) -> str:
    """A score and its standard error in eight columns: `0.66±.03`."""
    return f"{float(score):.2f}±" + f"{float(error):.2f}".removeprefix("0")


def rich_table(
    rows: Sequence[Mapping[str, str]],
    objectives: Sequence[str],
    sources: Mapping[str, Mapping[str, Sequence[float]]],
) -> Table:
    """The front on both splits, scores ± standard error, the experts below for comparison.

    Args:
        rows: Rows of front.csv.
        objectives: The tasks.
        sources: Scores of each expert by split ("search", "test").

    Returns:
        A table that fits 80 columns with up to three tasks.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("model", no_wrap=True)
    for split in ("search", "test"):
        for task in objectives:
            table.add_column(f"{split}\n{task}", justify="right", no_wrap=True)
    for row in rows:
        cells = [row["name"] + ("" if row["on_test_front"] == "1" else " ·")]
        for split in ("search", "test"):
            cells += [short_score(row[f"{split}_{t}"], row[f"{split}_{t}_se"]) for t in objectives]
        table.add_row(*cells)
    table.add_section()
    for name, splits in sources.items():
        cells = [name]
        for split in ("search", "test"):
            cells += [f"{value:.2f}" for value in splits[split]]
        table.add_row(*cells, style="dim")
    return table


def write_leaderboard(
    folder: RunFolder,
    rows: Sequence[Mapping[str, str]],
    summary: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, Sequence[float]]],
) -> None:
    """Write leaderboard.md.

    Args:
        folder: The run folder.
        rows: Rows of front.csv.
        summary: Contents of summary.json.
        sources: Scores of each expert by split.
    """
    tasks = list(summary["objectives"])
    volumes = summary["hypervolume"]
    lines = [
        f"# {summary['name']}: {summary['searcher']}, seed {summary['seed']}",
        "",
        f"{summary['charged']} evaluations. Hypervolume of f / z* with reference 0, z* the best "
        "expert on each task:",
        f"search split {volumes['search']:.4f}, test split {volumes['test']:.4f}; "
        f"the experts alone {volumes['sources_search']:.4f} (search).",
        "The front was chosen on the search split; `·` marks models that another one dominates on "
        "the test split. ± is one standard error.",
        "",
        "| model | "
        + " | ".join(f"{s} {t}" for s in ("search", "test") for t in tasks)
        + " | path |",
        "|---|" + "---:|" * (2 * len(tasks)) + "---|",
    ]
    for row in rows:
        cells = [
            f"{float(row[f'{s}_{t}']):.3f} ± {float(row[f'{s}_{t}_se']):.3f}"
            for s in ("search", "test")
            for t in tasks
        ]
        mark = "" if row["on_test_front"] == "1" else " ·"
        lines.append(f"| {row['name']}{mark} | " + " | ".join(cells) + f" | `{row['path']}` |")
    for name, splits in sources.items():
        cells = [f"{value:.3f}" for s in ("search", "test") for value in splits[s]]
        lines.append(f"| *{name}* | " + " | ".join(cells) + " | expert |")
    write_text(folder.leaderboard, "\n".join(lines) + "\n")
