"""Reading mergekit configurations: what they say, checked before any model is loaded.

A file is a list of output slices; each stacks a range of layers of one model (passthrough) or of
the merge of several. `models:` is one slice of everything. Parameters are numbers, gradients (lists
of anchors over the slice's depth) or lists of `filter`/`value` pairs, and are looked up at the
source, then at the slice, then at the file. What this package would do differently is refused by
name, or noted where only the randomness differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_names import Names, reference_text

PASSTHROUGH = "passthrough"


class Method(NamedTuple):
    """What a mergekit method is called here and which parameters it takes.

    Attributes:
        operator: Our operator, "passthrough" for none.
        normalize: mergekit's default of `normalize`; None: the method has no such parameter.
        base: Whether it needs `base_model`.
        by_model: Parameters that each model may have.
        shared: Parameters of the whole merge.
    """

    operator: str
    normalize: bool | None
    base: bool
    by_model: tuple[str, ...]
    shared: tuple[str, ...]


_TASK = ("normalize", "lambda", "int8_mask", "rescale")

METHODS: dict[str, Method] = {
    "passthrough": Method(PASSTHROUGH, None, False, ("scale",), ()),
    "linear": Method("linear", True, False, ("weight",), ("normalize",)),
    "slerp": Method("slerp", None, True, (), ("t",)),
    "multislerp": Method("multi_slerp", None, True, ("weight",), ("normalize_weights",)),
    "task_arithmetic": Method("task_arithmetic", False, True, ("weight",), _TASK),
    "ties": Method("ties", True, True, ("weight", "density"), _TASK),
    "dare_linear": Method("dare_linear", False, True, ("weight", "density"), _TASK),
    "dare_ties": Method("dare_ties", False, True, ("weight", "density"), _TASK),
    "della": Method("della", True, True, ("weight", "density", "epsilon"), _TASK),
    "della_linear": Method("della_linear", False, True, ("weight", "density", "epsilon"), _TASK),
    "breadcrumbs": Method("breadcrumbs", False, True, ("weight", "density", "gamma"), _TASK),
    "breadcrumbs_ties": Method(
        "breadcrumbs_ties", False, True, ("weight", "density", "gamma"), _TASK
    ),
    "karcher": Method("karcher", None, False, (), ()),
    "model_stock": Method("model_stock", None, True, (), ("filter_wise",)),
}
"""Methods of mergekit that this package has, by mergekit's name."""

_PARAMETERS = {key for method in METHODS.values() for key in (*method.by_model, *method.shared)}

_KEYS = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "modules",
    "name",
)
_MODULE = "default"
"""mergekit's name of the one module that a language model has."""
AUTO = "auto"
"""The chat template that most of the models have."""
_HALF_OPEN = "a range is half-open: [0, 4] means layers 0, 1, 2 and 3, as in mergekit"


@dataclass(frozen=True)
class SliceSource:
    """One model's part in an output slice.

    Attributes:
        name: Name of the source, a key of `MergekitFile.sources`.
        span: First layer and the layer after the last; None: all layers.
        parameters: Its own parameters.
    """

    name: str
    span: tuple[int, int] | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """An output slice.

    Attributes:
        sources: What is merged, or the one source that is passed through.
        base: Name of the base model of this slice, if any.
        parameters: Parameters of the slice.
    """

    sources: tuple[SliceSource, ...]
    base: str | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class MergekitFile:
    """A configuration that was read and whose keys are all understood.

    Attributes:
        method: Name of the method, a key of `METHODS`.
        sources: Reference (a folder, a hub id) as written, by source name; the first is "base".
        slices: Output slices in order.
        parameters: Parameters of the file.
        module: Parameters of its one module, which go before these.
        dtype: Precision to write, None for the sources'.
        donor: Name of the source that lends tokenizer and special tokens; None: the first that
            has a tokenizer.
        tokenizer: What it says of the tokenizer's source: "base", "union" (of equal ones), a model;
            None: nothing.
        chat_template: Template that replaces the donor's, or `AUTO`.
        notes: What is ignored or differs from mergekit, one sentence each.
    """

    method: str
    sources: Mapping[str, str]
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Any]
    module: Mapping[str, Any]
    dtype: str | None
    donor: str | None
    tokenizer: str | None
    chat_template: str | None
    notes: tuple[str, ...]

    def settings(self, part: Slice, source: SliceSource | None = None) -> list[Mapping[str, Any]]:
        """List the mappings in which a parameter is looked up, the strongest first."""
        own = [] if source is None else [source.parameters]
        return [*own, part.parameters, self.module, self.parameters]


def is_mergekit(plain: Any) -> bool:
    """Whether a YAML file's content is a mergekit configuration."""
    return isinstance(plain, Mapping) and "merge_method" in plain


def read_mergekit(plain: Mapping[str, Any]) -> MergekitFile:
    """Read a configuration.

    Args:
        plain: Content of the YAML file.

    Returns:
        The configuration, with a name for every source.

    Raises:
        InputError: A key, method, parameter, range or reference cannot be used; it is named, with
            those that can.
    """
    unread = [note for key in plain if key not in _KEYS for note in [_unread("key", key, _KEYS)]]
    method = str(plain.get("merge_method"))
    if method not in METHODS:
        raise InputError(
            f"merge_method {method!r} is not supported", f"methods: {', '.join(METHODS)}"
        )
    plain, module = _without_modules(plain)
    if ("models" in plain) == ("slices" in plain):
        raise InputError("give either models: or slices:", "a file has exactly one of the two")
    names = Names()
    base_reference = plain.get("base_model")
    base = None if base_reference is None else names.of(base_reference)
    if base is None and (model := _model_of_first_adapter(plain)) is not None:
        names.of(model)  # it is the model that the adapters are merged over, and so the base
    if METHODS[method].base and base is None and not _every_slice_has_a_base(plain):
        raise InputError(f"{method} needs base_model:", "name the model the others started from")
    if "models" in plain:
        entries = _mappings("models", plain["models"])
        whole = Slice(tuple(_source(e, names, ranged=False) for e in entries), base, {})
        slices: tuple[Slice, ...] = (whole,)
    else:
        slices = tuple(_slice(e, names, base) for e in _mappings("slices", plain["slices"]))
        bases = {part.base for part in slices}
        if len(bases) > 1:
            raise InputError(
                f"slices have different base_model: {', '.join(sorted(map(str, bases)))}",
                "give one base_model for the whole file",
            )
    parameters = _mapping("parameters", plain.get("parameters"))
    source, _ = _tokenizer_source(plain)
    found = MergekitFile(
        method=method,
        sources=names.references,
        slices=slices,
        parameters=parameters,
        module=module,
        dtype=_dtype(plain),
        donor=_donor(plain, names, base),
        tokenizer=None if source is None else reference_text(source),
        chat_template=_chat_template(plain.get("chat_template")),
        notes=(),
    )
    notes = tuple(dict.fromkeys([*unread, *_check_parameters(found)]))
    return MergekitFile(**{**found.__dict__, "notes": notes})


def _without_modules(plain: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A file whose slices or models stand at the top, and the parameters of its module."""
    if "modules" not in plain:
        return plain, {}
    modules = _mapping("modules", plain["modules"])
    if set(modules) != {_MODULE} or {"models", "slices"} & set(plain):
        raise InputError(
            f"modules: {', '.join(map(str, modules)) or 'none'}"
            + (", beside models: or slices:" if {"models", "slices"} & set(plain) else ""),
            f"a language model has one, {_MODULE}, with slices: or models: in it",
        )
    inner = _mapping(f"modules: {_MODULE}", modules[_MODULE])
    _known(f"key of modules: {_MODULE}", inner, ("slices", "models", "parameters"))
    found = {key: inner[key] for key in ("slices", "models") if inner.get(key) is not None}
    rest = {key: value for key, value in plain.items() if key != "modules"}
    return {**rest, **found}, _mapping("parameters", inner.get("parameters"))


def _model_of_first_adapter(plain: Mapping[str, Any]) -> str | None:
    """The model below the first source, if that is an adapter: MODEL+ADAPTER."""
    entries = plain.get("models") or [
        source
        for part in plain.get("slices") or ()
        if isinstance(part, Mapping)
        for source in part.get("sources") or ()
    ]
    first = entries[0] if isinstance(entries, list) and entries else None
    if not isinstance(first, Mapping) or first.get("model") is None:
        return None
    written = reference_text(first["model"])
    model, plus, _ = written.partition("+")
    return model if plus and not Path(written).is_dir() else None


def _unread(what: str, key: object, known: Sequence[str]) -> str:
    """A note on a name that mergekit reads neither.

    Raises:
        InputError: It is so near to one that is read that it is likely a slip.
    """
    near = get_close_matches(str(key), known, n=1, cutoff=0.8)
    if near:
        raise InputError(f"{what} {key!r} is read by nobody", f"did you mean {near[0]}?")
    return f"the {what} {key} is ignored, as in mergekit"


def _known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise InputError(
                f"{what} {key!r} is not supported", f"supported: {', '.join(known) or 'none'}"
            )


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {value!r} is no mapping", "write name: value lines below it")
    return value


def _mappings(where: str, value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: is no list, or empty", "write one or more entries with a dash")
    return [_mapping(where, entry) for entry in value]


def _every_slice_has_a_base(plain: Mapping[str, Any]) -> bool:
    slices = plain.get("slices")
    return isinstance(slices, list) and all(
        isinstance(entry, Mapping) and entry.get("base_model") for entry in slices
    )


def _slice(entry: Mapping[str, Any], names: Names, base: str | None) -> Slice:
    _known("key of a slice", entry, ("sources", "base_model", "parameters"))
    own = entry.get("base_model")
    base = base if own is None else names.of(own)
    sources = tuple(
        _source(e, names, ranged=True) for e in _mappings("sources", entry.get("sources"))
    )
    lengths = {end - first for first, end in (s.span for s in sources if s.span)}
    if len(lengths) > 1:
        spans = ", ".join(f"{s.name} {list(s.span or ())}" for s in sources)
        raise InputError(f"the sources of a slice have different lengths: {spans}", _HALF_OPEN)
    return Slice(sources, base, _mapping("parameters", entry.get("parameters")))


def _source(entry: Mapping[str, Any], names: Names, ranged: bool) -> SliceSource:
    known = ("model", "layer_range", "parameters") if ranged else ("model", "parameters")
    _known("key of a model", entry, known)
    name = names.of(entry.get("model"))
    span = None
    if ranged:
        given = entry.get("layer_range")
        if (
            not isinstance(given, list)
            or len(given) != 2
            or not all(isinstance(v, int) and not isinstance(v, bool) for v in given)
        ):
            raise InputError(f"layer_range {given!r} of {name} is no pair of layers", _HALF_OPEN)
        span = (given[0], given[1])
        if not 0 <= span[0] < span[1]:
            raise InputError(f"layer_range {given} of {name} is empty or negative", _HALF_OPEN)
    return SliceSource(name, span, _mapping("parameters", entry.get("parameters")))


def _dtype(plain: Mapping[str, Any]) -> str | None:
    value = plain.get("out_dtype") or plain.get("dtype")
    if value is None:
        return None
    known = ("float32", "bfloat16", "float16")
    name = str(value).removeprefix("torch.")
    if name not in known:
        raise InputError(f"dtype {value!r} is not supported", f"supported: {', '.join(known)}")
    return name


def _tokenizer_source(plain: Mapping[str, Any]) -> tuple[Any, str]:
    """Where the tokenizer comes from, and under which key that stands."""
    if "tokenizer" not in plain:
        return plain.get("tokenizer_source"), "tokenizer_source"
    tokenizer = _mapping("tokenizer", plain["tokenizer"])
    _known("key of tokenizer:", tokenizer, ("source",))
    return tokenizer.get("source"), "tokenizer: source"


def _donor(plain: Mapping[str, Any], names: Names, base: str | None) -> str | None:
    source, key = _tokenizer_source(plain)
    if source in (None, "base", "union"):  # equal ones, which is checked: the base's is the union
        return base
    if (written := reference_text(source)) not in names.references.values():
        raise InputError(
            f"{key}: {written!r} is none of the merged models",
            f"use base, or one of {', '.join(names.references.values())}",
        )
    return names.of(written)


def _chat_template(value: Any) -> str | None:
    if value is None or value == AUTO:
        return value
    if not isinstance(value, str) or "{" not in value:
        raise InputError(
            f"chat_template: {value!r} is not a template",
            f"write the Jinja text itself or {AUTO}; without the key the tokenizer donor's is kept",
        )
    return value


def _check_parameters(file: MergekitFile) -> Iterator[str]:
    """Check every name of a parameter, and yield notes on what is ignored or differs.

    Raises:
        InputError: Names the parameter and those the method takes.
    """
    method = METHODS[file.method]
    known = (*method.by_model, *method.shared)
    mappings = [file.parameters, file.module]
    for part in file.slices:
        if method.operator == PASSTHROUGH and len(part.sources) != 1:
            raise InputError(
                f"passthrough stacks one model in each slice, here {len(part.sources)}",
                "write slices: with one source each, or choose a merge method",
            )
        mappings += [part.parameters, *(source.parameters for source in part.sources)]
    for given in mappings:
        read = {key: value for key, value in given.items() if key in known}
        for key in given:
            if key not in known:
                near = () if key in _PARAMETERS else known
                yield _unread(f"parameter of {file.method}", key, near)
        if read.get("int8_mask"):
            yield "int8_mask is ignored: it saves memory in mergekit and changes no result"
        if read.get("filter_wise"):
            raise InputError("filter_wise: true is not supported", "leave it out: one per tensor")
        if read.get("normalize_weights") is False:
            raise InputError("normalize_weights: false is not supported", "leave it out")
