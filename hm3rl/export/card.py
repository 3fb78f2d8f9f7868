"""The model card of an exported candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hm3rl.export.reload import ReloadCheck
from hm3rl.models.pool import ModelPool
from hm3rl.models.zoo import ZOO_PREFIX
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.mergekit_yaml import public_name

if TYPE_CHECKING:
    from hm3rl.evaluation.result import Evaluation

PACKAGES = ("hm3rl", "torch", "transformers", "safetensors")


def used_sources(candidate: Candidate, pool: ModelPool) -> tuple[str, ...]:
    """List the sources whose weights are in a candidate, in the pool's order."""
    used = set(candidate.members)
    for recipe in candidate.recipes:
        used.update((pool.base_name, *recipe.experts))
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


def licence(folders: Sequence[Path]) -> str | None:
    """Return the licence that all sources' model cards declare, None if they do not all agree."""
    declared = set()
    for folder in folders:
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
        plain = yaml.safe_load(front) if front.strip() else None
        declared.add(plain.get("license") if isinstance(plain, dict) else None)
    return str(declared.pop()) if len(declared) == 1 and None not in declared else None


def display_name(pool: ModelPool, name: str) -> str:
    """Name a source in a card: the zoo's or hub's name, else the folder's last part."""
    origin = pool.origins[name]
    if origin.startswith(ZOO_PREFIX):
        return f"hm3rl-zoo-{origin.removeprefix(ZOO_PREFIX)}"
    public = public_name(pool, name)
    return public if public != str(pool.paths[name]) else pool.paths[name].name


def model_card(
    title: str,
    candidate: Candidate,
    pool: ModelPool,
    check: ReloadCheck,
    *,
    evaluation: Evaluation | None,
    objectives: Sequence[str],
    seed: int | None,
    command: str | None,
    mergekit: str,
) -> str:
    """Write the card.

    Args:
        title: Heading, the folder's name.
        candidate: The exported candidate.
        pool: Its sources.
        check: The result of the reload check.
        evaluation: Its scores, if known.
        objectives: Names of the scores, in their order.
        seed: Seed of the search that found it.
        command: Command that found or exported it.
        mergekit: One sentence about mergekit_config.yml.

    Returns:
        Markdown with front matter.
    """
    sources = used_sources(candidate, pool)
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": [display_name(pool, name) for name in sources],
        "base_model_relation": "merge",
        "tags": ["merge", "hm3rl"],
    }
    shared = licence([pool.paths[name] for name in sources])
    if shared is not None:
        front["license"] = shared
    rows = [
        (f"{first} to {end - 1}" if end > first + 1 else str(first), member)
        for member, first, end in candidate.path.runs()
    ]
    depth = 0
    table = []
    for (layers, member), (_, first, end) in zip(rows, candidate.path.runs(), strict=True):
        stop = depth + end - first
        table.append((f"{depth} to {stop - 1}" if end > first + 1 else str(depth), member, layers))
        depth = stop
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {title}",
        "",
        "A merged model found by multi-objective search over parameters and layer paths "
        "(HM3, arXiv 2409.18893), written by hm3rl.",
        "",
        f"Path: `{candidate.path}` (stem before the bar)",
        "",
        *_table(("depth", "member", "layers of the member"), table),
        "",
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
        lines += ["Merged members:", "", *_table(header, merges), ""]
    lines += ["## Scores", "", *_scores(evaluation, objectives), ""]
    lines += ["## Provenance", ""]
    facts: Mapping[str, str] = {
        "sources": "; ".join(f"{n} {pool.hashes[n][:16]}" for n in sources) + " (content hashes)",
        "tokenizer, special tokens, generation config, chat template": pool.tokenizer_donor,
        "precision": str(pool.dtype).removeprefix("torch."),
        "search seed": "not given" if seed is None else str(seed),
        "command": f"`{command}`" if command else "not given",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "licence": shared or "not declared alike by all sources; theirs apply",
        "mergekit": mergekit,
    }
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [
        "",
        "## Reload check",
        "",
        f"Loaded with plain transformers: logits of {check.prompt_tokens}-token prompts within "
        f"{check.logit_error:.1e} of the candidate in memory (relative to the largest logit, "
        f"{check.tolerance:.0e} allowed); {check.generated_tokens} greedy tokens agree with and "
        "without cache.",
        "",
        "## Limitations",
        "",
        "Scores hold for the tasks, items and decoding limits of the search. A merge inherits what "
        "its sources were trained on, and nothing else was tested.",
        "",
    ]
    return "\n".join(lines)


def _scores(evaluation: Evaluation | None, objectives: Sequence[str]) -> list[str]:
    if evaluation is None:
        return ["Not scored."]
    rows = [
        (name, f"{score:.3f}", f"{error:.3f}")
        for name, score, error in zip(
            objectives, evaluation.scores, evaluation.standard_errors, strict=True
        )
    ]
    header = ("task", f"score ({evaluation.split} split)", "standard error")
    note = (
        "\nThe search saw these items; expect less on others."
        if evaluation.split == "search"
        else ""
    )
    return [*_table(header, rows), *note.splitlines()]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(row) for row in rows]
    return [f"| {line} |" for line in lines]
