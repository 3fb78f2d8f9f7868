"""One vocabulary for all sources: rows of embeddings and heads, arranged by token string.

A tokenizer's tokens, `config.vocab_size` and the rows of an embedding are three numbers. Sources
that give every token the same id may still have different numbers of spare rows; sources with
other ids are refused, or mapped on request. Nothing is cut without a note.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hm3rl.config.schema import PoolSettings
from hm3rl.config.values import choices
from hm3rl.errors import InputError
from hm3rl.models.compatibility import check_tokenizer_rows
from hm3rl.models.loading import quiet_transformers

VOCABULARIES = choices(PoolSettings, "vocabulary")
"""What to do with sources whose tokens have other ids than the donor's."""

FROM_DONOR = -1
"""In a row map: the source has no row for this token, so the donor's is taken."""


@dataclass(frozen=True)
class Vocabulary:
    """How all sources of a pool come to one vocabulary.

    Attributes:
        tokenizer: The donor's tokenizer.
        donor: Name of the source it came from: the one asked for, else the base, else (if the base
            has no tokenizer) the first expert that has one.
        row_maps: By name of a source that must change: for each of the donor's rows the source's
            row, or `FROM_DONOR`.
        untied: Tied sources that get a head of their own because another source has one.
        notes: What changes, in words.
    """

    tokenizer: PreTrainedTokenizerBase
    donor: str
    row_maps: Mapping[str, tuple[int, ...]]
    untied: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """Sources whose tensors `unify` changes."""
        return tuple(dict.fromkeys((*self.untied, *self.row_maps)))

    def content_hash(self, name: str, originals: Mapping[str, str]) -> str:
        """Hash of a source after `unify`: the original's unless its tensors change.

        Args:
            name: A source.
            originals: Content hash of each source's folder.

        Returns:
            64 hexadecimal digits.
        """
        rows = self.row_maps.get(name)
        changed = (name in self.untied, rows)
        if changed == (False, None):
            return originals[name]
        # Rows of the donor's are the donor's weights, whatever it is called.
        lent = originals[self.donor] if rows is not None and FROM_DONOR in rows else ""
        return hashlib.sha256(f"{originals[name]}\0{lent}\0{changed}".encode()).hexdigest()

    @torch.no_grad()
    def unify(self, models: Mapping[str, PreTrainedModel]) -> None:
        """Rearrange rows and untie heads, in place; only for models nobody else has seen.

        Args:
            models: Loaded model by source name.
        """
        for name in self.untied:
            _untie(models[name])
        donor = models[self.donor]
        for name, rows in self.row_maps.items():
            _rearrange(models[name], donor, torch.tensor(rows, device=donor.device))


def plan_vocabulary(
    paths: Mapping[str, Path],
    labels: Mapping[str, str],
    configs: Mapping[str, PretrainedConfig],
    policy: str = "refuse",
    donor: str = "",
) -> Vocabulary:
    """Read all tokenizers and decide; no weights are read.

    Args:
        paths: Folder by source name, base first.
        labels: How messages name each source.
        configs: Configuration by source name.
        policy: "refuse" or "map", one of `VOCABULARIES`.
        donor: Source whose tokenizer all shall share; empty: the first that has one.

    Returns:
        The plan.

    Raises:
        InputError: No tokenizer, one that cannot be read, or vocabularies that differ under
            "refuse"; names a token and both numbers.
    """
    if policy not in VOCABULARIES:
        raise InputError(f"unknown pool.vocabulary {policy!r}", f"one of {', '.join(VOCABULARIES)}")
    owners = [n for n, p in paths.items() if any(p.glob("tokenizer*")) or any(p.glob("vocab*"))]
    if donor and donor not in owners:
        raise InputError(
            f"{donor!r}, which shall lend its tokenizer, is no source that has one",
            f"sources with one: {', '.join(owners) or 'none'}",
        )
    if not owners:
        raise InputError(
            f"no source has a tokenizer (looked for tokenizer.json in {next(iter(paths.values()))} "
            "and others)",
            "save it beside the base: tokenizer.save_pretrained(FOLDER)",
        )
    donor = donor or owners[0]
    tokenizer = _load_tokenizer(paths[donor], labels[donor])
    check_tokenizer_rows(len(tokenizer), configs[donor].vocab_size, paths[donor])
    row_maps: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    for name in paths:
        theirs = tokenizer.get_vocab()
        if name in owners and name != donor and not _same_file(paths[donor], paths[name]):
            other = _load_tokenizer(paths[name], labels[name])
            check_tokenizer_rows(len(other), configs[name].vocab_size, paths[name])
            theirs = other.get_vocab()
        rows, note = _row_map(
            tokenizer.get_vocab(),
            theirs,
            (configs[donor].vocab_size, configs[name].vocab_size),
            (labels[donor], labels[name]),
            policy,
        )
        if rows is not None:
            row_maps[name] = rows
            notes.append(note)
    tied = [name for name in paths if configs[name].tie_word_embeddings]
    untied = tuple(tied) if 0 < len(tied) < len(paths) else ()
    if untied:
        notes.append(
            f"{', '.join(labels[name] for name in untied)}: the tied head is written out, because "
            "other sources have heads of their own"
        )
    return Vocabulary(tokenizer, donor, row_maps, untied, tuple(notes))


def _row_map(
    ours: Mapping[str, int],
    theirs: Mapping[str, int],
    rows: tuple[int, int],
    labels: tuple[str, str],
    policy: str,
) -> tuple[tuple[int, ...] | None, str]:
    """Map one source's rows onto the donor's; None where they are the donor's already.

    Args:
        ours: The donor's ids by token.
        theirs: The source's.
        rows: Embedding rows of the donor and of the source.
        labels: Their names.
        policy: See `plan_vocabulary`.
    """
    (wanted, given), (donor, label) = rows, labels
    differing = [
        token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)
    ]
    if not differing and wanted == given:
        return None, ""
    if not differing:
        if given <= max(ours.values()):
            raise InputError(
                f"{label} has {given} embedding rows, too few for the {len(ours)} tokens of "
                f"{donor}, which has {wanted} rows",
                "save the tokenizer that belongs to it in its folder, or resize its embedding",
            )
        kept = tuple(row if row < given else FROM_DONOR for row in range(wanted))
        change = (
            f"its last {given - wanted} spare rows are left out"
            if given > wanted
            else f"the last {wanted - given} spare rows of {donor} are added"
        )
        return kept, (
            f"{label} has {given} embedding rows, {donor} {wanted}, for the same {len(ours)} "
            f"tokens: {change}"
        )
    if policy == "refuse":
        token = min(differing)
        raise InputError(
            f"{label} and {donor} give token {token!r} different ids: "
            f"{theirs.get(token)} against {ours.get(token)} "
            f"({len(theirs)} against {len(ours)} tokens, {given} against {wanted} rows)",
            "use sources of one vocabulary, or arrange rows by token: pool.vocabulary=map, or "
            "--vocabulary map for a single merge",
        )
    mapped = [FROM_DONOR] * wanted
    for token, row in ours.items():
        mapped[row] = theirs.get(token, FROM_DONOR)
    found = sum(token in theirs for token in ours)
    return tuple(mapped), (
        f"{label}: rows arranged by token for {donor}'s vocabulary: {found} of {len(ours)} tokens "
        f"have rows of its own, {len(ours) - found} take {donor}'s, and "
        f"{len(theirs.keys() - ours.keys())} of its tokens are left out"
    )


def _same_file(one: Path, other: Path) -> bool:
    mine, its = one / "tokenizer.json", other / "tokenizer.json"
    return mine.is_file() and its.is_file() and mine.read_bytes() == its.read_bytes()


def _load_tokenizer(folder: Path, label: str) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise InputError(
            f"{label}: the tokenizer in {folder} cannot be read ({type(error).__name__}: {error})",
            "save it again with tokenizer.save_pretrained(FOLDER)",
        ) from error


def _untie(model: PreTrainedModel) -> None:
    """Give a tied head a parameter of its own; it still shares the embedding's memory."""
    head: Any = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.data, requires_grad=False)
    model.config.tie_word_embeddings = False


def _rearrange(model: PreTrainedModel, donor: PreTrainedModel, rows: torch.Tensor) -> None:
    own = (rows != FROM_DONOR)[:, None]
    pairs: list[tuple[Any, Any]] = [(model.get_input_embeddings(), donor.get_input_embeddings())]
    if not model.config.tie_word_embeddings:
        pairs.append((model.get_output_embeddings(), donor.get_output_embeddings()))
    for module, theirs in pairs:
        taken = module.weight[rows.clamp(min=0)]
        weight = torch.where(own, taken, theirs.weight.to(taken.dtype))
        module.weight = nn.Parameter(weight, requires_grad=False)
    embedding: Any = model.get_input_embeddings()
    embedding.num_embeddings = len(rows)
    head: Any = model.get_output_embeddings()
    if model.config.tie_word_embeddings:
        head.weight = embedding.weight
    head.out_features = len(rows)
    model.config.vocab_size = len(rows)
