"""The configuration of a run as dataclasses, registered with Hydra, and where the config files lie.

Every key a user may set is a field here or, for a searcher, agent, surrogate or task, of its own
options (`config/searchers.py`, `agents.py`, `tasks.py`, or a plugin's), so a typo fails with the
name of the key before any work; ranges and choices stand beside it (`hm3rl.config.values`).
Defaults in `configs/` repeat nothing that stands here unless it differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from hm3rl.config.agents import AgentSettings, GPSettings, HM3AgentSettings, SurrogateSettings
from hm3rl.config.searchers import HM3Settings, SearcherSettings
from hm3rl.config.tasks import TaskSettings
from hm3rl.config.values import choice, file_name, number
from hm3rl.errors import InputError


@dataclass
class PoolSettings:
    """The source models.

    Attributes:
        base: Folder of the base model, or a name: `zoo:base`, `smollm2:base`.
        experts: Folder of each expert by name; the names are used in paths and preferences.
        dtype: Precision of weights and computation: float32, bfloat16 or float16.
        device: `cpu`, `cuda` or `cuda:N`.
        architecture: `same` (all sources have the base's), or `mixed`: any sources of one hidden
            size may be stitched in process; what one configuration cannot express is not exported.
        vocabulary: What happens to sources whose tokens have other ids than the donor's: `refuse`,
            or `map` embedding and head by token; tokens that a source lacks take the donor's row.
        tokenizer: The donor, the source whose tokenizer all share; empty: the base.
        smollm2_adapters: Folder with an adapter's folder for each expert called `smollm2:NAME`.
        merged_mb: Memory for merged models that are kept for their next use; one is kept always.
        match: `none`, or `units`: each expert's units are put into the order that matches the
            base's, since a merge adds what an expert has beyond the base; experts fine-tuned from
            it stay as they are. Where every expert was initialised by itself there is no such base:
            name the first expert as the base, too, and the others are matched to it.
        match_gamma: Share of the weights in what makes two units match; the rest is activations'.
    """

    base: str = MISSING
    experts: dict[str, str] = field(default_factory=dict)
    dtype: str = choice("float32", "bfloat16", "float16")
    device: str = "cpu"
    architecture: str = choice("same", "mixed")
    vocabulary: str = choice("refuse", "map")
    tokenizer: str = ""
    smollm2_adapters: str = ""
    merged_mb: int = number(4096, least=1)
    match: str = choice("none", "units")
    match_gamma: float = number(0.5, least=0, most=1)


@dataclass
class PathSettings:
    """Which inference paths are legal.

    Attributes:
        min_length: Fewest layers; 0 means the sources' depth.
        max_length: Most layers; 0 means the sources' depth.
        actions: `any` layer at any depth (repeats, skips, jumps back), or `same_depth` only.
        stem: `free` (whoever is chosen first lends the embedding and a tied head) or a member.
        alignment: Between layers that are no original neighbours: `none`, `scalar`, `diagonal`,
            `full` (optimal transport), `full_paper` or `mlp`. Only `scalar` folds into a plain
            checkpoint; with the others a front's models run in process only.
        alignment_items: Items, of all tasks together, that alignments are fitted on: training items
            of tasks that have some, prompts of search items of the others.
        blend_max: Coefficients of blended layers lie in [0, blend_max].
    """

    min_length: int = number(0, least=0, most=10_000)
    max_length: int = number(0, least=0, most=10_000)
    actions: str = choice("same_depth", "any")
    stem: str = "free"
    alignment: str = choice("none", "scalar", "diagonal", "full", "full_paper", "mlp")
    alignment_items: int = number(64, least=1)
    blend_max: float = number(1.0, above=0)


@dataclass
class EvaluationSettings:
    """How candidates are scored.

    Attributes:
        batch_size: Items in one forward pass; halved and retried when memory runs out.
        together: Most candidates computed together, sharing what they have in common. They are
            stored when all of them are done; if the run is killed, those in flight are lost. Where
            so many would take longer than a minute, fewer are.
        activation_mb: Memory for states of shared prefixes that wait to be decoded.
        join: Whether different prefixes that continue with the same layer go through it in one
            call: `never`, `exact` (where that changes no digit), or `always` (quicker on a GPU;
            likelihoods depend on the other candidates in their last digits, scores do not).
        backend: What computes: `in_process`, or `ray` (a pool of worker processes; needs the extra
            `ray`). Both give the same scores. The group `evaluation/backend` sets it too.
        workers: Workers of the Ray pool; with pool.device=cuda each has a GPU of its own.
        ray_address: Running Ray cluster to join, such as `auto` or `host:6379`; empty: a pool on
            this machine that lives as long as the search.
        store: SQLite file of stored evaluations; empty: the run folder's own. A store shared by
            several runs saves time, never budget.
        fidelity: What the search decides by: `full`, or `proxy` (one teacher-forced pass, nothing
            decoded or executed: z*, archive and front are of proxies, the test scores full).
        proxy_cost: What a proxy (one teacher-forced pass, nothing decoded or executed) of all items
            is charged, in evaluations; on the tiny zoo it takes half the time of one.
        program_workers: Processes that execute generated programs.
        program_seconds: CPU seconds one generated program may take.
        program_memory_mb: Address space one generated program may take.
        isolation: What happens where the kernel does not close files and network to generated
            programs: `require` refuses to run them, `warn` runs them and says so; `auto` is `warn`
            if all sources are shipped with the package (`zoo:NAME`), else `require`.
    """

    batch_size: int = number(256, least=1)
    together: int = number(64, least=1)
    activation_mb: int = number(256, least=1)
    join: str = choice("exact", "never", "always")
    backend: str = choice("in_process", "ray")
    workers: int = number(2, least=1)
    ray_address: str = ""
    store: str = ""
    fidelity: str = choice("full", "proxy")
    proxy_cost: float = number(0.5, least=0)
    program_workers: int = number(1, least=1)
    program_seconds: float = number(1.0, least=0.01, most=86_400)
    program_memory_mb: int = number(512, least=64, most=1 << 20)
    isolation: str = choice("auto", "require", "warn")


@dataclass
class LoggingSettings:
    """Who listens to a run, besides its folder.

    Attributes:
        wandb: `auto` (online with a key, else offline), `online`, `offline` or `disabled`.
        project: wandb project.
        entity: wandb entity; empty: the account's default.
        group: wandb group; empty: the run's name.
        tags: wandb tags.
        weights: Whether the model exported at the end (`export.prefer`) becomes a wandb artifact,
            weights and all.
        progress: Whether to draw a progress bar when the output is a terminal.
    """

    wandb: str = choice("disabled", "auto", "online", "offline")
    project: str = "hm3rl"
    entity: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    weights: bool = False
    progress: bool = True


@dataclass
class ExportSettings:
    """What a search leaves behind besides scores.

    Attributes:
        prefer: After the search, export the model picked for this preference (weight by task, on
            the command line `+export.prefer.math=2`); empty: export nothing.
    """

    prefer: dict[str, float] = field(default_factory=dict)


@dataclass
class RunSettings:
    """One run.

    Attributes:
        name: Name of the run; its folder is `root/name/seedN`.
        root: Folder of runs.
        output: The run's folder itself; empty: from root, name and seed.
        resume: Folder of a killed run to continue; only `budget` may change.
        seed: Seed of everything random.
        budget: Distinct candidates the run may ask to be scored.
        planned_budget: Budget that phases are planned for; 0: `budget`. A run resumed with another
            budget keeps the plan of its first one and spends the surplus in its last phase.
        threads: Threads of torch; 0 leaves torch's default, and gives each worker of a pool an even
            share of the cores.
        plugins: Python modules or files that register parts of your own.
        pool: Source models.
        tasks: Tasks by name; those that are objectives in the order of the score vectors.
        paths: Legal paths.
        evaluation: How candidates are scored.
        search: The searcher and its options.
        surrogate: What predicts scores of complete paths, and its options.
        agent: The agent and its options.
        logging: Loggers.
        export: What is exported at the end.
    """

    name: str = file_name("run")
    root: str = "runs"
    output: str = ""
    resume: str = ""
    seed: int = number(0, least=0, most=2**32 - 1)
    budget: int = number(300, least=1)
    planned_budget: int = number(0, least=0)
    threads: int = number(0, least=0)
    plugins: list[str] = field(default_factory=list)
    pool: PoolSettings = field(default_factory=PoolSettings)
    tasks: dict[str, TaskSettings] = field(default_factory=dict)
    paths: PathSettings = field(default_factory=PathSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    search: SearcherSettings = field(default_factory=HM3Settings)
    surrogate: SurrogateSettings = field(default_factory=GPSettings)
    agent: AgentSettings = field(default_factory=HM3AgentSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    export: ExportSettings = field(default_factory=ExportSettings)

    @property
    def objectives(self) -> dict[str, TaskSettings]:
        """The tasks that are optimised, in the order of the score vectors."""
        return {name: task for name, task in self.tasks.items() if task.role == "objective"}

    @property
    def watched(self) -> dict[str, TaskSettings]:
        """The tasks that are only scored at the end."""
        return {name: task for name, task in self.tasks.items() if task.role != "objective"}


@dataclass
class ComposedSettings(RunSettings):
    """What Hydra composes: parts come from their groups, tasks get their kinds' options later."""

    tasks: dict[str, Any] = field(default_factory=dict)
    search: SearcherSettings = MISSING
    surrogate: SurrogateSettings = MISSING
    agent: AgentSettings = MISSING


@dataclass
class OpenSettings(ComposedSettings):
    """The same with any key in every part: a first look at a configuration, for its plugins."""

    search: dict[str, Any] = field(default_factory=dict)  # type: ignore[assignment]
    surrogate: dict[str, Any] = field(default_factory=dict)  # type: ignore[assignment]
    agent: dict[str, Any] = field(default_factory=dict)  # type: ignore[assignment]


def config_folder() -> Path:
    """Where the config tree lies: inside an installed wheel, or beside the package in a checkout.

    Returns:
        Folder that holds `config.yaml`.

    Raises:
        InputError: Neither place has it: the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise InputError(
        f"no config.yaml in {package / 'configs'} nor in {package.parent / 'configs'}",
        "reinstall hm3rl: pip install --force-reinstall hm3rl",
    )
