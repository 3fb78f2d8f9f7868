"""From the parameters of a mergekit slice to a `MergeRecipe`.

A parameter's gradient runs over the slice's own layers; tensors outside the layers take its first
anchor. Filters are substrings of tensor names: they are sorted into the recipe's blocks (attention,
MLP, rest) by looking at which names they meet. Where they cut through a block, tensors that are
treated alike have a recipe of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_file import METHODS, PASSTHROUGH, MergekitFile, Slice, SliceSource
from hm3rl.merging.profile import BLOCKS, place_of
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.traits import traits_of

BASELESS = ("linear", "karcher", "slerp")
"""Methods that treat the base as one model among the others."""

_SPARSE = [name for name, method in METHODS.items() if "density" in method.by_model]
"""Methods that remove entries of task vectors."""

Anchors = tuple[Any, ...]


@dataclass(frozen=True)
class SliceMerge:
    """An output slice with its parameters resolved.

    Attributes:
        spans: First layer and the layer after the last, by source name.
        base: Source that the task vectors start from.
        recipe: How the sources are merged; None: the one source is taken as it is.
        others: Recipes of tensors that filters single out, each with their patterns (`pattern_of`).
        scales: Factors of a passed-through source's tensors by pattern: anchors over the layers.
        notes: Where the result differs from mergekit's though both read the same file.
    """

    spans: Mapping[str, tuple[int, int]]
    base: str
    recipe: MergeRecipe | None
    others: tuple[tuple[MergeRecipe, frozenset[str]], ...] = ()
    scales: Mapping[str, Anchors] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[int, int]:
        """First layer of the base and the layer after the last."""
        return self.spans[self.base]


def pattern_of(name: str) -> str:
    """A tensor's name without the number of its layer: `model.layers.*.mlp.up_proj.weight`."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    return name if at is None else ".".join((*parts[:at], "*", *parts[at + 1 :]))


def slice_merges(
    file: MergekitFile, depths: Mapping[str, int], names: Sequence[str]
) -> list[SliceMerge]:
    """Resolve all slices of a file.

    Args:
        file: The configuration.
        depths: Number of decoder layers by source name.
        names: Names of a source's tensors; the sources share one architecture.

    Returns:
        A merge for each output slice.

    Raises:
        InputError: A range leaves its model, a parameter is missing or cannot be expressed.
    """
    return [_resolve(file, number, part, depths, names) for number, part in enumerate(file.slices)]


def _resolve(
    file: MergekitFile,
    number: int,
    part: Slice,
    depths: Mapping[str, int],
    names: Sequence[str],
) -> SliceMerge:
    method = METHODS[file.method]
    given = {s.name: s.span or (0, depths[s.name]) for s in part.sources}
    if len(given) != len(part.sources):
        raise InputError(
            f"slice {number} names one model twice", "name each model once, with the sum of weights"
        )
    for name, (_, end) in given.items():
        if end > depths[name]:
            raise InputError(
                f"layer_range {list(given[name])} of {file.sources[name]} leaves its "
                f"{depths[name]} layers",
                f"the last range is [.., {depths[name]}]: half-open, so it ends with layer "
                f"{depths[name] - 1}",
            )
    if method.operator == PASSTHROUGH:
        scales = _scales(file.settings(part, part.sources[0]), names)
        return SliceMerge(given, next(iter(given)), None, scales=scales)
    base = part.base or next(iter(given))
    if base not in given and file.method in BASELESS:
        raise InputError(
            f"{file.method}: base_model {file.sources[base]} is not among the merged models",
            "list it with the others",
        )
    spans = dict(given)
    if base not in spans:
        spans[base] = _base_span(file, part, base, depths)
    lengths = {end - first for first, end in spans.values()}
    if len(lengths) > 1:
        raise InputError(
            f"slice {number} merges models of different depth: "
            + ", ".join(f"{file.sources[n]} {list(span)}" for n, span in spans.items()),
            "write slices: with layer_range of equal length",
        )
    (first, *rest) = _alike(file, part, names)
    recipe = _recipe(file, number, part, base, first)
    others = tuple(
        (_recipe(file, number, part, base, some), frozenset(map(pattern_of, some))) for some in rest
    )
    for one in (recipe, *(other for other, _ in others)):
        if file.method in BASELESS and not one.weights:
            raise InputError(f"{file.method}: all weights are zero", "give a model some weight")
        _check_rescale(file, part, one)
    notes = dict.fromkeys(
        note for one in (recipe, *(o for o, _ in others)) for note in _notes(file.method, one)
    )
    return SliceMerge(spans, base, recipe, others, notes=tuple(notes))


def _scales(where: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Anchors]:
    """Factors by pattern, of the tensors that have one."""
    found: dict[str, Anchors] = {}
    for name in names:
        anchors = _anchors(where, "scale", name)
        if found.setdefault(pattern_of(name), anchors or (1.0,)) != (anchors or (1.0,)):
            raise _by_layer("scale", name)
    return {pattern: anchors for pattern, anchors in found.items() if set(anchors) != {1.0}}


def _by_layer(key: str, name: str) -> InputError:
    return InputError(
        f"a filter of {key} tells layers apart: {name} has another value than its like",
        "write a list of values over the layers",
    )


def _alike(file: MergekitFile, part: Slice, names: Sequence[str]) -> list[list[str]]:
    """Names of tensors that one recipe can treat: all if filters go by blocks, else by pattern.

    Returns:
        Groups of names, the largest first, so that the fewest tensors are exceptions.
    """
    method = METHODS[file.method]
    keys = (*method.by_model, *(("t",) if "t" in method.shared else ()))
    places = [file.settings(part, source) for source in (*part.sources, None)]
    if not any(_filtered(place.get(key)) for where in places for place in where for key in keys):
        return [list(names)]
    treated: dict[str, tuple[Anchors | None, ...]] = {}
    blocks: dict[str, set[tuple[Anchors | None, ...]]] = {block: set() for block in BLOCKS}
    for name in names:
        values = tuple(_anchors(where, key, name) for where in places for key in keys)
        if treated.setdefault(pattern_of(name), values) != values:
            raise _by_layer(" or ".join(keys), name)
        blocks[place_of(name, 1).block].add(values)
    if all(len(found) <= 1 for found in blocks.values()):
        return [list(names)]
    groups: dict[tuple[Anchors | None, ...], list[str]] = {}
    for name in names:
        groups.setdefault(treated[pattern_of(name)], []).append(name)
    return sorted(groups.values(), key=len, reverse=True)


def _filtered(value: Any) -> bool:
    """Whether a parameter has filters."""
    entries = value if isinstance(value, list) else [value]
    return any(isinstance(entry, Mapping) for entry in entries)


def _check_rescale(file: MergekitFile, part: Slice, recipe: MergeRecipe) -> None:
    """Refuse a `rescale` that would change what is merged.

    Raises:
        InputError: Entries are removed, and what remains would be treated otherwise than here.
    """
    if file.method not in _SPARSE:
        return
    rescaled = file.method.startswith(("dare", "della"))
    thin = bool(recipe.density_profiles) or any(recipe.density_of(e) < 1.0 for e in recipe.experts)
    if thin and bool(_constant(file.settings(part), "rescale", rescaled, ())) != rescaled:
        raise InputError(
            f"rescale: {str(not rescaled).lower()} is not supported by {file.method}",
            f"leave it out: {'kept entries are rescaled' if rescaled else 'nothing is'}",
        )


def _base_span(
    file: MergekitFile, part: Slice, base: str, depths: Mapping[str, int]
) -> tuple[int, int]:
    if part.sources[0].span is None:
        return (0, depths[base])
    raise InputError(
        f"the base {file.sources[base]} has no layer_range in a slice of {part.sources[0].name}",
        "list the base in the slice too, without weight: its layers must be named as well",
    )


def _recipe(
    file: MergekitFile, number: int, part: Slice, base: str, names: Sequence[str]
) -> MergeRecipe:
    method = METHODS[file.method]
    traits = traits_of(method.operator)
    if method.operator == "slerp":
        return _slerp(file, part, base, names)
    # What mergekit measures against the base leaves the base itself out.
    merged = [s for s in part.sources if s.name != base or file.method in BASELESS]
    weights: dict[str, Any] = {}
    densities: dict[str, Any] = {}
    for source in merged:
        where = file.settings(part, source)
        weights[source.name] = (
            _value(where, "weight", source, names) if "weight" in method.by_model else 1.0
        )
        if "density" in method.by_model:
            densities[source.name] = _value(where, "density", source, names, default=1.0)
    settings: dict[str, Any] = {"densities": densities} if densities else {}
    if traits.normalise is not None:
        settings["normalise"] = bool(
            _constant(file.settings(part), "normalize", method.normalize, names)
        )
    if "lambda" in method.shared:
        settings["scale"] = _constant(file.settings(part), "lambda", 1.0, names)
    for key in ("epsilon", "gamma"):
        if key in method.by_model:
            values = {_constant(file.settings(part, s), key, None, names) for s in merged}
            if len(values) > 1:
                raise InputError(
                    f"{key} differs between models: {sorted(map(str, values))}", "give one value"
                )
            settings[key] = next(iter(values), None)
    # Masks are drawn by tensor name, and names begin anew in each slice.
    return MergeRecipe.of(method.operator, weights, **settings, seed=number)


def _slerp(file: MergekitFile, part: Slice, base: str, names: Sequence[str]) -> MergeRecipe:
    others = [s for s in part.sources if s.name != base]
    if len(part.sources) != 2 or len(others) != 1:
        raise InputError(
            f"slerp merges the base and one other model, here {len(part.sources)} models",
            "list two models, one of them the base_model",
        )
    found = _value(file.settings(part), "t", others[0], names)
    by_block = found if isinstance(found, dict) else dict.fromkeys(BLOCKS, found)
    towards = {block: list(_tuple(anchors)) for block, anchors in by_block.items()}
    for anchor in (a for anchors in towards.values() for a in anchors):
        if not 0 <= anchor <= 1:
            raise InputError(f"t = {anchor} is outside [0, 1]", "0 is the base, 1 the other model")
    away = {b: [1 - a for a in anchors] for b, anchors in towards.items()}
    everywhere = {a for anchors in towards.values() for a in anchors}
    if everywhere in ({0.0}, {1.0}):
        whole = base if everywhere == {0.0} else others[0].name
        return MergeRecipe.of("linear", {whole: 1.0})
    return MergeRecipe.of("slerp", {base: _plain(away), others[0].name: _plain(towards)})


def _notes(method: str, recipe: MergeRecipe) -> tuple[str, ...]:
    thin = [recipe.density_of(expert) for expert in recipe.experts]
    if not traits_of(recipe.operator).random or all(d == 1.0 for d in thin):
        return ()
    return (
        f"{method}: masks are drawn by (seed, tensor, model) and kept entries are divided by their "
        "probability; mergekit draws others and restores each tensor's L1 norm, so the two agree "
        "in expectation, not in value",
    )


def _tuple(value: Any) -> Anchors:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _plain(blocks: Mapping[str, Sequence[float]]) -> Any:
    """Shorten anchors by block to what `MergeRecipe.of` reads, a number where all are equal."""
    shown = {b: list(a) for b, a in blocks.items()}
    every = [value for anchors in shown.values() for value in anchors]
    if len(set(every)) == 1:
        return every[0]
    return shown["rest"] if len({tuple(a) for a in shown.values()}) == 1 else shown


_MISSING = object()


def _value(
    where: Sequence[Mapping[str, Any]],
    key: str,
    source: SliceSource,
    names: Sequence[str],
    default: Any = _MISSING,
) -> Any:
    """Look a parameter up and sort it into blocks.

    Returns:
        A number, a list of anchors, or a mapping of blocks to lists of anchors.

    Raises:
        InputError: It is missing, no number, or its filters cut through a block.
    """
    met: dict[str, dict[Anchors, str]] = {block: {} for block in BLOCKS}
    for name in names:
        anchors = _anchors(where, key, name)
        if anchors is None:
            if default is _MISSING:
                raise InputError(
                    f"{source.name} has no {key} for {name}",
                    f"give {key} for the model or for all, and end a list of filters with one "
                    "value without filter",
                )
            anchors = (default,)
        met[place_of(name, 1).block].setdefault(anchors, name)
    for block, found in met.items():
        if len(found) > 1:
            (first, one), (second, other) = list(found.items())[:2]
            raise InputError(
                f"the filters of {key} give {one} and {other}, both of the block {block!r}, "
                f"different values ({_shown(first)} and {_shown(second)})",
                "write a list of values over the layers",
            )
    # Of a block without a tensor any value is right: another recipe has its tensors, if there are.
    usual = next(iter(next((found for found in met.values() if found), {(0.0,): ""})))
    return _plain({b: next(iter(found), usual) for b, found in met.items()})


def _shown(anchors: Anchors) -> str:
    return str(anchors[0] if len(anchors) == 1 else list(anchors))


def _constant(
    where: Sequence[Mapping[str, Any]], key: str, default: Any, names: Sequence[str]
) -> Any:
    """Look up a parameter that must be one value.

    Raises:
        InputError: It varies over depth or by filter.
    """
    for settings in where:
        if key in settings:
            value = settings[key]
            if isinstance(value, list | Mapping):
                raise InputError(
                    f"{key}: {value} varies, which is not supported for this parameter",
                    "give one value",
                )
            return value if isinstance(value, bool) else _number(key, value)
    return default


def _anchors(where: Sequence[Mapping[str, Any]], key: str, name: str) -> Anchors | None:
    """Return the anchors of a parameter for a tensor, None if nothing applies to it."""
    for settings in where:
        if key in settings:
            found = _applying(key, settings[key], name)
            if found is not None:
                return found
    return None


def _applying(key: str, value: Any, name: str) -> Anchors | None:
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return (_number(key, value),)
    if not any(isinstance(entry, Mapping) for entry in value):
        if not value:
            raise InputError(f"{key}: the list is empty", "give one or more numbers")
        return tuple(_number(key, entry) for entry in value)
    for entry in value:
        if (
            not isinstance(entry, Mapping)
            or set(entry) - {"filter", "value"}
            or "value" not in entry
        ):
            raise InputError(
                f"{key}: cannot read {entry!r}", "an entry has a value and possibly a filter"
            )
        pattern = entry.get("filter")
        if pattern is None or pattern == "*" or str(pattern) in name:
            return _applying(key, entry["value"], name)
    return None


def _number(key: str, value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{key}: {value!r} is no number", "give a number or a list of numbers")
    return number
