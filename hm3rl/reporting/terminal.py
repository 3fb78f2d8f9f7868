"""What the commands print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hm3rl.errors import HM3Error
from hm3rl.evaluation.costs import Minimised as Costs
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store_files import Section
from hm3rl.files import POSTERIOR, RunFolder
from hm3rl.reporting.leaderboard import (
    Minimised,
    cost_or_error,
    cost_or_score,
    evaluations_used,
    front_table,
    heading,
)
from hm3rl.reporting.report import PAGE
from hm3rl.reporting.verdict import just_an_expert, none_is_good
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import SearchResult
from hm3rl.run.pick import Choice

Numbers = Sequence[float] | np.ndarray


def print_facts(console: Console, facts: Mapping[str, object]) -> None:
    """Facts by name; long ones go on under their own beginning."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name), Text(str(value)))
    console.print(table)


def print_search(console: Console, result: SearchResult) -> None:
    """The front, where the pictures are, and the next command."""
    run = FinishedRun(result.folder.path)
    summary = run.summary
    volumes, spent = summary["hypervolume"], summary["seconds"]
    console.print(front_table(run.folder, console.options.ascii_only))
    console.print(
        f"\nhypervolume (f / z*, reference 0): {volumes['search']:.3f} search, "
        f"{volumes['test']:.3f} test; experts {volumes['sources_search']:.3f}\n"
        f"{_by_means(volumes)}"
        f"{evaluations_used(summary)} evaluations in {spent['search']:.0f} s (models "
        f"{spent['model']:.0f} s, programs {spent['programs']:.0f} s, agent "
        f"{spent['agent']:.0f} s); {summary['failed']} failed",
        markup=False,
    )
    console.print()
    path = run.folder.path
    console.print(f"pictures: {path}/pareto.png, {path}/hypervolume.png", markup=False)
    if (path / PAGE).is_file():
        console.print(f"report: {path / PAGE} (open it in a browser)", markup=False)
    picked = run.folder.models / "picked"
    if picked.is_dir():
        weights = " ".join(f"{k}={v:g}" for k, v in run.settings.export.prefer.items())
        console.print(f"model for {weights}: {picked}", markup=False)
    first = " ".join(f"{name}={2 if i == 0 else 1}" for i, name in enumerate(run.objectives[:2]))
    console.print(
        f"next: hm3rl pick {path} --prefer {first} --export my-model", markup=False, soft_wrap=True
    )


def _by_means(volumes: Mapping[str, Any]) -> str:
    if POSTERIOR not in volumes:
        return ""
    means = volumes[POSTERIOR]
    return (
        f"that is the front by scores; the one above, by posterior means: {means['search']:.3f} by "
        f"means, {means['test']:.3f} test\n"
    )


def print_sweep(console: Console, folder: Path) -> None:
    """One row for each finished job of a sweep, and where to look further.

    Raises:
        HM3Error: No job finished.
    """
    inside = folder.iterdir() if folder.is_dir() else ()
    jobs = sorted((path for path in inside if is_job(path)), key=job_order)
    finished = [path for path in jobs if RunFolder(path).summary.is_file()]
    if not finished:
        raise HM3Error(f"no job of the sweep finished; their logs: {folder}/*/run.log")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "searcher", "seed", "evaluations", "HV search", "HV test", "seconds"):
        table.add_column(column, justify="left" if column == "searcher" else "right")
    for path in finished:
        summary = RunFolder(path).read_summary()
        volumes = summary["hypervolume"]
        table.add_row(
            path.name,
            summary["searcher"],
            str(summary["seed"]),
            evaluations_used(summary),
            f"{volumes['search']:.3f}",
            f"{volumes['test']:.3f}",
            f"{summary['seconds']['search']:.0f}",
        )
    console.print(table)
    failed = len(jobs) - len(finished)
    if failed:
        console.print(f"{failed} of {len(jobs)} jobs did not finish; see {folder}/*/run.log")
    console.print(f"\nruns: {folder}", markup=False)
    console.print(f"next: hm3rl report {folder}", markup=False, soft_wrap=True)


def is_job(path: Path) -> bool:
    """Whether a folder of a sweep is a job's: numbered, or named by `hydra.sweep.subdir`."""
    return path.name.isdigit() or RunFolder(path).config.is_file()


def job_order(path: Path) -> list[tuple[int, str]]:
    """Sorts jobs by name, with numbers as numbers: 2 before 10, seed2 before seed10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def section_as_dict(section: Section) -> dict[str, Any]:
    """What a store holds under one condition, as a JSON-ready mapping."""
    return {
        **section.condition._asdict(),
        "tasks": list(section.tasks),
        "evaluations": section.count,
        "failed": section.errors.total(),
        "errors": dict(section.errors),
        "best": {
            task: {"score": score, "standard_error": error, "path": path}
            for task, (score, error, path) in section.best.items()
        },
    }


def print_store(console: Console, path: Path, sections: Sequence[Section]) -> None:
    """What a store holds, by condition."""
    console.print(f"{path}: {sum(s.count for s in sections)} evaluations", markup=False)
    for section in sections:
        suite, split, dtype, backend, fidelity = section.condition
        console.print(
            f"\n{section.count} on the {split} split, {fidelity}, {dtype} on {backend}, "
            f"suite {suite}; {section.errors.total()} failed",
            markup=False,
            soft_wrap=True,
        )
        for task, (score, error, name) in section.best.items():
            console.print(
                f"  best {task:<12} {score:.4f} ± {error:.4f}  {name}", markup=False, soft_wrap=True
            )
        for message, count in section.errors.most_common():
            console.print(f"  {count} × {message}", markup=False, soft_wrap=True)


def choice_as_dict(choice: Choice, objectives: Sequence[str]) -> dict[str, Any]:
    """A choice as a JSON-ready mapping."""
    return {
        "origin": choice.origin,
        "expert": choice.expert,
        "asked": choice.asked.to_dict(),
        "by": choice.by,
        "path": str(choice.candidate.path),
        "recipes": {recipe.name: recipe.to_dict() for recipe in choice.candidate.recipes},
        "key": choice.key,
        "utility": choice.utility,
        "decoded": choice.decoded,
        "decoded_utility": choice.decoded_utility,
        "front_utility": choice.front_utility,
        "most_even": {"key": choice.most_even[0], "share": choice.most_even[1]},
        "evaluation": _evaluation_or_none(choice.evaluation, objectives),
        "test": _evaluation_or_none(choice.test, objectives),
        "posterior": _means_as_dict(choice.posterior, objectives),
        "expected": _means_as_dict(choice.expected, objectives),
    }


def _evaluation_or_none(
    evaluation: Evaluation | None, objectives: Sequence[str]
) -> dict[str, Any] | None:
    return None if evaluation is None else evaluation_as_dict(evaluation, objectives)


def _means_as_dict(
    means: tuple[np.ndarray, np.ndarray] | None, objectives: Sequence[str]
) -> dict[str, dict[str, float]] | None:
    if means is None:
        return None
    return {
        name: {"mean": float(mean), "standard_error": float(error)}
        for name, mean, error in zip(objectives, *means, strict=True)
    }


def print_choice(console: Console, choice: Choice, run: FinishedRun) -> None:
    """The chosen model: its path, recipes and scores, and by which utility it was chosen."""
    named = {row["key"]: row["name"] for row in run.front_rows()}
    name = f", {named[choice.key]}" if choice.key in named else ""
    console.print(f"chosen from  the {choice.origin}{name}", markup=False)
    console.print(f"path         {choice.candidate.path}", markup=False, soft_wrap=True)
    for recipe in choice.candidate.recipes:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in recipe.weights)
        console.print(
            f"  {recipe.name}  {recipe.operator}: {weights}; scale {recipe.scale:.2f}, "
            f"density {recipe.density:.2f}",
            markup=False,
            soft_wrap=True,
        )
    console.print(_scores_of(choice, run))
    by = "posterior means" if choice.by == POSTERIOR else choice.by
    if choice.utility is None:
        console.print("not evaluated (--no-eval)", markup=False)
    else:
        console.print(
            f"utility      {choice.utility:.4f} ({choice.asked}; {by}, search split, f / z*)",
            markup=False,
        )
    if choice.decoded_utility is not None:
        console.print(
            f"             agent's own path {choice.decoded_utility:.4f}, best of the front "
            f"{choice.front_utility:.4f}",
            markup=False,
        )
    even, share = choice.most_even
    remarks = [none_is_good(named.get(even, even[:12]), share)]
    if choice.expert is not None:
        remarks.insert(0, just_an_expert(choice.expert, choice.asked))
    for remark in filter(None, remarks):
        console.print(f"note: {remark}", markup=False, soft_wrap=True)


def _scores_of(choice: Choice, run: FinishedRun) -> Table:
    """What is known of the chosen model, a row for each objective, and the best expert's scores."""
    summary = run.summary
    minimised: Minimised = summary.get("minimised", {})
    columns: dict[str, tuple[Numbers, Numbers]] = {}
    if choice.expected is not None:
        columns["expected"] = choice.expected
    if choice.posterior is not None:
        columns["means"] = choice.posterior
    for split, evaluation in (("search", choice.evaluation), ("test", choice.test)):
        if evaluation is not None and evaluation.ok:
            columns[split] = evaluation.scores, evaluation.standard_errors
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
        if name != "means":  # those are of the search split, as what follows them
            table.add_column("best expert", justify="right", style="dim")
    for place, name in enumerate(run.objectives):
        cells = [heading(name, minimised)]
        for column, (scores, errors) in columns.items():
            value = cost_or_score(name, scores[place], minimised)
            cells.append(f"{value:.3f} ± {cost_or_error(name, errors[place], minimised):.3f}")
            if column != "means":
                best = summary["z_star"]["test" if column == "test" else "search"][place]
                cells.append(f"{cost_or_score(name, best, minimised):.3f}")
        table.add_row(*cells)
    found = {} if choice.test is None else choice.test.secondary or {}
    best = summary.get("further") or {"scores": {}}  # older runs do not say
    for task, metric in [(task, metric) for task, metrics in found.items() for metric in metrics]:
        own = [best["scores"].get(name, {}).get(task, {}) for name in summary["sources"]]
        known = [scores[metric] for scores in own if metric in scores]
        cells = [f"{task}: {metric}"]
        for column in columns:
            tested = column == "test"
            cells.append(f"{found[task][metric]:.3f}" if tested else "")
            if column != "means":
                cells.append(f"{max(known):.3f}" if tested and known else "")
        table.add_row(*cells, style="dim")
    return table


def print_answers(
    console: Console,
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Mapping[str, str],
) -> None:
    """Prompt, reference, answer and score of each item."""
    for task, items in answers.items():
        for number, one in enumerate(items):
            title = f"{task} {number}: {metrics[task]} {one['score']:g}"
            console.print(Text(title, style="bold"))
            table = Table.grid(padding=(0, 2))
            for name in ("prompt", "reference", "answer"):
                table.add_row(f"  {name}", Text(one[name] if one[name].strip() else "(nothing)"))
            console.print(table)
            console.print()


def evaluation_as_dict(
    evaluation: Evaluation,
    objectives: Sequence[str],
    minimised: Mapping[str, Costs] | None = None,
) -> dict[str, Any]:
    """An evaluation as a JSON-ready mapping, without the scores of single items.

    Scores are utilities, whatever is minimised: `minimised` says how they read as costs, if given.
    """
    turned = {} if minimised is None else {"minimised": _turned(minimised)}
    return {
        "split": evaluation.split,
        "status": evaluation.status,
        "error": evaluation.error,
        # A failure has none of these.
        "scores": dict(zip(objectives, evaluation.scores, strict=False)),
        "standard_errors": dict(zip(objectives, evaluation.standard_errors, strict=False)),
        "nll": dict(zip(objectives, evaluation.nll, strict=False)),
        "secondary": {task: dict(values) for task, values in (evaluation.secondary or {}).items()},
        "seconds": dict(evaluation.seconds),
        **turned,
    }


def _turned(minimised: Mapping[str, Costs]) -> dict[str, dict[str, Any]]:
    return {name: {"worst": one.worst, "unit": one.unit} for name, one in minimised.items()}


def print_evaluation(
    console: Console,
    evaluation: Evaluation,
    objectives: Sequence[str],
    minimised: Mapping[str, Costs],
) -> None:
    """Scores ± standard error of one evaluation, of what is minimised costs, marked `↓`."""
    if evaluation.status != "ok":
        console.print(f"failed       {evaluation.error}", markup=False, soft_wrap=True)
        return
    turned = _turned(minimised)
    for i, name in enumerate(objectives):
        score = cost_or_score(name, evaluation.scores[i], turned)
        error = cost_or_error(name, evaluation.standard_errors[i], turned)
        nll = "" if turned.get(name, {}).get("unit") else f"; nll {evaluation.nll[i]:.3f}"
        console.print(
            f"{heading(name, turned):<12} {score:.3f} ± {error:.3f} "
            f"({evaluation.split} split{nll})",
            markup=False,
        )
    for task, values in (evaluation.secondary or {}).items():
        for name, value in values.items():
            console.print(f"{task + ' ' + name:<20} {value:.3f}", markup=False)
