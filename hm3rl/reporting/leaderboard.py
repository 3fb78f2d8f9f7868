"""The front as a table: for the terminal (rich) and for people who open the folder (Markdown)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hm3rl.files import POSTERIOR, RunFolder, write_text
from hm3rl.reporting.signs import PLAIN_SIGNS

Minimised = Mapping[str, Mapping[str, Any]]
"""`minimised` of summary.json: the worst cost and its unit, by objective to be minimised."""


def short_score(score: float, error: float) -> str:
    """A score and its standard error in eight columns: `0.66±.03`."""
    return f"{score:.2f}±" + f"{error:.2f}".removeprefix("0")


def heading(name: str, minimised: Minimised) -> str:
    """An objective as a column is headed; `↓` marks one to be minimised."""
    return f"{name} ↓" if name in minimised else name


def cost_or_score(name: str, utility: float, minimised: Minimised) -> float:
    """What a reader is shown: the score, or the cost behind the utility 1 - cost / worst."""
    return minimised[name]["worst"] * (1.0 - utility) if name in minimised else utility


def cost_or_error(name: str, error: float, minimised: Minimised) -> float:
    """The standard error of what is shown."""
    return minimised[name]["worst"] * error if name in minimised else error


def definition(name: str, minimised: Minimised) -> str:
    """An objective as its utility is defined: `length: 1 - layers / 16`, or just its name."""
    if name not in minimised:
        return name
    unit, worst = minimised[name]["unit"], minimised[name]["worst"]
    return f"{name}: 1 - {unit or 'error'}" + (f" / {worst:g}" if worst != 1 else "")


def front_table(folder: RunFolder, plain: bool = False) -> Table:
    """The front of a finished run as a table; its files are all this needs. See `rich_table`."""
    summary, rows = folder.read_summary(), folder.read_front()
    minimised: Minimised = summary.get("minimised", {})
    beside = {**summary["sources"], **summary.get("references", {})}
    return rich_table(rows, summary["objectives"], beside, minimised, plain)


def rich_table(
    rows: Sequence[Mapping[str, str]],
    objectives: Sequence[str],
    sources: Mapping[str, Mapping[str, Sequence[float]]],
    minimised: Minimised | None = None,
    plain: bool = False,
) -> Table:
    """The front, scores ± standard error, experts and reference merges below for comparison.

    Args:
        rows: Rows of front.csv.
        objectives: The tasks.
        sources: Scores of each expert or reference by block: "search", "test" and, if the front
            goes by them and they are known, "posterior" means.
        minimised: Objectives to be minimised, shown as costs.
        plain: Whether all signs are ASCII, so that columns stay in line on any terminal.

    Returns:
        A table that fits 80 columns with up to five objectives. What does not fit is left to
        leaderboard.md: with more than three, standard errors, and search scores beside means; with
        up to three, standard errors of scores beside means.
    """
    turned = minimised or {}
    blocks, narrow = blocks_of(rows), len(objectives) > 3
    means = POSTERIOR in blocks
    if means and narrow:
        blocks = [POSTERIOR, "test"]
    table = Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, 1), collapse_padding=means
    )
    table.add_column("model", no_wrap=True)
    for block in blocks:
        for task in objectives:
            name = "means" if block == POSTERIOR else block
            name = _signs(f"{name}\n{heading(task, turned)}", plain)
            width = None if narrow or not means else 8 if block == POSTERIOR else 6
            table.add_column(
                name, justify="right", no_wrap=not (narrow or means), overflow="fold", width=width
            )
    for row in rows:
        cells = [row["name"] + _signs("" if row["on_test_front"] == "1" else " ·", plain)]
        for block in blocks:
            bare = narrow or (means and block != POSTERIOR)
            shown = [_shown(row, block, task, turned) for task in objectives]
            cells += [
                f"{score:.2f}" if bare else _signs(short_score(score, error), plain)
                for score, error in shown
            ]
        table.add_row(*cells)
    table.add_section()
    for name, found in sources.items():
        cells = [name]
        for block in blocks:
            cells += [
                f"{cost_or_score(task, value, turned):.2f}" if value is not None else ""
                for task, value in zip(objectives, _known(found, block, objectives), strict=True)
            ]
        table.add_row(*cells, style="dim")
    return table


def blocks_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What rows of front.csv hold of each task: posterior means, if any, scores on both splits."""
    means = any(name.startswith(f"{POSTERIOR}_") for row in rows for name in row)
    return [*([POSTERIOR] if means else []), "search", "test"]


def _known(
    found: Mapping[str, Sequence[float]], block: str, objectives: Sequence[str]
) -> Sequence[float | None]:
    """Scores of an expert or reference; of references no posterior means are known."""
    return found[block] if block in found else [None] * len(objectives)


def _signs(text: str, plain: bool) -> str:
    return text.encode("ascii", PLAIN_SIGNS).decode("ascii") if plain else text


def _shown(
    row: Mapping[str, str], block: str, task: str, minimised: Minimised
) -> tuple[float, float]:
    """A score or cost of a row of front.csv and its standard error."""
    value, error = float(row[f"{block}_{task}"]), float(row[f"{block}_{task}_se"])
    return cost_or_score(task, value, minimised), cost_or_error(task, error, minimised)


def evaluations_used(summary: Mapping[str, Any]) -> str:
    """Evaluations behind a run's front, those of earlier lives under other budgets apart."""
    earlier = summary.get("earlier", 0)
    return f"{summary['evaluations']:g}" + (f" (+{earlier} of earlier lives)" if earlier else "")


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
        sources: Scores of each expert; see `rich_table`.
    """
    blocks = blocks_of(rows)
    tasks = list(summary["objectives"])
    volumes = summary["hypervolume"]
    minimised: Minimised = summary.get("minimised", {})
    references = summary.get("references", {})
    lines = [
        f"# {summary['name']}: {summary['searcher']}, seed {summary['seed']}",
        "",
        f"{evaluations_used(summary)} evaluations. Hypervolume of f / z* with reference 0, z* the "
        "best expert on each task:",
        f"search split {volumes['search']:.4f}, test split {volumes['test']:.4f}; "
        f"the experts alone {volumes['sources_search']:.4f} (search).",
        *_chosen_by(volumes),
        "`·` marks models that another one dominates on the test split. ± is one standard error.",
        *(
            ["Search scores are proxies: teacher-forced, nothing decoded or executed."]
            if summary.get("fidelity") == "proxy"
            else []
        ),
        *(
            f"`↓` is minimised and shown as it is; its utility is {definition(name, minimised)}."
            for name in minimised
        ),
        "",
        "| model | "
        + " | ".join(f"{s} {heading(t, minimised)}" for s in blocks for t in tasks)
        + " | path |",
        "|---|" + "---:|" * (len(blocks) * len(tasks)) + "---|",
    ]
    for row in rows:
        cells = [
            "{:.3f} ± {:.3f}".format(*_shown(row, s, t, minimised)) for s in blocks for t in tasks
        ]
        mark = "" if row["on_test_front"] == "1" else " ·"
        lines.append(f"| {row['name']}{mark} | " + " | ".join(cells) + f" | `{row['path']}` |")
    kinds = dict.fromkeys(sources, "expert") | dict.fromkeys(references, "uniform blend")
    for name, found in {**sources, **references}.items():
        cells = [
            f"{cost_or_score(task, value, minimised):.3f}" if value is not None else ""
            for s in blocks
            for task, value in zip(tasks, _known(found, s, tasks), strict=True)
        ]
        lines.append(f"| *{name}* | " + " | ".join(cells) + f" | {kinds[name]} |")
    lines += _further(summary.get("further") or {})  # older runs do not say
    lines += _watched(summary.get("watched") or {})
    write_text(folder.leaderboard, "\n".join(lines) + "\n")


def _further(further: Mapping[str, Any]) -> list[str]:
    """What models score by metrics that decided nothing."""
    if not further:
        return []
    columns = [(task, metric) for task, names in further["metrics"].items() for metric in names]
    lines = [
        "",
        "Further metrics, test split; they decided nothing:",
        "",
        "| model | " + " | ".join(f"{task} {metric}" for task, metric in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, found in further["scores"].items():
        values = [found.get(task, {}).get(metric) for task, metric in columns]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _watched(watched: Mapping[str, Any]) -> list[str]:
    """What models score on tasks that the search did not see."""
    if not watched:
        return []
    tasks, turned = list(watched["tasks"]), watched["minimised"]
    lines = [
        "",
        "Watched tasks, test split; the search did not see them:",
        "",
        "| model | " + " | ".join(heading(task, turned) for task in tasks) + " |",
        "|---|" + "---:|" * len(tasks),
    ]
    for name, found in watched["scores"].items():
        cells = [
            f"{cost_or_score(task, found[task][0], turned):.3f} ± "
            f"{cost_or_error(task, found[task][1], turned):.3f}"
            for task in tasks
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _chosen_by(volumes: Mapping[str, Any]) -> list[str]:
    """What the front goes by, and what that makes of its hypervolume."""
    if POSTERIOR not in volumes:
        return ["The front was chosen on the search split."]
    means = volumes[POSTERIOR]
    return [
        "Those are of the front by scores. The front below goes by posterior means of the search "
        f"split's scores: {means['search']:.4f} by means, test split {means['test']:.4f}."
    ]
