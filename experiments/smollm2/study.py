"""HM3 and its competitors on pretrained weights, at a hundred evaluations; see README.md."""

from __future__ import annotations

from experiments.common.items import items_table
from experiments.common.methods import METHODS, method
from experiments.common.plan import Context, Study, Variant
from experiments.common.records import Record, records
from experiments.common.report import write_methods
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.files import write_text
from hm3rl.models.zoo import resolve_source

FOUR_MEMBERS = (
    "search.parameter_share=0.2",
    "search.offline_share=0.2",
    "search.parameter.members=4",
    "pool.merged_mb=1536",
)
"""As HM3 was run first: the tiny zoo's shares of the budget, and few members."""


def missing() -> str:
    """What of base and experts is not on this machine."""
    pool = compose_settings(["experiment=smollm2"]).pool
    for source in (pool.base, *pool.experts.values()):
        try:
            resolve_source(source, pool.smollm2_adapters)
        except InputError as error:
            return str(error)
    return ""


def sources_table(record: Record) -> list[str]:
    """Scores of base and experts, as a search decides by them and on the test split."""
    tasks = record.summary["objectives"]
    heads = [f"{split} {task}" for split in ("search", "test") for task in tasks]
    lines = [f"| model | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, scores in record.summary["sources"].items():
        cells = [f"{value:.3f}" for split in ("search", "test") for value in scores[split]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def costs_table(rows: list[Record]) -> list[str]:
    """Seconds of each search and the most memory its process held."""
    lines = [
        "| method | budget | seed | whole search, s | an evaluation, s | in forward passes "
        "| with test scores, s | peak memory, GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds = row.summary["seconds"]
        each = (seconds["model"] + seconds["programs"] + seconds["other"]) / row.budget
        lines.append(
            f"| {row.variant} | {row.budget} | {row.seed} | {seconds['search']:.0f} "
            f"| {each:.1f} | {seconds['model'] / seconds['search']:.0%} "
            f"| {seconds['whole_run']:.0f} | {row.summary['peak_memory_mb'] / 1024:.2f} |"
        )
    return lines


def write(study: Study, context: Context) -> None:
    """Write what `write_methods` does, sources.md, costs.md and items.md."""
    write_methods(study, context)
    rows = records(study, context.root)
    tables = {
        "sources": sources_table(rows[0]),
        "costs": costs_table(rows),
        "items": items_table(rows, "hm3"),
    }
    for name, lines in tables.items():
        write_text(context.results / f"{name}.md", "\n".join(lines) + "\n")
        print("\n" + "\n".join(lines))


STUDY = Study(
    name="smollm2",
    variants={
        "hm3": method("hm3", {100: 3}),
        "hm3_four_members": Variant((*METHODS["hm3"], *FOUR_MEMBERS), {100: 1}),
        "parameter_only": method("parameter_only", {100: 3}),
        "random": method("random", {100: 3}),
        "mm_mo": method("mm_mo", {30: 3}),
    },
    write=write,
    # Two searches of one thread each take less time than one after the other with two.
    words=("experiment=smollm2", "threads=1"),
    in_all=False,  # minutes for each search, however small
    needs=missing,
)
