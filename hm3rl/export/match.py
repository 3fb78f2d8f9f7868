"""`hm3rl match`: a model in the order of another's units, as a checked checkpoint folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel

from hm3rl.errors import InputError, IntegrityError
from hm3rl.evaluation.result import Evaluation
from hm3rl.export.card import Provenance, display_name, model_card, versions
from hm3rl.export.checkpoint import ExportReport, dtype_name, write_checkpoint
from hm3rl.export.reload import HALF_TOLERANCE, TOLERANCES, ReloadCheck, probe_tokens
from hm3rl.export.sources import find_source, stored_dtype
from hm3rl.export.weights import DEFAULT_SHARD_BYTES
from hm3rl.matching.units import Matching, check_configs, check_matchable, match_units
from hm3rl.models.compatibility import adopt_positions
from hm3rl.models.hashing import short_hash
from hm3rl.models.loading import find_weights, is_adapter, load_config
from hm3rl.models.names import BASE
from hm3rl.models.pool import ModelPool
from hm3rl.models.source import read_sources
from hm3rl.models.zoo import resolve_source
from hm3rl.paths.statistics import Calibration

MODEL = "model"
"""Name of the matched model in the pool; the other is the base."""

MERGEKIT = "mergekit has no word for units in another order"

MATCH_FILE = "match.yaml"


@dataclass(frozen=True)
class MatchReport:
    """What was written.

    Attributes:
        export: The checkpoint.
        matching: Orders and similarities.
        logit_error: max |matched - original| / max |original| on the probe's tokens.
        notes: What was changed to bring both to one vocabulary, in words.
    """

    export: ExportReport
    matching: Matching
    logit_error: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return lines for a terminal."""
        return f"{_found(self.matching)}\n{_same(self.logit_error)}\n{self.export}"


def _found(matching: Matching) -> str:
    if matching.is_identity:
        return (
            "no other order of its units is better than the one they are in: mean similarity "
            f"{matching.similarity:.3f}"
        )
    return (
        f"mean similarity of units {matching.similarity:.3f}, as they were {matching.before:.3f} "
        f"({matching.sweeps} sweeps)"
    )


def _same(error: float) -> str:
    return f"logits within {error:.0e} of the original's, relative to the largest"


def write_matched(
    reference: str | Path,
    model: str | Path,
    to: Path,
    gamma: float,
    calibrate: Callable[[ModelPool], Calibration],
    *,
    vocabulary: str = "refuse",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    command: str | None = None,
) -> MatchReport:
    """Match a model's units to another's and write it, in the precision it is stored in.

    Args:
        reference: The model that is matched to: a folder, a name such as `zoo:NAME`, or a
            repository in the hub's local cache.
        model: The model that is matched.
        to: Folder to write; must not exist.
        gamma: Share of the weights' similarity, in [0, 1].
        calibrate: Makes what activations are compared on; not called if gamma is 1.
        vocabulary: "refuse", or "map" the reference's rows by token.
        shard_bytes: Largest file of weights.
        command: Command, for the card.

    Returns:
        What was written.

    Raises:
        InputError: The models cannot be matched, or the folder cannot be written.
        IntegrityError: The matched model, or what was written, does not behave as the original.
    """
    if to.expanduser().exists():
        raise InputError(f"{to} exists already", "match to another folder, or remove this one")
    origins = {BASE: find_source(str(reference)), MODEL: find_source(str(model))}
    pool, labels = _load(origins, {BASE: str(reference), MODEL: str(model)}, vocabulary)
    ours, theirs = pool.model(BASE), pool.model(MODEL)
    pair = (labels[BASE], labels[MODEL])
    check_matchable(ours, theirs, pair)
    calibration = calibrate(pool) if gamma < 1 else None
    matching = match_units(ours, theirs, gamma, calibration, labels=pair)
    matched = matching.apply(theirs)
    error = _check_same(theirs, matched, labels[MODEL])
    tokens = 0 if calibration is None else int(calibration.attention_mask.sum())
    settings = {
        "gamma": gamma,
        "calibration": None if calibration is None else calibration.key,
        "tokens": tokens,
    }
    described = {
        "key": short_hash({"orders": matching.key, "source": pool.hashes[MODEL]}),
        "units": {
            **settings,
            "orders": matching.key,
            "similarity": matching.similarity,
            "similarity_before": matching.before,
            "sweeps": matching.sweeps,
            "logit_error": error,
        },
        "sources": {
            "matched_to": {"origin": str(reference), "hash": pool.hashes[BASE]},
            "model": {"origin": str(model), "hash": pool.hashes[MODEL]},
        },
        "dtype": dtype_name(pool.dtype),
        "command": command,
        "versions": versions(),
    }
    names = {name: display_name(pool, name) for name in (BASE, MODEL)}
    weighed = f"γ = {gamma:g}: {gamma:.0%} similarity of weights, {1 - gamma:.0%} of activations"
    contents = [
        f"{names[MODEL]} with its units in the order that matches those of {names[BASE]}, written "
        "by hm3rl: the same function, fit to be merged with it (unit matching after MuDSC, arXiv "
        "2403.01753).",
        "",
        f"- matched to: {names[BASE]}, {pool.hashes[BASE][:16]} (content hash)",
        f"- {weighed}" + (f", on {tokens} tokens" if tokens else ""),
        f"- {_found(matching)}",
        f"- {_same(error)}",
    ]

    def card(title: str, check: ReloadCheck, scores: Sequence[Evaluation]) -> str:
        provenance = Provenance(command=command, notes=pool.notes)
        return model_card(
            title, (MODEL,), pool, contents, check, MERGEKIT, provenance, merged=False
        )

    report = write_checkpoint(
        matched,
        pool,
        to,
        key=str(described["key"]),
        documents={MATCH_FILE: yaml.safe_dump(described, sort_keys=False)},
        card=card,
        mergekit=MERGEKIT,
        shard_bytes=shard_bytes,
    )
    return MatchReport(report, matching, error, pool.notes)


def _load(
    origins: dict[str, str], labels: dict[str, str], vocabulary: str
) -> tuple[ModelPool, dict[str, str]]:
    """Load both models, the cheap checks first; the matched one lends the tokenizer."""
    if labels[BASE] == labels[MODEL]:
        labels = {BASE: f"{labels[BASE]} (A)", MODEL: f"{labels[MODEL]} (B)"}
    paths = {name: resolve_source(origin) for name, origin in origins.items()}
    for name, path in paths.items():
        find_weights(labels[name], path)
        if is_adapter(path):
            raise InputError(
                f"{labels[name]} is an adapter: its units are those of the model it belongs to",
                "give whole models; an adapter is merged with its own base only",
            )
    configs = [load_config(labels[name], path) for name, path in paths.items()]
    adopt_positions(configs[0], configs[1], labels[MODEL], labels[BASE])  # as read_sources does
    check_configs(configs[0], configs[1], (labels[BASE], labels[MODEL]))
    read = read_sources(
        paths, labels, base=BASE, vocabulary=vocabulary, tokenizer=_lender(paths), writable=True
    )
    return ModelPool.of_sources(read, origins, stored_dtype(paths[MODEL])), labels


def _lender(paths: dict[str, Path]) -> str:
    """The matched model if it has a tokenizer; empty: whoever has one."""
    files = (file for pattern in ("tokenizer*", "vocab*") for file in paths[MODEL].glob(pattern))
    return MODEL if next(files, None) is not None else ""


@torch.no_grad()
def _check_same(original: PreTrainedModel, matched: PreTrainedModel, label: str) -> float:
    """Require that the matched model computes what the original does."""
    tokens = probe_tokens(original.config).to(original.device)
    wanted, found = original(tokens).logits.float(), matched(tokens).logits.float()
    error = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)).item()
    tolerance = TOLERANCES.get(original.dtype, HALF_TOLERANCE)
    if not error <= tolerance:
        raise IntegrityError(
            f"{label} in another order of its units does not compute what it did: logits differ by "
            f"{error:.1e} of the largest, {tolerance:.0e} allowed"
        )
    return error
