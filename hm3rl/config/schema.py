"""The configuration of a run as dataclasses, registered with Hydra, and where the config files lie.

Every key a user may set is a field here, so a typo fails when the configuration is composed, with
the name of the key; a number's range stands beside it (`hm3rl.config.values`). Defaults in
`configs/` repeat nothing that stands here unless it differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from hm3rl.config.competitors import (
    CmaEsSettings,
    DataFlowSettings,
    DepthWiseSettings,
    EvolutionSettings,
    MapSettings,
    MmMoSettings,
    RMMSettings,
)
from hm3rl.config.values import file_name, number
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
    """

    base: str = MISSING
    experts: dict[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    device: str = "cpu"
    architecture: str = "same"
    vocabulary: str = "refuse"
    tokenizer: str = ""
    smollm2_adapters: str = ""
    merged_mb: int = number(4096, least=1)


@dataclass
class TaskSettings:
    """One task, that is one objective.

    Attributes:
        kind: `translation`, `math`, `code`, `sorting` or `reversal` (the tiny zoo's own), `jsonl`,
            `lm_eval`, or `path_length`: no task, but an objective to be minimised.
        path: File with one JSON object a line (prompt, reference, optionally tests), for `jsonl`;
            `items:FILE` is one that the package brings.
        lm_eval: Name of a task of the lm-evaluation-harness, or path of a YAML task, for `lm_eval`.
        metric: `exact_match` (if empty), `chrf` or `pass_at_1`, for `jsonl`; a metric of the task,
            or `metric,filter`, for `lm_eval` (if empty, its first).
        max_new_tokens: Longest answer, in tokens; 0 takes the task's own.
        chat_template: Whether prompts go through the tokenizer's chat template, for `jsonl`.
        search_items: Items of the search split that are used; 0 takes the task's own number.
        test_items: Items of the test split that are used; 0 takes the task's own number.
        worst: For `path_length`, layers at which a path is worth nothing; 0: twice the sources'.
    """

    kind: str = MISSING
    path: str = ""
    lm_eval: str = ""
    metric: str = ""
    max_new_tokens: int = number(0, least=0)
    chat_template: bool = False
    search_items: int = number(0, least=0)
    test_items: int = number(0, least=0)
    worst: float = number(0.0, least=0)


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
        alignment_items: Training items, of all tasks together, that alignments are fitted on.
    """

    min_length: int = number(0, least=0, most=10_000)
    max_length: int = number(0, least=0, most=10_000)
    actions: str = "same_depth"
    stem: str = "free"
    alignment: str = "none"
    alignment_items: int = number(64, least=1)


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
    join: str = "exact"
    backend: str = "in_process"
    workers: int = number(2, least=1)
    ray_address: str = ""
    store: str = ""
    fidelity: str = "full"
    proxy_cost: float = number(0.5, least=0)
    program_workers: int = number(1, least=1)
    program_seconds: float = number(1.0, least=0.01, most=86_400)
    program_memory_mb: int = number(512, least=64, most=1 << 20)
    isolation: str = "auto"


@dataclass
class ParameterSettings:
    """The parameter level: what is searched there.

    Attributes:
        operators: Merge operators to choose from.
        scale_min: Smallest scale of the merged task vector.
        scale_max: Largest scale of the merged task vector.
        weights: `free` (each weight uniform in [0, 1], as MAP's scaling coefficients; scale 1, and
            TIES does not divide by the weights that agree), or `simplex` (weights sum to 1, the
            scale is searched between the two above).
        density_min: Smallest share of a task vector that is kept (TIES, DARE).
        density_max: Largest share of a task vector that is kept.
        warm_up: Share of the level's budget drawn at random before elites are varied, or at most
            before the Gaussian processes are asked.
        members: How many of the best merged models join the pool for the architecture level.
        source: `search`, or `preference`: one merge Theta(lambda) for each of
            `agent.preferences` preferences (HM3 (5)), by the first operator, with the preference
            (snapped to a lattice) as weights and the middles of both ranges.
        sampler: What spends the level's budget with `source=search`: `gp` (batches of the largest
            expected hypervolume improvement under Gaussian processes), `elites` (random recipes,
            then variations of the best), or `mm_mo` (Bayesian optimisation of DARE-TIES merges,
            with the settings of `search.mm_mo`; operators, ranges and warm-up above do not apply).
    """

    operators: list[str] = field(default_factory=lambda: ["task_arithmetic"])
    scale_min: float = number(0.6)
    scale_max: float = number(3.0)
    weights: str = "free"
    density_min: float = number(0.2, least=0.001, most=1)
    density_max: float = number(0.9, least=0.001, most=1)
    warm_up: float = number(0.5, least=0, most=1)
    members: int = number(16, least=1)
    source: str = "search"
    sampler: str = "gp"


@dataclass
class SearchSettings:
    """The searcher.

    Attributes:
        name: `hm3`, its ablations `parameter_only`, `architecture_only` and `no_offline`, or a
            competitor: `random`, `grid`, `nsga2`, `nsga3`, `de`, `cmaes`, `map`, `mm_mo`,
            `cmaes_dfs`, `rmm`, `depth_wise`.
        space: What the vectors of nsga2 and nsga3 stand for: `parameters` (merge recipes)
            or `paths`.
        levels: What competitors over paths stitch: `both` (HM3's parameter level comes first, with
            its share, and the best merged models join the experts) or `paths` (sources alone).
        parameter_share: Share of the budget for the parameter level (HM3, levels=both); null: 0.2,
            more where that is little for so many experts (`level_sampler.level_share`).
        offline_share: Share of the budget for the offline phase (HM3); the rest is online.
        parameter: The parameter level.
        evolution: nsga2, nsga3 and de.
        cmaes: cmaes.
        data_flow: cmaes_dfs.
        rmm: rmm.
        depth_wise: depth_wise.
        map: map.
        mm_mo: mm_mo.
    """

    name: str = "hm3"
    space: str = "parameters"
    levels: str = "both"
    parameter_share: float | None = number(None, above=0, below=1)
    offline_share: float = number(0.2, above=0, below=1)
    parameter: ParameterSettings = field(default_factory=ParameterSettings)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    cmaes: CmaEsSettings = field(default_factory=CmaEsSettings)
    data_flow: DataFlowSettings = field(default_factory=DataFlowSettings)
    rmm: RMMSettings = field(default_factory=RMMSettings)
    depth_wise: DepthWiseSettings = field(default_factory=DepthWiseSettings)
    map: MapSettings = field(default_factory=MapSettings)
    mm_mo: MmMoSettings = field(default_factory=MmMoSettings)


@dataclass
class OutcomeSettings:
    """The surrogate: predicts scores of complete paths.

    Attributes:
        kind: `gp` (a Gaussian process), or `linear` (Bayesian linear regression on the same
            features: no interactions between layers, but as fast with thousands of deep paths).
        fit_steps: Steps that maximise the marginal likelihood at the first fit.
        refit_steps: The same at later fits, which start from the last hyper-parameters.
    """

    kind: str = "gp"
    fit_steps: int = number(60, least=1)
    refit_steps: int = number(12, least=0)


@dataclass
class ScreeningSettings:
    """How the surrogate decides what is really evaluated in the online phase.

    Attributes:
        enabled: Off: every online path is a plain rollout of the policy.
        acquisition: `hypervolume` (expected improvement of the archive's hypervolume) or `utility`
            (scalarised upper confidence bound under sampled preferences).
        proposals: Paths that compete for one batch.
        samples: Posterior samples of the surrogate.
        explore_share: Share of each batch that is unscreened rollouts of the policy (PPO's data).
        offline_share: Share of the offline phase's evaluations that the surrogate screens too;
            0 leaves the phase to plain behaviour paths.
    """

    enabled: bool = True
    acquisition: str = "hypervolume"
    proposals: int = number(1500, least=8)
    samples: int = number(64, least=1)
    explore_share: float = number(0.125, least=0, most=1)
    offline_share: float = number(0.75, least=0, most=1)


@dataclass
class AgentSettings:
    """The preference-conditioned agent.

    Attributes:
        scalarisation: `weighted_sum` or `tchebycheff`.
        utopia: z of Tchebycheff for every objective, in units of f / z*; no path should exceed it.
        length_cost: beta_1, subtracted for each layer of the path after scalarisation.
        reward: `terminal`, or `spread` (R/T on every step, as in the paper).
        critic: `vector` (K values, linear utilities only) or `scalar`.
        conditioning: `concat` or `film`: how networks take the preference.
        head: `categorical` (masked) or `wolpertinger` (a Gaussian proto-action among the actions'
            embeddings, then the best of its nearest legal actions by the critic; HM3 (11)).
        neighbours: M', nearest legal actions that Wolpertinger compares.
        epsilon: Probability that Wolpertinger draws uniformly among them instead.
        embedding: Width of the layer and action embeddings.
        hidden: Width of the path encoder (GRU) and of the heads.
        gamma: Discount; 1 because the reward is terminal (see method.md section 3).
        gae_lambda: GAE's lambda.
        learning_rate: PPO's step size.
        clip_range: PPO's clip.
        entropy: PPO's entropy bonus.
        value_weight: PPO's value loss weight.
        likelihood_weight: Weight of the vector critic's auxiliary task in regression, to predict
            each task's negative log-likelihood of the finished path; 0: no such head.
        target_kl: PPO stops an update beyond 1.5 times this KL divergence.
        epochs: PPO epochs for one rollout.
        rollouts: Paths in one PPO rollout.
        critic_warm_up: Gradient steps of the critics alone before the online phase.
        anchor: What holds PPO near its training data after each update: `replay`, `kl` or `none`.
        pretrain_rate: Step size of regression (offline, replay anchor).
        pretrain_steps: Most gradient steps of the offline phase.
        replay_steps: Gradient steps of regression after each online batch.
        patience: Checks without improvement on held-out trajectories that end the offline phase.
        regression: `advantage` (advantage-weighted), `cloning` (behaviour cloning) or `iql`
            (advantage-weighted with an expectile critic; Kostrikov et al., 2022).
        expectile: Of IQL's critic, in (0, 1); towards 1 it becomes the best known continuation.
        weighting: `trajectory` or `step`: what one advantage belongs to.
        temperature: Of the advantage weights, in units of the utilities' spread.
        hindsight: Whether trajectories are relabelled with other preferences: any, or with
            `regression=cloning` ones that they serve well.
        imagined: Paths improved under the surrogate that join the replay after each fit, as
            demonstrations; 0: none.
        distil_steps: Gradient steps after the online phase by which the policy learns, for every
            preference, the path the surrogate thinks best; 0: none.
        init_from: Run folder (or agent.zip) whose trained networks this run starts from; the sizes
            must agree. Empty: fresh networks.
        per_preference: Whether networks are initialised and trained anew for each of `preferences`
            preferences, among which the budget is divided (HM3's Algorithm 1), instead of once for
            all.
        preferences: N, preferences served by networks of their own, and for which
            `search.parameter.source=preference` merges.
        batch: Evaluations in one batch.
        outcome: The surrogate.
        screening: What is really evaluated.
    """

    scalarisation: str = "weighted_sum"
    utopia: float = number(1.1, least=0)
    length_cost: float = number(0.0, least=0)
    reward: str = "terminal"
    critic: str = "vector"
    conditioning: str = "concat"
    head: str = "categorical"
    neighbours: int = number(8, least=1)
    epsilon: float = number(0.1, least=0, most=1)
    embedding: int = number(32, least=1, most=65_536)
    hidden: int = number(64, least=1, most=65_536)
    gamma: float = number(1.0, least=0, most=1)
    gae_lambda: float = number(0.95, least=0, most=1)
    learning_rate: float = number(3e-4, above=0)
    clip_range: float = number(0.2, above=0)
    entropy: float = number(0.01, least=0)
    value_weight: float = number(0.5, least=0)
    likelihood_weight: float = number(0.0, least=0)
    target_kl: float = number(0.03, above=0)
    epochs: int = number(4, least=1)
    rollouts: int = number(8, least=1)
    critic_warm_up: int = number(40, least=0)
    anchor: str = "replay"
    pretrain_rate: float = number(1e-3, above=0)
    pretrain_steps: int = number(300, least=0)
    replay_steps: int = number(8, least=0)
    patience: int = number(5, least=1)
    regression: str = "advantage"
    expectile: float = number(0.8, above=0, below=1)
    weighting: str = "trajectory"
    temperature: float = number(0.3, above=0)
    hindsight: bool = True
    imagined: int = number(64, least=0)
    distil_steps: int = number(600, least=0)
    init_from: str = ""
    per_preference: bool = False
    preferences: int = number(10, least=1)
    batch: int = number(8, least=1)
    outcome: OutcomeSettings = field(default_factory=OutcomeSettings)
    screening: ScreeningSettings = field(default_factory=ScreeningSettings)


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

    wandb: str = "disabled"
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
        plugins: Python modules or files that register tasks, operators or searchers of your own.
        pool: Source models.
        tasks: Tasks by name, in the order of the score vectors.
        paths: Legal paths.
        evaluation: How candidates are scored.
        search: Searcher.
        agent: The agent.
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
    search: SearchSettings = field(default_factory=SearchSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    export: ExportSettings = field(default_factory=ExportSettings)


NEW_TASK = ("task", "new")
"""Config group and name of a task with its defaults, for tasks that a command line adds."""


def register() -> None:
    """Register the dataclass schema under the name `schema` (config.yaml starts from it)."""
    store = ConfigStore.instance()
    store.store(name="schema", node=RunSettings)
    store.store(group=NEW_TASK[0], name=NEW_TASK[1], node=TaskSettings)


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
