"""The model card of a checkpoint that this package wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from hm3rl.evaluation.costs import Minimised
from hm3rl.evaluation.result import Evaluation
from hm3rl.export.reload import ReloadCheck
from hm3rl.interop.mergekit_yaml import public_name
from hm3rl.models.pool import ModelPool
from hm3rl.models.zoo import NAMED
from hm3rl.paths.candidate import Candidate

PACKAGES = ("hm3rl", "torch", "transformers", "safetensors")
UNDECLARED = "not declared"


@dataclass(frozen=True)
class Provenance:
    """What a card says beside what the model is made of.

    Attributes:
        evaluations: The model's scores as far as they are known, one a split.
        objectives: Names of the scores, in their order.
        minimised: How scores of those to be minimised read as costs.
        seed: Seed of the search that found it.
        command: Command that found or made it.
        notes: Further sentences for "Limitations".
    """

    evaluations: Sequence[Evaluation] = ()
    objectives: Sequence[str] = ()
    minimised: Mapping[str, Minimised] = field(default_factory=dict)
    seed: int | None = None
    command: str | None = None
    notes: Sequence[str] = field(default=())


def used_sources(candidate: Candidate, pool: ModelPool) -> tuple[str, ...]:
    """List the sources whose weights are in a candidate, in the pool's order.

    The base's are in every merge and in every adapter over it.
    """
    used = set(candidate.sources)
    if used & set(pool.adapters):
        used.add(pool.base_name)
    return tuple(name for name in pool.names if name in used)


def versions() -> dict[str, str]:
    """Return the versions of the packages that made the model."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def declared_licence(folder: Path) -> str | None:
    """Return the licence that the model card in a folder declares, None if it declares none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    try:
        plain = yaml.safe_load(front)
    except yaml.YAMLError:
        return None
    declared = plain.get("license") if isinstance(plain, dict) else None
    return None if declared is None else str(declared)


def display_name(pool: ModelPool, name: str) -> str:
    """Name a source in a card: the zoo's or hub's name, else the folder's last part."""
    origin = pool.origins[name]
    if origin.startswith(NAMED):
        return f"hm3rl-{origin.replace(':', '-')}"
    public = public_name(pool, name)
    return public if public != str(pool.paths[name]) else pool.paths[name].name


def model_card(
    title: str,
    sources: Sequence[str],
    pool: ModelPool,
    contents: Sequence[str],
    check: ReloadCheck,
    mergekit: str,
    provenance: Provenance,
    *,
    merged: bool = True,
) -> str:
    """Write the card.

    Args:
        title: Heading, the folder's name.
        sources: Names of the sources whose weights are in the model.
        pool: All sources.
        contents: Lines that say what the model is made of, e.g. of `candidate_contents`.
        check: The result of the reload check, which passed.
        mergekit: One sentence about mergekit_config.yml.
        provenance: Scores, seed, command.
        merged: Whether it is a merge, and not one model in another form.

    Returns:
        Markdown with front matter.
    """
    # Two names may stand for one model: a base that is merged as an expert too.
    shown = tuple(dict.fromkeys(display_name(pool, name) for name in sources))
    licences = {name: declared_licence(pool.paths[name]) for name in sources}
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": list(shown),
        **({"base_model_relation": "merge"} if merged else {}),
        "tags": ["merge", "hm3rl"] if merged else ["hm3rl"],
    }
    agreed = set(licences.values())
    if len(agreed) == 1 and None not in agreed:
        front["license"] = licence = str(next(iter(agreed)))
    else:
        each = {display_name(pool, name): found or UNDECLARED for name, found in licences.items()}
        licence = "the sources' differ, and each binds this model: " + "; ".join(
            f"{name}: {found}" for name, found in each.items()
        )
    if len(agreed) == 1 and None in agreed:
        licence = "no source declares one"
    facts: Mapping[str, str] = {
        "sources": "; ".join(f"{n} {pool.hashes[n][:16]}" for n in sources) + " (content hashes)",
        "tokenizer, special tokens, generation config, chat template": pool.tokenizer_donor,
        "precision": check.dtype,
        "search seed": "not given" if provenance.seed is None else str(provenance.seed),
        "command": f"`{provenance.command}`" if provenance.command else "not given",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "licence": licence,
        "mergekit": mergekit,
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {title}",
        "",
        *contents,
        "",
        "## Scores",
        "",
        *_scores(provenance),
        "",
        "## Provenance",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "## Reload check",
        "",
        f"Loaded with plain transformers: logits of {check.prompt_tokens}-token prompts within "
        f"{check.logit_error:.1e} of the model in memory (relative to the largest logit, "
        f"{check.tolerance:.0e} allowed); {check.generated_tokens} greedy tokens agree with and "
        "without cache.",
        "",
        "## Limitations",
        "",
        "Scores hold for the tasks, items and decoding limits of the search. A merge inherits what "
        "its sources were trained on, and nothing else was tested."
        if provenance.evaluations
        else "Only the reload was tested. "
        + ("A merge" if merged else "The model")
        + " inherits what its sources were trained on.",
        "",
    ]
    for note in provenance.notes:
        lines += [note, ""]
    return "\n".join(lines)


def candidate_contents(candidate: Candidate) -> list[str]:
    """Describe a candidate: its path depth by depth, and the recipes of its merged members."""
    lines = [
        "A merged model found by multi-objective search over parameters and layer paths "
        "(HM3, arXiv 2409.18893), written by hm3rl.",
        "",
        f"Path: `{candidate.path}` (stem before the bar)",
        "",
        *_table(("depth", "member", "layers of the member"), _depths(candidate)),
    ]
    if candidate.recipes:
        merges = [
            (
                recipe.name,
                recipe.operator,
                ", ".join(f"{expert} {weight:g}" for expert, weight in recipe.weights),
                f"{recipe.density:g}",
                f"{recipe.scale:g}",
                str(recipe.seed),
            )
            for recipe in candidate.recipes
        ]
        header = ("merged member", "operator", "weights", "density", "scale", "mask seed")
        lines += ["", "Merged members (in full in `recipe.yaml`):", "", *_table(header, merges)]
    return lines


def _depths(candidate: Candidate) -> list[tuple[str, str, str]]:
    rows, depth = [], 0
    for member, first, end in candidate.path.runs():
        stop = depth + end - first
        rows.append((_span(depth, stop), member, _span(first, end)))
        depth = stop
    return rows


def _span(first: int, end: int) -> str:
    return f"{first} to {end - 1}" if end > first + 1 else str(first)


def _scores(provenance: Provenance) -> list[str]:
    known = [one for one in provenance.evaluations if one.ok]
    if not known:
        return ["Not scored."]
    rows = []
    for place, name in enumerate(provenance.objectives):
        cost = provenance.minimised.get(name)
        cells = [name if cost is None else f"{name} ↓"]
        for one in known:
            score, error = one.scores[place], one.standard_errors[place]
            if cost is not None:
                score, error = cost.cost(score), cost.worst * error
            cells.append(f"{score:.3f} ± {error:.3f}")
        rows.append(cells)
    further = [one.secondary or {} for one in known]
    named = [(t, m) for found in further for t, metrics in found.items() for m in metrics]
    for task, metric in dict.fromkeys(named):
        values = [found.get(task, {}).get(metric) for found in further]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        rows.append([f"{task}: {metric}", *shown])
    notes = ["", "± is one standard error."]
    if provenance.minimised:
        notes[1] += " ↓: less is better."
    if any(one.split == "search" for one in known):
        notes[1] += " The search saw the items of its split; expect less on others."
    return [*_table(("task", *(f"{one.split} split" for one in known)), rows), *notes]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(row) for row in rows]
    return [f"| {line} |" for line in lines]
