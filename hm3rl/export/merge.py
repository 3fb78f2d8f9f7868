"""`hm3rl merge`: from a recipe file, ours or mergekit's, to a checked checkpoint folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer

from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.export.card import Provenance, model_card, versions
from hm3rl.export.checkpoint import (
    MERGEKIT_FILE,
    ExportReport,
    dtype_name,
    export_candidate,
    in_precision,
    write_checkpoint,
)
from hm3rl.export.reload import ReloadCheck
from hm3rl.export.sources import find_source, stored_dtype, widest
from hm3rl.export.streamed import WholeMerge
from hm3rl.export.weights import DEFAULT_SHARD_BYTES
from hm3rl.interop.mergekit_build import BuiltMerge, build_mergekit
from hm3rl.interop.mergekit_documents import in_order, with_folders
from hm3rl.interop.mergekit_file import AUTO, MergekitFile, is_mergekit, read_mergekit
from hm3rl.interop.mergekit_recipe import SliceMerge
from hm3rl.merging.merge import merged_model
from hm3rl.models.hashing import short_hash
from hm3rl.models.loading import is_adapter
from hm3rl.models.names import BASE
from hm3rl.models.pool import ModelPool, check_names, source_labels
from hm3rl.models.source import Sources, read_sources
from hm3rl.models.zoo import resolve_source
from hm3rl.paths.alignment_kind import NO_ALIGNMENT, read_scales
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet

RECIPE_HINT = (
    "give the recipe.yaml of an exported model (path, recipes, sources), or a mergekit file "
    "(merge_method, models or slices)"
)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe file that was read.

    Attributes:
        plain: Its content.
        sources: What `ModelPool.load` takes, by source name; "base" comes first.
        candidate: What it describes, if it is one of ours.
        mergekit: What it describes, if it is mergekit's.
        hashes: Content hashes the sources must have, by name.
        documents: All documents of the file, if this is the last of several merges.
        results: Name of the document by the folder of its result, of the others.
    """

    plain: Mapping[str, Any]
    sources: Mapping[str, str]
    candidate: Candidate | None
    mergekit: MergekitFile | None
    hashes: Mapping[str, str]
    documents: tuple[Mapping[str, Any], ...] = ()
    results: Mapping[str, str] = field(default_factory=dict)

    @property
    def experts(self) -> dict[str, str]:
        """The sources beside the base; a pool needs one, if only the base once more."""
        others = {name: source for name, source in self.sources.items() if name != BASE}
        return others or {"itself": self.sources[BASE]}

    @property
    def folders(self) -> dict[str, Path]:
        """Folder of each source, by name."""
        return {name: resolve_source(source) for name, source in self.sources.items()}

    @property
    def donor(self) -> str:
        """Name of the source that lends the tokenizer; empty: the first that has one."""
        named = self.mergekit.donor if self.mergekit else self.plain.get("donor")
        return str(named or "")

    def precisions(self) -> tuple[torch.dtype, torch.dtype]:
        """Return the precision to merge in and the one to write.

        The file's `dtype` is what is written, else what the sources are stored in. A mergekit file
        is merged in the widest of all, so that nothing is rounded twice; ours in what it names as
        `merged_in`, the search's precision, else in what is written.
        """
        stored = {
            stored_dtype(folder) for folder in self.folders.values() if not is_adapter(folder)
        }
        named = self.mergekit.dtype if self.mergekit else self.plain.get("dtype")
        written = widest(stored) if named is None else _DTYPES[str(named)]
        if self.mergekit:
            return widest({*stored, written}), written
        merged = self.plain.get("merged_in")
        return written if merged is None else _DTYPES[str(merged)], written


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_recipe(file: Path) -> RecipeFile:
    """Read a recipe file and find its sources; no weights are loaded.

    Args:
        file: A mergekit configuration, or the recipe.yaml of an exported model.

    Returns:
        The recipe.

    Raises:
        InputError: The file is no recipe, or a source does not exist.
    """
    documents, _ = _documents(file)
    if len(documents) > 1:
        raise InputError(
            f"{file} has several documents, merges that take each other's results",
            "hm3rl merge FILE DIR makes them; check each in a file of its own",
        )
    plain: Any = documents[0] if documents else None
    hashes: dict[str, str] = {}
    if isinstance(plain, Mapping) and isinstance(plain.get("merge"), Mapping):
        # The recipe.yaml of a model that was made from a mergekit file.
        _, hashes = _listed(file, plain.get("sources"))
        plain = plain["merge"]
    if is_mergekit(plain):
        read = read_mergekit(plain)
        sources = {name: _mergekit_source(text, read) for name, text in read.sources.items()}
        return RecipeFile(plain, sources, None, read, hashes)
    if not isinstance(plain, Mapping) or "path" not in plain:
        raise InputError(f"{file} is no recipe", RECIPE_HINT)
    candidate = Candidate.from_dict(plain)
    if candidate.alignment != NO_ALIGNMENT and not read_scales(candidate.alignment):
        raise InputError(
            f"{file}: the path is aligned ({candidate.alignment}), which is fitted on items of the "
            "search that found it",
            "export it from its run: hm3rl export RUN MODEL --to DIR",
        )
    if plain.get("matched"):
        raise InputError(
            f"{file}: the units of {plain['matched'][0]} were matched to the base's, by what "
            "they do on items of the search that found it",
            "export it from its run (hm3rl export RUN MODEL --to DIR), or search with experts that "
            "hm3rl match wrote",
        )
    origins, hashes = _our_sources(file, plain, candidate)
    sources = {name: find_source(text) for name, text in origins.items()}
    for key in ("dtype", "merged_in"):
        if plain.get(key) is not None and plain[key] not in _DTYPES:
            raise InputError(f"{file}: {key} {plain[key]!r}", f"one of {', '.join(_DTYPES)}")
    return RecipeFile(plain, sources, candidate, None, hashes)


def _documents(file: Path) -> tuple[list[Any], dict[str, str]]:
    """Documents of a file, and the content hashes that it gives of the last one's sources.

    Raises:
        InputError: It cannot be read.
    """
    try:
        found = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}", RECIPE_HINT) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no YAML: {str(error).splitlines()[0]}", RECIPE_HINT) from None
    found = [document for document in found if document is not None]
    plain = found[0] if len(found) == 1 else None
    if isinstance(plain, Mapping) and isinstance(plain.get("merge"), list):
        # The recipe.yaml of a model that was made from several.
        return list(plain["merge"]), _listed(file, plain.get("sources"))[1]
    return found, {}


def _mergekit_source(reference: str, file: MergekitFile) -> str:
    """Find a source; mergekit writes a LoRA adapter as MODEL+ADAPTER, here over the base only.

    Raises:
        InputError: There is no such source, or the adapter belongs to another model than the base.
    """
    model, plus, adapter = reference.partition("+")
    if not plus or resolve_source(reference).is_dir():
        return find_source(reference)
    if model != file.sources[BASE]:
        raise InputError(
            f"{reference} is an adapter over {model}, the base is {file.sources[BASE]}",
            "adapters are merged over the base only; save the others merged, as whole models",
        )
    return find_source(adapter)


def _our_sources(
    file: Path, plain: Mapping[str, Any], candidate: Candidate
) -> tuple[dict[str, str], dict[str, str]]:
    origins, hashes = _listed(file, plain.get("sources"))
    missing = sorted(candidate.sources - origins.keys())
    if missing:
        raise InputError(
            f"{file}: the source {missing[0]} is used but not among the sources",
            f"write {missing[0]}: FOLDER below sources:",
        )
    # A path through experts alone needs no base; any source stands in for it then.
    base = origins.get(BASE, next(iter(origins.values())))
    return {BASE: base, **origins}, hashes


def _listed(file: Path, given: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Read a recipe's list of sources: what each is, and the content hashes that are given."""
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{file} names no sources", "write sources: with name: folder lines")
    origins: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for name, entry in given.items():
        entry = {"origin": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or not isinstance(entry.get("origin"), str):
            raise InputError(
                f"{file}: cannot read the source {name}: {entry!r}", f"write {name}: FOLDER"
            )
        origins[str(name)] = entry["origin"]
        if entry.get("hash") is not None:
            hashes[str(name)] = str(entry["hash"])
    return origins, hashes


def check_sources(recipe: RecipeFile, vocabulary: str = "refuse") -> Sources:
    """Check a recipe's sources without loading their weights, as `load_sources` does first.

    Args:
        recipe: The recipe.
        vocabulary: What to do with sources of different vocabularies, see `ModelPool.load`.

    Raises:
        InputError: They do not fit together, or a model of theirs cannot be written.
    """
    check_names(recipe.experts)
    experts = {name: resolve_source(source) for name, source in recipe.experts.items()}
    read = read_sources(
        {BASE: recipe.folders[BASE], **experts},
        source_labels(experts),
        base=BASE,
        # Which layers fit each other is checked slice by slice, or along the path.
        mixed=True,
        vocabulary=vocabulary,
        tokenizer=recipe.donor,
        writable=True,
    )
    if recipe.mergekit and recipe.mergekit.tokenizer == "union" and read.plan.row_maps:
        raise InputError(
            "the models' vocabularies differ, and a union of unequal ones is not supported",
            "use tokenizer_source: base, or name the model whose tokenizer to take",
        )
    return read


def load_sources(recipe: RecipeFile, vocabulary: str = "refuse") -> ModelPool:
    """Load a recipe's sources in the precision it is merged in.

    Args:
        recipe: The recipe.
        vocabulary: What to do with sources of different vocabularies, see `ModelPool.load`.

    Raises:
        InputError: They do not fit together, cannot be written, or are not those the recipe was
            made of.
    """
    read = check_sources(recipe, vocabulary)
    origins = {BASE: recipe.sources[BASE], **recipe.experts}
    pool = ModelPool.of_sources(read, origins, recipe.precisions()[0])
    for name, expected in recipe.hashes.items():
        if pool.hashes[name] != expected:
            raise InputError(
                f"the source {name} in {pool.paths[name]} is not the one this recipe was made of: "
                f"content hash {pool.hashes[name][:16]} against {expected[:16]}",
                "restore that model, or delete the hash from the recipe to merge this one",
            )
    return pool


def merge_file(
    file: Path,
    to: Path,
    *,
    dtype: torch.dtype | None = None,
    vocabulary: str = "refuse",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    command: str | None = None,
) -> tuple[ExportReport, tuple[str, ...]]:
    """Make the model that a recipe file describes and write it as a plain checkpoint.

    Args:
        file: See `read_recipe`.
        to: Folder to write; must not exist.
        dtype: Precision to write; None: the file's, else the one the sources are stored in.
        vocabulary: What to do with sources of different vocabularies: "refuse", or "map" rows by
            token.
        shard_bytes: Largest file of weights.
        command: Command, for the card.

    Returns:
        What was written, and notes on what was ignored or differs from mergekit.

    Raises:
        InputError: Anything about the file, its sources or the folder is wrong.
        IntegrityError: The written folder does not behave as the model does.
    """
    if to.expanduser().exists():
        raise InputError(f"{to} exists already", "merge to another folder, or remove this one")
    documents, hashes = _documents(file)
    if len(documents) > 1:
        for number, document in enumerate(documents):
            if not is_mergekit(document):
                raise InputError(f"{file}: document {number} is no mergekit file", RECIPE_HINT)
        return _merge_documents(documents, hashes, to, dtype, vocabulary, shard_bytes, command)
    return _merge(read_recipe(file), to, dtype, vocabulary, shard_bytes, command)


def _merge_documents(
    documents: Sequence[Mapping[str, Any]],
    hashes: Mapping[str, str],
    to: Path,
    dtype: torch.dtype | None,
    vocabulary: str,
    shard_bytes: int,
    command: str | None,
) -> tuple[ExportReport, tuple[str, ...]]:
    """Make several merges, the last of which takes the others' results; those are then removed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    *before, last = in_order(documents)
    with TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as room:
        folders: dict[str, str] = {}
        for number, document in enumerate(before):
            file = Path(room) / f"{number}.yml"
            file.write_text(yaml.safe_dump(with_folders(document, folders)), encoding="utf-8")
            name = str(document["name"])
            _, said = merge_file(file, Path(room) / name, vocabulary=vocabulary)
            notes += [f"{name}: {note}" for note in said]
            folders[name] = str(Path(room) / name)
        file = Path(room) / "last.yml"
        file.write_text(yaml.safe_dump(with_folders(last, folders)), encoding="utf-8")
        recipe = replace(
            read_recipe(file),
            hashes=hashes,
            documents=tuple(documents),
            results={folder: name for name, folder in folders.items()},
        )
        report, said = _merge(recipe, to, dtype, vocabulary, shard_bytes, command)
    return report, (*notes, *said)


def _merge(
    recipe: RecipeFile,
    to: Path,
    dtype: torch.dtype | None,
    vocabulary: str,
    shard_bytes: int,
    command: str | None,
) -> tuple[ExportReport, tuple[str, ...]]:
    """Make the model of one recipe; see `merge_file`."""
    pool = load_sources(recipe, vocabulary)
    written = dtype or recipe.precisions()[1]
    if recipe.candidate is not None:
        members = MemberSet(pool)
        return export_candidate(
            recipe.candidate,
            members,
            to,
            command=command,
            shard_bytes=shard_bytes,
            dtype=written,
            merge=_whole_merge(recipe.candidate, members) if written == pool.dtype else None,
        ), pool.notes
    assert recipe.mergekit is not None
    built = build_mergekit(recipe.mergekit, pool, merge_single=written != pool.dtype)
    return _write_mergekit(recipe, built, pool, to, dtype, shard_bytes, command)


def _whole_merge(candidate: Candidate, members: MemberSet) -> WholeMerge | None:
    """The candidate as a merge that need not be made in memory; None if it is more than that."""
    pool = members.pool
    if len(candidate.recipes) != 1:
        return None
    (recipe,) = candidate.recipes
    if candidate != Candidate.whole(recipe, pool.num_layers):
        return None
    members.admit(candidate)
    merge = WholeMerge(members.task_vectors, recipe, pool.model(pool.base_name))
    return merge if merge.possible else None


def usual_template(recipe: RecipeFile) -> str | None:
    """The chat template that most of the sources have, the first of equals; None if none has one.

    An adapter counts with its model's.
    """
    found: list[str] = []
    for folder in recipe.folders.values():
        whole = recipe.folders[BASE] if is_adapter(folder) else folder
        try:
            given = AutoTokenizer.from_pretrained(whole, local_files_only=True).chat_template
        except (OSError, ValueError):  # no tokenizer in there
            continue
        given = given.get("default") if isinstance(given, dict) else given
        if given:
            found.append(given.strip())
    return Counter(found).most_common(1)[0][0] if found else None


def _filtered(part: SliceMerge) -> dict[str, Any]:
    """What filters of a slice single out, for the record."""
    found: dict[str, Any] = {}
    if part.others:
        found["others"] = [
            {"tensors": sorted(patterns), "recipe": recipe.to_dict()}
            for recipe, patterns in part.others
        ]
    if part.scales:
        found["scales"] = {pattern: list(anchors) for pattern, anchors in part.scales.items()}
    return found


def _write_mergekit(
    recipe: RecipeFile,
    built: BuiltMerge,
    pool: ModelPool,
    to: Path,
    dtype: torch.dtype | None,
    shard_bytes: int,
    command: str | None,
) -> tuple[ExportReport, tuple[str, ...]]:
    read = recipe.mergekit
    assert read is not None
    model, written = built.model, dtype or recipe.precisions()[1]
    merge: WholeMerge | None = None
    if built.task_vectors is not None and built.slices[0].recipe is not None:
        merge = WholeMerge(built.task_vectors, built.slices[0].recipe, model)
        if not merge.possible:
            model, merge = merged_model(merge.task_vectors, merge.recipe), None
    if written != pool.dtype:
        model = in_precision(model, written)
    notes = (*read.notes, *built.notes, *pool.notes)
    names = tuple(read.sources)
    hashes = {name: pool.hashes[name] for name in names}
    made_from: Any = [dict(one) for one in recipe.documents] or dict(recipe.plain)
    key = short_hash({"merge": made_from, "sources": hashes})
    mergekit = f"{MERGEKIT_FILE} is the file this model was made from"
    described = {
        "key": key,
        "merge": made_from,
        "slices": [
            {
                "layers": {name: list(span) for name, span in part.spans.items()},
                "recipe": None if part.recipe is None else part.recipe.to_dict(),
                **_filtered(part),
            }
            for part in built.slices
        ],
        "sources": {
            name: {
                "origin": recipe.results.get(read.sources[name], read.sources[name]),
                "hash": pool.hashes[name],
            }
            for name in names
        },
        "donor": pool.tokenizer_donor,
        "dtype": dtype_name(written),
        "command": command,
        "versions": versions(),
    }
    config = yaml.safe_dump_all(
        recipe.documents or [dict(recipe.plain)], sort_keys=False, explicit_start=False
    )
    documents = {
        MERGEKIT_FILE: config,
        "recipe.yaml": yaml.safe_dump(described, sort_keys=False),
    }
    template = read.chat_template
    if template == AUTO:
        template = usual_template(recipe)
        if template is None:
            notes = (*notes, "chat_template: auto finds none, since no model has one")
    if template is not None:
        documents["chat_template.jinja"] = template
    contents = [
        f"A `{read.method}` merge of {len(names)} models, written by hm3rl from a mergekit "
        "configuration.",
        "",
        "```yaml",
        config.rstrip(),
        "```",
    ]

    def card(title: str, check: ReloadCheck, scores: Sequence[Evaluation]) -> str:
        provenance = Provenance(command=command, notes=notes)
        return model_card(title, names, pool, contents, check, mergekit, provenance)

    report = write_checkpoint(
        model,
        pool,
        to,
        key=key,
        documents=documents,
        card=card,
        mergekit=mergekit,
        shard_bytes=shard_bytes,
        merge=merge,
    )
    return report, notes
