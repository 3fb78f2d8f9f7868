"""Parts that people exchange by name: searchers, agents, surrogates, operators, tasks, metrics.

What ships is a table of names to module strings, so that nothing is imported before it is chosen; a
plugin adds a part of its own with the decorator, and both are found through the same door:

    @register("searcher", "greedy", options=GreedySettings, needs=("sklearn",))
    class Greedy(Searcher[GreedySettings]): ...

The options of a part are a dataclass. It becomes a choice of the Hydra group of its kind
(`search=greedy search.steps=3`), checked like every other key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from hm3rl.errors import InputError

KINDS = ("searcher", "agent", "surrogate", "operator", "task", "metric")

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        kind: One of `KINDS`.
        name: What selects it.
        target: The class or function, or where it stands: `module:name`.
        options: Its dataclass of options, or where it stands; None: its kind's own.
        needs: Packages that it imports and that not everybody has.
        extra: The extra of this package that installs them; empty for a plugin's.
        traits: What its kind says about it besides, such as an operator's traits.
    """

    kind: str
    name: str
    target: Any
    options: Any = None
    needs: tuple[str, ...] = ()
    extra: str = ""
    traits: Any = None

    def load(self) -> Any:
        """The class or function; imports its module.

        Raises:
            InputError: A package is missing.
        """
        self.check_packages()
        return _loaded(self.target)

    def options_type(self) -> Any:
        """The dataclass of its options, None where it has none of its own; imports no torch."""
        return _loaded(self.options)

    def missing_packages(self) -> list[str]:
        """Packages that it needs and nobody installed."""
        return [package for package in self.needs if find_spec(package) is None]

    def check_packages(self) -> None:
        """Refuse to go on without the packages it needs.

        Raises:
            InputError: Names them.
        """
        if missing := self.missing_packages():
            install = f"'hm3rl[{self.extra}]'" if self.extra else " ".join(missing)
            raise InputError(
                f"the {self.kind} {self.name} needs {', '.join(missing)}, which is not installed",
                f"pip install {install}, or choose another",
            )


def _loaded(where: Any) -> Any:
    if not isinstance(where, str):
        return where
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def _searcher(module: str, name: str, options: str, *needs: str) -> dict[str, Any]:
    extra = "baselines" if needs else ""
    target, options = f"hm3rl.search.{module}:{name}", f"hm3rl.config.searchers:{options}"
    return {"target": target, "options": options, "needs": needs, "extra": extra}


def _task(module: str, name: str, options: str) -> dict[str, Any]:
    return {"target": f"hm3rl.tasks.{module}:{name}", "options": f"hm3rl.config.tasks:{options}"}


def _metric(name: str, kind: str = "text") -> dict[str, Any]:
    return {"target": f"hm3rl.tasks.metrics:{name}", "traits": kind}


SHIPPED: dict[str, dict[str, dict[str, Any]]] = {
    "searcher": {
        "hm3": _searcher("hm3", "HM3", "HM3Settings"),
        "architecture_only": _searcher("hm3", "ArchitectureOnly", "HM3Settings"),
        "no_offline": _searcher("hm3", "NoOffline", "HM3Settings"),
        "parameter_only": _searcher("parameter_only", "ParameterOnly", "MergingSettings"),
        "random": _searcher("competitors.random", "RandomSearch", "OverPathsSettings"),
        "grid": _searcher("competitors.grid", "Grid", "MergingSettings"),
        "nsga2": _searcher("competitors.nsga2", "Nsga", "NsgaSettings", "pymoo"),
        "nsga3": _searcher("competitors.nsga2", "Nsga", "NsgaSettings", "pymoo"),
        "de": _searcher("competitors.de", "DifferentialEvolution", "EvolutionSettings", "pymoo"),
        "cmaes": _searcher("competitors.cmaes", "CmaEs", "CmaEsSettings", "cma"),
        "cmaes_dfs": _searcher("competitors.cmaes_dfs", "DataFlow", "DataFlowSettings", "cma"),
        "rmm": _searcher("competitors.rmm", "RMM", "RMMSettings"),
        "depth_wise": _searcher(
            "competitors.depth_wise", "DepthWise", "DepthWiseSettings", "sklearn"
        ),
        "map": _searcher("competitors.map", "Map", "MapSettings", "pymoo"),
        "mm_mo": _searcher("competitors.mm_mo", "MmMo", "MmMoSettings", "botorch"),
        "moholl": _searcher("competitors.moholl", "Moholl", "MohollSettings"),
    },
    "agent": {
        "hm3": {
            "target": "hm3rl.agents.agent:MergeAgent",
            "options": "hm3rl.config.agents:HM3AgentSettings",
        },
        "psl": {
            "target": "hm3rl.agents.pareto_set:ParetoSetAgent",
            "options": "hm3rl.config.agents:PslSettings",
        },
        "sb3": {
            "target": "hm3rl.agents.sb3:SB3Agent",
            "options": "hm3rl.config.agents:SB3Settings",
        },
    },
    "surrogate": {
        "gp": {"target": "hm3rl.surrogate.gp:PathGP", "options": "hm3rl.config.agents:GPSettings"},
        "linear": {
            "target": "hm3rl.surrogate.linear:PathRegression",
            "options": "hm3rl.config.agents:LinearSettings",
        },
        "none": {
            "target": "hm3rl.surrogate.none:NoRegression",
            "options": "hm3rl.config.agents:NoSurrogateSettings",
        },
    },
    "operator": {},
    "task": {
        **{
            kind: _task("build", kind, "SizedTaskSettings")
            for kind in ("translation", "math", "code", "sorting", "reversal", "sums")
        },
        "jsonl": _task("build", "jsonl", "JsonlSettings"),
        "lm_eval": _task("build", "lm_eval", "HarnessSettings"),
        "reasoning_gym": {
            **_task("reasoning_gym", "reasoning_gym", "ReasoningGymSettings"),
            "needs": ("reasoning_gym",),
            "extra": "reasoning-gym",
        },
        "answer_length": _task("build", "answer_length", "AnswerLengthSettings"),
        "path_length": {
            "target": "hm3rl.evaluation.costs:PathLength",
            "options": "hm3rl.config.tasks:PathLengthSettings",
        },
    },
    "metric": {
        "exact_match": _metric("exact_match"),
        "contains": _metric("contains"),
        "number": _metric("same_number"),
        "regex": _metric("regex"),
        "chrf": _metric("chrf"),
        "pass_at_1": _metric("extract_program", "program"),
        "choice": _metric("likeliest", "choices"),
        "choice_norm": _metric("likeliest_by_length", "choices"),
    },
}

_PARTS: dict[str, dict[str, Part]] = {
    kind: {name: Part(kind, name, **what) for name, what in SHIPPED[kind].items()} for kind in KINDS
}


def register(
    kind: str,
    name: str,
    *,
    options: type | None = None,
    needs: tuple[str, ...] = (),
    traits: Any = None,
) -> Callable[[T], T]:
    """Decorate a part of one's own; what a kind must be is said in docs/extend.

    Args:
        kind: One of `KINDS`.
        name: What selects it: `search=NAME`, `agent=NAME`, `surrogate=NAME`,
            `tasks.X.kind=NAME`, `tasks.X.metric=NAME`, or the operator of a recipe.
        options: Dataclass of its options, a subclass of its kind's settings.
        needs: Packages it imports, so that their absence is told before any work.
        traits: See `Part`.

    Returns:
        A decorator that leaves its class or function as it is.

    Raises:
        InputError: The kind is unknown, or the name taken by another part.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of part {kind!r}", f"one of {', '.join(KINDS)}")

    def add(target: T) -> T:
        add_part(Part(kind, name, target, options, tuple(needs), traits=traits))
        return target

    return add


def add_part(part: Part) -> None:
    """Add a part; the same definition executed again, as in a notebook, takes its own place.

    Raises:
        InputError: The name is taken by another part.
    """
    known = _PARTS[part.kind].get(part.name)
    if known is not None and _origin(known.target) != _origin(part.target):
        raise InputError(
            f"there is a part of kind {part.kind} called {part.name!r} already",
            "choose another name",
        )
    _PARTS[part.kind][part.name] = part


def _origin(target: Any) -> object:
    if isinstance(target, str):
        return target
    return getattr(target, "__module__", None), getattr(target, "__qualname__", id(target))


def parts(kind: str) -> tuple[Part, ...]:
    """All parts of a kind, what ships first."""
    return tuple(_PARTS[kind].values())


def names(kind: str) -> tuple[str, ...]:
    """Their names."""
    return tuple(_PARTS[kind])


def is_shipped(kind: str, name: str) -> bool:
    """Whether a part came with the package."""
    return name in SHIPPED[kind]


def find(kind: str, name: str) -> Part:
    """The part of a name.

    Raises:
        InputError: There is none.
    """
    found = _PARTS[kind].get(name)
    if found is None:
        near = get_close_matches(name, names(kind), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"unknown {kind} {name!r}",
            f"{hint}there are: {', '.join(names(kind))}; one of your own is found through "
            "plugins=[FILE.py]",
        )
    return found


def snapshot() -> dict[str, dict[str, Part]]:
    """What is registered, to be given to `restore` when a plugin failed half-way."""
    return {kind: dict(known) for kind, known in _PARTS.items()}


def restore(known: dict[str, dict[str, Part]]) -> None:
    """Go back to a snapshot."""
    for kind in KINDS:
        _PARTS[kind] = dict(known[kind])
