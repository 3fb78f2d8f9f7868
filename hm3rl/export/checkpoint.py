"""Writing a candidate as a plain Hugging Face checkpoint, then proving that it is one.

Everything is written into a hidden folder beside the target and renamed when it is complete and
checked, so a folder of the target's name is always a whole model.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.evaluation.costs import Minimised
from hm3rl.evaluation.result import Evaluation
from hm3rl.export.card import (
    Provenance,
    candidate_contents,
    model_card,
    used_sources,
    versions,
)
from hm3rl.export.fold import FoldCheck, fold_checked
from hm3rl.export.partial import partial_folder, remove_leavings
from hm3rl.export.record import write_record
from hm3rl.export.reload import ReloadCheck, check_reload
from hm3rl.export.streamed import WholeMerge
from hm3rl.export.weights import (
    DEFAULT_SHARD_BYTES,
    copy_tokenizer,
    stored_tensors,
    write_weights,
)
from hm3rl.interop.mergekit_yaml import to_mergekit
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import deep_shallow_copy, named_tensors
from hm3rl.models.zoo import NAMED
from hm3rl.paths.alignment_kind import NO_ALIGNMENT
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.expressible import check_expressible
from hm3rl.paths.members import MemberSet

Card = Callable[[str, ReloadCheck, Sequence[Evaluation]], str]
Rescore = Callable[[Path], Sequence[Evaluation]]

MERGEKIT_FILE = "mergekit_config.yml"

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: The checkpoint folder.
        key: Content key of the candidate.
        weight_bytes: Bytes of all tensors.
        check: The reload check, which passed.
        mergekit: Whether mergekit_config.yml was written, or why not.
        seconds: Time for everything.
        evaluations: The scores in the card, one a split.
    """

    folder: Path
    key: str
    weight_bytes: int
    check: ReloadCheck
    mergekit: str
    seconds: float
    evaluations: tuple[Evaluation, ...] = ()

    def __str__(self) -> str:
        """Return one line for a terminal."""
        return (
            f"{self.folder}: {self.weight_bytes / 2**20:.1f} MiB, reloaded with logits within "
            f"{self.check.logit_error:.0e}, {self.check.generated_tokens} greedy tokens equal with "
            f"and without cache ({self.seconds:.1f} s)"
        )


def export_candidate(
    candidate: Candidate,
    members: MemberSet,
    to: Path,
    *,
    evaluations: Sequence[Evaluation] = (),
    objectives: Sequence[str] = (),
    minimised: Mapping[str, Minimised] = MappingProxyType({}),
    seed: int | None = None,
    command: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    dtype: torch.dtype | None = None,
    rescore: Rescore | None = None,
    merge: WholeMerge | None = None,
) -> ExportReport:
    """Write a candidate and check it by reloading.

    Args:
        candidate: What to write.
        members: The sources and merged members it is made of.
        to: Folder to write; must not exist.
        evaluations: Scores for the model card, one a split.
        objectives: Names of the scores, in their order.
        minimised: How scores of those to be minimised read as costs.
        seed: Seed of the search, for the card.
        command: Command that led here, for the card.
        shard_bytes: Largest file of weights.
        dtype: Precision to write; None: the pool's. With another one than the pool's the scores of
            `evaluations` are not this model's: `rescore` replaces them, or the card says none. The
            same holds for a candidate whose alignment is folded into the weights.
        rescore: Scores the written folder, once it has passed its check.
        merge: The candidate as a merge that is written without being made in memory first, in the
            pool's precision.

    Returns:
        What was written.

    Raises:
        InputError: The folder exists, the disk is full, or no plain checkpoint can express the
            candidate. Nothing is left behind.
        IntegrityError: The written folder does not behave as the candidate does. It is kept, under
            the hidden name the message gives.
    """
    pool = members.pool
    check_expressible(candidate, members)
    model = assemble(candidate, members) if merge is None else merge.base
    fold: FoldCheck | None = None
    if candidate.alignment != NO_ALIGNMENT:
        model, fold = fold_checked(model)
        evaluations = ()
    if dtype is not None and dtype != pool.dtype:
        model = in_precision(model, dtype)
        evaluations = ()
    mergekit, documents = _mergekit_document(candidate, pool, model.dtype)
    key = candidate.key(pool.hashes)
    used = used_sources(candidate, pool)
    # Whoever lends the tokenizer is needed to make the model again, but has no weights in it.
    named = [name for name in pool.names if name in used or name == pool.tokenizer_donor]
    matched = [name for name in used if name in pool.matched]
    recipe: dict[str, Any] = {
        "key": key,
        **candidate.to_dict(),
        "sources": {
            name: {"origin": _origin(pool, name), "hash": pool.hashes[name]} for name in named
        },
        **({"matched": matched} if matched else {}),
        "fold": None if fold is None else asdict(fold),
        "donor": pool.tokenizer_donor,
        "dtype": dtype_name(model.dtype),
        "merged_in": dtype_name(pool.dtype),
        "mergekit": mergekit,
        "command": command,
        "versions": versions(),
    }
    documents["recipe.yaml"] = yaml.safe_dump(recipe, sort_keys=False)

    notes = (*pool.notes, *(() if fold is None else (str(fold),)))

    def card(title: str, check: ReloadCheck, scores: Sequence[Evaluation]) -> str:
        return model_card(
            title,
            used,
            pool,
            candidate_contents(candidate),
            check,
            mergekit,
            Provenance(scores, objectives, minimised, seed, command, notes),
        )

    return write_checkpoint(
        model,
        pool,
        to,
        key=key,
        documents=documents,
        card=card,
        mergekit=mergekit,
        evaluations=evaluations,
        rescore=rescore,
        shard_bytes=shard_bytes,
        merge=merge,
    )


def write_checkpoint(
    model: PreTrainedModel,
    pool: ModelPool,
    to: Path,
    *,
    key: str,
    documents: Mapping[str, str],
    card: Card,
    mergekit: str,
    evaluations: Sequence[Evaluation] = (),
    rescore: Rescore | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    merge: WholeMerge | None = None,
) -> ExportReport:
    """Write any model made of a pool's weights as a plain checkpoint and check it by reloading.

    Args:
        model: The model in memory; of a `merge`, one of the same form.
        pool: Its sources, one of which lends the tokenizer.
        to: Folder to write; must not exist.
        key: What identifies the model, for the report.
        documents: Further files: text by file name.
        card: Writes README.md from the folder's name, the passed check and the scores.
        mergekit: One sentence about mergekit_config.yml, for the report.
        evaluations: Scores for the card, one a split.
        rescore: Scores the written folder, once it has passed its check; replaces `evaluations`.
        shard_bytes: Largest file of weights.
        merge: Where the weights come from, if the model is not in memory.

    Returns:
        What was written.

    Raises:
        InputError: The folder exists or the disk is full. Nothing is left behind.
        IntegrityError: The written folder does not behave as the model does. It is kept, under
            the hidden name the message gives.
    """
    start = time.perf_counter()
    target = to.expanduser().absolute()
    _check_target(target, model)
    with partial_folder(target) as partial:
        if merge is None:
            size = write_weights(model, partial, shard_bytes)
        else:
            size, model = merge.write(partial, shard_bytes)
        _write_config(model, pool, partial)
        for name, text in documents.items():
            (partial / name).write_text(text, encoding="utf-8")
        check = check_reload(partial, model)
        if rescore is not None:
            evaluations = rescore(partial)
        (partial / "README.md").write_text(card(target.name, check, evaluations), encoding="utf-8")
        for file in partial.glob("*.safetensors"):
            # safetensors writes for the owner alone; the weights are as readable as the rest.
            shutil.copymode(partial / "README.md", file)
        write_record(partial, check)
    seconds = time.perf_counter() - start
    return ExportReport(target, key, size, check, mergekit, seconds, tuple(evaluations))


@torch.no_grad()
def in_precision(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Copy a model in another precision; `model` and the weights it shares stay as they are."""
    tensors = named_tensors(model).values()
    cast = {id(t): t.to(dtype) for t in tensors if t.is_floating_point()}
    return deep_shallow_copy(model, cast)


def _check_target(target: Path, model: PreTrainedModel) -> None:
    if target.exists():
        raise InputError(f"{target} exists already", "export to another folder, or remove this one")
    remove_leavings(target)
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write to {parent}", "export to a folder you may write to")
    needed = sum(tensor.nbytes for tensor in stored_tensors(model).values())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise InputError(
            f"the model needs {needed / 2**30:.2f} GiB, {parent} has {free / 2**30:.2f} GiB free",
            "free some space or export to another disk",
        )


def _write_config(model: PreTrainedModel, pool: ModelPool, folder: Path) -> None:
    """Write configuration, generation configuration and tokenizer, the latter from one donor."""
    donor = pool.model(pool.tokenizer_donor)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    for name in SPECIAL_TOKENS:
        if hasattr(config, name):
            setattr(config, name, getattr(donor.config, name, None))
    config.save_pretrained(folder)
    if donor.generation_config is not None:
        donor.generation_config.save_pretrained(folder)
    copy_tokenizer(pool.paths[pool.tokenizer_donor], folder)


def _origin(pool: ModelPool, name: str) -> str:
    """Name a source so that it is found from any working directory."""
    given = pool.origins[name]
    named = given.startswith(NAMED) and name not in pool.adapters  # a key says where those lie
    return given if named else str(pool.paths[name])


def dtype_name(dtype: torch.dtype) -> str:
    """Name a precision as configurations do, e.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def _mergekit_document(
    candidate: Candidate, pool: ModelPool, written: torch.dtype
) -> tuple[str, dict[str, str]]:
    """Convert to mergekit's language: one sentence, and the file where there is one."""
    try:
        plain = to_mergekit(candidate, pool)
    except InputError as error:
        return error.what, {}
    if written != pool.dtype:
        plain["out_dtype"] = dtype_name(written)
    text = yaml.safe_dump(plain, sort_keys=False)
    return f"{MERGEKIT_FILE} expresses the same model", {MERGEKIT_FILE: text}
