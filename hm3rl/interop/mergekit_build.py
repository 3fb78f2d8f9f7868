"""Building the model that a mergekit configuration describes, in memory.

Every output slice is a merge of its own among *cut* sources: views of the layers that the slice
names, without copied weights, so that layer ranges may differ between models and gradients run over
the slice. The merged slices are then stacked as members of a path. As in mergekit the embedding
comes from the first slice, the final norm and an untied head from the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_file import MergekitFile
from hm3rl.interop.mergekit_recipe import SliceMerge, pattern_of, slice_merges
from hm3rl.merging.merge import merge_tensors, merged_model
from hm3rl.merging.profile import Profile, place_of
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.compatibility import describe, differences
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import deep_shallow_copy, named_tensors
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import STEM_HEAD, Candidate
from hm3rl.paths.expressible import check_expressible
from hm3rl.paths.families import decoder, family_of, path_config
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.members import MemberSet


@dataclass(frozen=True)
class BuiltMerge:
    """A model made from a configuration.

    Attributes:
        model: The model; it may share weights with the pool's sources. Of what remains to be
            merged, the base.
        slices: What was done for each output slice.
        notes: Where the model differs from mergekit's, each said once.
        task_vectors: Of the sources of the one slice, if it remains to be merged.
    """

    model: PreTrainedModel
    slices: tuple[SliceMerge, ...]
    notes: tuple[str, ...]
    task_vectors: TaskVectors | None = None


def build_mergekit(file: MergekitFile, pool: ModelPool, merge_single: bool = True) -> BuiltMerge:
    """Build a model.

    Args:
        file: The configuration.
        pool: Its sources, under the names that `file.sources` gives them.
        merge_single: Whether to merge where there is but one slice, too.

    Returns:
        The model and what it is made of.

    Raises:
        InputError: A range or a parameter does not fit these sources, or no plain checkpoint can
            have the layers in this order.
    """
    members = MemberSet(pool)
    depths = {name: members.num_layers(name) for name in file.sources}
    slices = slice_merges(file, depths, list(named_tensors(pool.model(pool.base_name))))
    # A merge changes weights only: the layers are those of each slice's base.
    layers = [LayerRef(part.base, n) for part in slices for n in range(*part.layers)]
    check_expressible(Candidate(LayerPath(tuple(layers), slices[0].base)), members)
    notes = dict.fromkeys(note for part in slices for note in part.notes)
    check_slices(slices, {name: members.config(name) for name in file.sources})
    rows, words = int(pool.config.vocab_size), len(pool.tokenizer)
    if file.tokenizer is not None and rows > words:
        notes[f"the embedding keeps its {rows} rows; mergekit cuts it to the {words} tokens"] = None
    single = slices[0]
    whole = len(slices) == 1 and single.recipe is not None and not single.others
    if whole and single.recipe is not None and not merge_single:
        base, vectors = _to_merge(single, single.recipe, members, notes)
        return BuiltMerge(base, tuple(slices), tuple(notes), vectors)
    parts = [_merge(part, members, notes) for part in slices]
    model = parts[0] if len(parts) == 1 else _stack(parts, pool)
    return BuiltMerge(model, tuple(slices), tuple(notes))


def check_slices(slices: Sequence[SliceMerge], configs: Mapping[str, PretrainedConfig]) -> None:
    """Require that the layers which are merged with each other are of one shape and kind.

    Args:
        slices: Slices whose ranges exist.
        configs: Configuration of each source.

    Raises:
        InputError: Names the first setting in which two differ, with both values.
    """
    for part in slices:
        if part.recipe is None:
            continue
        cut = {
            name: path_config(configs[name], [(configs[name], n) for n in range(*span)])
            for name, span in part.spans.items()
        }
        for name, config in cut.items():
            found = differences(cut[part.base], config)
            if found:
                raise InputError(
                    describe(found, f"the layers {list(part.spans[name])} of {name}", part.base)
                    + ", so they cannot be merged",
                    "choose models and layer ranges of one shape and kind, or stack them: "
                    "passthrough",
                )


def _merge(part: SliceMerge, members: MemberSet, notes: dict[str, None]) -> PreTrainedModel:
    """Merge the sources of one slice into a model as deep as the slice; adds to the notes."""
    if part.recipe is None:
        return _scaled(_cut(members, part.base, part.layers), part)
    base, vectors = _to_merge(part, part.recipe, members, notes)
    if not part.others:
        return merged_model(vectors, part.recipe)
    recipes = {pattern: recipe for recipe, patterns in part.others for pattern in patterns}
    by_recipe: dict[MergeRecipe, list[str]] = {}
    for name in vectors.names:
        by_recipe.setdefault(recipes.get(pattern_of(name), part.recipe), []).append(name)
    state: dict[int, torch.Tensor] = {}
    for recipe, names in by_recipe.items():
        for name in names:
            recipe.check_sum(recipe.weights_at(vectors.place(name)), f"at {name} the")
        for name, tensor in merge_tensors(vectors, recipe, names).items():
            state[id(vectors.base(name))] = tensor
    return deep_shallow_copy(base, state)


@torch.no_grad()
def _scaled(model: PreTrainedModel, part: SliceMerge) -> PreTrainedModel:
    """The layers of a slice with the factors of its tensors; nothing of the source is changed."""
    depth = part.layers[1] - part.layers[0]
    state = {}
    for name, tensor in named_tensors(model).items():
        anchors = part.scales.get(pattern_of(name))
        if anchors is not None:
            factor = Profile(anchors, anchors, anchors).at(place_of(name, depth))
            state[id(tensor)] = tensor * factor
    return deep_shallow_copy(model, state) if state else model


def _to_merge(
    part: SliceMerge, recipe: MergeRecipe, members: MemberSet, notes: dict[str, None]
) -> tuple[PreTrainedModel, TaskVectors]:
    """The base of a slice and the task vectors to merge into it; adds to the notes."""
    cut = {name: _cut(members, name, span) for name, span in part.spans.items()}
    base = cut[part.base]
    experts = {name: None for one in (recipe, *(o for o, _ in part.others)) for name in one.experts}
    models = [cut[name] for name in experts]
    notes.update(dict.fromkeys(_zero_notes(recipe.operator, models)))
    pool = _with_models(members.pool, {members.pool.base_name: base, **cut}, tuple(experts))
    # Every tensor is merged once: nothing is worth keeping.
    return base, TaskVectors(pool, limit_bytes=0)


_OF_ZEROS = {
    "slerp": "are interpolated linearly; mergekit takes zeros as orthogonal to all and keeps more",
    "karcher": "take the others' mean in full; mergekit shortens it by the weight of the zeros",
}


def _zero_notes(operator: str, models: list[PreTrainedModel]) -> list[str]:
    """A tensor of zeros has no direction, and tools differ in what they make of it."""
    if operator not in _OF_ZEROS:
        return []
    tensors = [named_tensors(model) for model in models]
    zeros = [name for name in tensors[0] if not all(bool(each[name].any()) for each in tensors)]
    if not zeros:
        return []
    more = f" and {len(zeros) - 1} more" if len(zeros) > 1 else ""
    return [f"{operator}: {zeros[0]}{more}, zero in one of the models, {_OF_ZEROS[operator]}"]


def _cut(members: MemberSet, name: str, span: tuple[int, int]) -> PreTrainedModel:
    if span == (0, members.num_layers(name)):
        return members.model(name)
    path = LayerPath(tuple(LayerRef(name, layer) for layer in range(*span)), name)
    return assemble(Candidate(path), members)


def _stack(parts: list[PreTrainedModel], pool: ModelPool) -> PreTrainedModel:
    """Stack the slices' models; embedding of the first, final norm and untied head of the last."""
    named = {f"slice-{number}": model for number, model in enumerate(parts)}
    first, last = parts[0], parts[-1]
    members = MemberSet(_with_models(pool, {pool.base_name: first, **named}, tuple(named)))
    refs = [
        LayerRef(name, layer)
        for name, model in named.items()
        for layer in range(model.config.num_hidden_layers)
    ]
    head = STEM_HEAD if first.config.tie_word_embeddings else f"slice-{len(parts) - 1}"
    model = assemble(Candidate(LayerPath(tuple(refs), "slice-0"), head=head), members)
    norm = family_of(model.config).norm
    # The assembled decoder is a fresh module object, so nothing of the sources is changed.
    decoder(model)._modules[norm] = getattr(decoder(last), norm)
    return model


def _with_models(
    pool: ModelPool, models: Mapping[str, PreTrainedModel], experts: tuple[str, ...]
) -> ModelPool:
    return replace(pool, expert_names=experts, _models=MappingProxyType(dict(models)))
