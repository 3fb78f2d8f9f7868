"""The Python API: what the command line does, as functions.

from hm3rl import api

result = api.search("experiment=tiny", "budget=60")
run = api.open_run(result.folder.path)
choice = api.pick(run, {"math": 2, "code": 1})
report = api.export(run, choice.candidate, "my-model")
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from hm3rl.agents.prior import Prior
from hm3rl.config.compose import (
    compose_settings,
    resume_settings,
    settings_of_run,
    sweep_words,
    to_settings,
)
from hm3rl.config.parts import store_groups
from hm3rl.config.schema import RunSettings, config_folder
from hm3rl.config.words import quoted, search_path
from hm3rl.envs.forms import merge_path
from hm3rl.envs.path_env import PathEnv
from hm3rl.envs.side_by_side import PathVectorEnv
from hm3rl.errors import InputError
from hm3rl.evaluation.causes import DeviceError
from hm3rl.evaluation.costs import Minimised, build_costs
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.events import RunLogger
from hm3rl.export.checkpoint import ExportReport, export_candidate
from hm3rl.export.match import MatchReport, write_matched
from hm3rl.export.merge import merge_file
from hm3rl.export.weights import DEFAULT_SHARD_BYTES
from hm3rl.files import RunFolder
from hm3rl.models.loading import is_adapter
from hm3rl.models.pool import ModelPool
from hm3rl.models.zoo import resolve_source
from hm3rl.objectives.preferences import parse_preference
from hm3rl.objectives.utility import BALANCE
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.paths.statistics import Calibration
from hm3rl.reporting.csv_logger import CsvLogger
from hm3rl.reporting.figures import plot_front, plot_hypervolume, read_evaluations
from hm3rl.reporting.leaderboard import definition, write_leaderboard
from hm3rl.reporting.progress import ProgressLogger
from hm3rl.reporting.report import has_plotly, write_report
from hm3rl.reporting.wandb_mode import resolve_mode
from hm3rl.run.build import DTYPES, check_settings
from hm3rl.run.calibration import MATCHING_ITEMS, calibration_batch
from hm3rl.run.dataset import Written, write_dataset
from hm3rl.run.environment import Config, open_environment
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import SearchResult, run_search
from hm3rl.run.pick import Choice
from hm3rl.run.pick import pick as pick_choice
from hm3rl.run.preflight import check_report
from hm3rl.run.pretrain import pretrain as pretrain_prior
from hm3rl.run.sources import moved
from hm3rl.tasks.base import Split
from hm3rl.tasks.build import build_tasks
from hm3rl.tasks.isolation import check_isolation


def settings(*overrides: str, config_dir: str | Path | None = None) -> RunSettings:
    """Compose the settings of a run from Hydra overrides.

    Args:
        *overrides: Such as `"experiment=tiny"` or `"budget=50"`.
        config_dir: A folder of one's own config files, searched before the package's.

    Returns:
        The settings, ready for `search`.

    Raises:
        InputError: The configuration does not compose.
    """
    return compose_settings([*overrides, *_search_path(config_dir)])


def _search_path(config_dir: str | Path | None) -> list[str]:
    if config_dir is None:
        return []
    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise InputError(
            f"no such config folder: {config_dir}", "name the folder that `hm3rl init` wrote to"
        )
    return [search_path(folder)]


def check(chosen: RunSettings, score: bool = False) -> dict[str, str]:
    """What `hm3rl check` says of a configuration; nothing is scored, unless asked.

    Args:
        chosen: The configuration.
        score: Whether to score the sources and the uniform blends, and to compare task vectors.

    Raises:
        InputError: What a search would refuse before its first evaluation.
    """
    resolve_mode(chosen.logging.wandb)
    return check_report(chosen, score)


def search(
    *overrides: str,
    config_dir: str | Path | None = None,
    console: Console | None = None,
    sources: Mapping[str, str | Path] | None = None,
) -> SearchResult:
    """Run a search, or continue one with `resume=RUN`.

    Args:
        *overrides: Hydra overrides.
        config_dir: A folder of one's own config files.
        console: Where progress is shown; None: nowhere.
        sources: Where sources of a continued run lie that were moved since, by name.

    Returns:
        The result; all of it is in `result.folder` too.

    Raises:
        InputError: Bad input; nothing was run.
    """
    resumed = resume_settings(overrides)
    if resumed is not None:
        return search_with(moved(resumed[0], sources or {}), console=console, resumed=True)
    if sources:
        raise InputError(
            f"--sources {next(iter(sources))}=... without resume=RUN",
            "a new run takes its sources from pool.base and pool.experts",
        )
    return search_with(settings(*overrides, config_dir=config_dir), console=console)


def environment(
    config: Config | None = None,
    *,
    budget: int | None = None,
    form: str = "discrete",
    vector_rewards: bool = False,
    **parts: Any,
) -> PathEnv:
    """Entry point of `hm3rl/MergePath-v0`: a whole problem, or an environment of given parts.

    Args:
        config: Overrides (`"experiment=tiny"`, or several in a list), settings, or the folder of a
            run, whose scores and members are taken over. Every path that is completed is scored as
            in a search, in a run folder of its own: `env.unwrapped.problem` says what came of it,
            `env.unwrapped.report()` concludes the run. None: `parts` are those of `MergePathEnv`
            or `BlendPathEnv`.
        budget: Evaluations; None: the configuration's.
        form: `discrete` (a member's layer at each step), `hybrid` (an index and a blend) or `box`
            (the same as one vector).
        vector_rewards: Whether rewards are the vectors f / z*, as of `hm3rl/mo-merge-path-v0`.
        **parts: With a configuration `preference_sampler` alone.

    Raises:
        InputError: Bad input.
    """
    env: PathEnv
    if config is None:
        env = merge_path(form, **parts)
    else:
        env = open_environment(config, _listeners, _write_pages, budget=budget, form=form, **parts)
    env.vector_rewards = vector_rewards
    return env


def vector_environment(num_envs: int, **options: Any) -> PathVectorEnv:
    """The same many times side by side, for `gym.make_vec`; they share one problem and budget."""
    return PathVectorEnv(environment(**options), num_envs)


def search_with(
    chosen: RunSettings, console: Console | None = None, resumed: bool = False
) -> SearchResult:
    """Run a search from settings; see `search`."""
    check_settings(chosen, began=resumed)
    logged = resolve_mode(chosen.logging.wandb) != "disabled"

    def afterwards(result: SearchResult) -> None:
        _finish_folder(chosen, result, logged)

    return run_search(chosen, partial(_listeners, console=console), resumed, afterwards)


def _listeners(
    folder: RunFolder, run: RunSettings, console: Console | None = None
) -> Sequence[RunLogger]:
    """Who listens to a run."""
    listeners: list[RunLogger] = [CsvLogger(folder, list(run.objectives))]
    if console is not None and run.logging.progress:
        listeners.append(ProgressLogger(run.budget, console, folder.path))
    if resolve_mode(run.logging.wandb) != "disabled":
        # Imported here: a second and a half that a run without wandb need not pay.
        from hm3rl.reporting.wandb_logger import WandbLogger

        listeners.append(WandbLogger(folder, run.logging, run.name, run.search.name))
    return listeners


def _write_pages(result: SearchResult) -> FinishedRun:
    """Write pictures, tables and the page of a run that has just finished."""
    run = FinishedRun(result.folder.path, result.problem)
    write_pictures(run)
    write_leaderboard(run.folder, run.front_rows(), run.summary, run.summary["sources"])
    if has_plotly():
        write_report([run.folder.path])
    return run


def _finish_folder(chosen: RunSettings, result: SearchResult, logged: bool) -> None:
    """Write pages and the picked model of a search; wandb has it if `logged`."""
    run = _write_pages(result)
    if chosen.export.prefer:
        choice = pick(run, chosen.export.prefer)
        target, fresh = run.folder.models / "picked", run.folder.models / "picked.new"
        shutil.rmtree(fresh, ignore_errors=True)
        export(run, choice.candidate, fresh, evaluation=choice.evaluation)
        # Of the life before, if the run was resumed; it may not be this search's choice.
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        if chosen.logging.weights and logged:
            from hm3rl.reporting.wandb_logger import log_weights

            log_weights(run.folder, chosen.logging, target)


def write_pictures(run: FinishedRun) -> None:
    """Draw pareto.png and hypervolume.png of a finished run."""
    rows = read_evaluations(run.folder.evaluations)
    sources = {name: scores["search"] for name, scores in run.summary["sources"].items()}
    uniform = run.summary.get("references", {})
    references = {name: scores["search"] for name, scores in uniform.items()}
    front = [row["key"] for row in run.front_rows()]
    minimised = run.summary.get("minimised", {})
    labels = {name: definition(name, minimised) for name in minimised}
    target = run.folder.path / "pareto.png"
    plot_front(rows, run.objectives, front, sources, target, labels, references)
    plot_hypervolume(
        rows,
        run.folder.path / "hypervolume.png",
        run.summary["hypervolume"]["sources_search"],
    )


def open_run(path: str | Path, sources: Mapping[str, str | Path] | None = None) -> FinishedRun:
    """Open the folder of a finished search.

    Args:
        path: The run folder.
        sources: Where sources lie that were moved since, by name; their content is compared with
            what the run began with as soon as a model is needed.

    Returns:
        The run.

    Raises:
        InputError: Not a run folder, the search has not finished, a file of it is damaged, or it
            has no such source.
    """
    return FinishedRun(path, sources=sources)


def pick(
    run: FinishedRun,
    preference: Mapping[str, float],
    budget: int = 0,
    evaluate: bool = True,
    by: str | None = None,
    utility: str = BALANCE,
    at_least: Mapping[str, float] | None = None,
) -> Choice:
    """The model for a preference.

    Args:
        run: A finished run.
        preference: Weight by task; tasks not named get 0.
        budget: Further evaluations to refine the choice with.
        evaluate: Whether anything is scored; without, the decoded path is returned as it is.
        by: Whether `posterior` means or `scores` are compared; None: means if the run has them.
        utility: `balance` (good at all that is preferred), or `run` (what it was searched by).
        at_least: Scores that the model must have, by task; of one to be minimised the highest cost.

    Returns:
        The choice.

    Raises:
        InputError: The preference names no task, or sums to zero; `by` or `utility` is nothing the
            run has; no model has those scores.
    """
    goal = parse_preference(preference, run.objectives)
    return pick_choice(run, goal, budget, evaluate, by=by, utility=utility, at_least=at_least)


def export(
    run: FinishedRun,
    candidate: Candidate,
    to: str | Path,
    evaluation: Evaluation | None = None,
    dtype: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> ExportReport:
    """Write a candidate as a plain Hugging Face checkpoint and check it by loading it again.

    The card says the scores on the split of `evaluation` and on the test split. A model written in
    another precision than it was searched in is another model: it is scored again, on the same
    splits, and the card says those scores. So is one with a folded alignment.

    Args:
        run: The run it belongs to.
        candidate: The candidate.
        to: Folder to write; must not exist.
        evaluation: Scores for the model card.
        dtype: Precision to write: float32, bfloat16 or float16; None: the search's.
        shard_bytes: Largest file of weights.

    Returns:
        What was written and how far the reloaded model's logits are off.

    Raises:
        InputError: The folder exists, or the precision is unknown.
        IntegrityError: The written model does not behave as the candidate does.
    """
    written = dtype or run.settings.pool.dtype
    precision(written)
    tasks = run.settings.objectives
    chosen = replace(run.settings, pool=replace(run.settings.pool, dtype=written), tasks=tasks)
    splits = dict.fromkeys((evaluation.split if evaluation is not None else "search", "test"))
    changed = written != run.settings.pool.dtype or candidate.alignment != "none"
    run.problem.members.admit(candidate)
    known: list[Evaluation] = []
    if evaluation is not None and not changed:
        known = [evaluation]
        known += [run.problem.rescore([candidate])[0]] * (evaluation.split != "test")
    return export_candidate(
        candidate,
        run.problem.members,
        Path(to),
        evaluations=known,
        objectives=run.objectives,
        minimised=run.problem.evaluator.minimised,
        seed=run.settings.seed,
        command=run.folder.read_environment()["command"],
        shard_bytes=shard_bytes,
        dtype=precision(written),
        rescore=(lambda folder: [evaluate(folder, chosen, split) for split in splits])
        if changed
        else None,
    )


def merge(
    recipe: str | Path,
    to: str | Path,
    dtype: str | None = None,
    vocabulary: str = "refuse",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    command: str | None = None,
) -> tuple[ExportReport, tuple[str, ...]]:
    """Make the model that a recipe file describes: our recipe.yaml, or a mergekit configuration.

    Args:
        recipe: The file; its sources are folders, `zoo:NAME` or models in the local hub cache.
        to: Folder to write; must not exist.
        dtype: Precision to write; None: the file's, else the one the sources are stored in.
        vocabulary: What to do with sources of different vocabularies: `refuse`, or `map` rows by
            token.
        shard_bytes: Largest file of weights.
        command: Command, for the card.

    Returns:
        What was written, and notes on what was ignored or differs from mergekit.

    Raises:
        InputError: Anything about the file, its sources or the folder is wrong.
        IntegrityError: The written model does not behave as the merged one does.
    """
    return merge_file(
        Path(recipe),
        Path(to),
        dtype=None if dtype is None else precision(dtype),
        vocabulary=vocabulary,
        shard_bytes=shard_bytes,
        command=command,
    )


def match(
    reference: str | Path,
    model: str | Path,
    to: str | Path,
    gamma: float = 0.5,
    chosen: RunSettings | None = None,
    vocabulary: str = "refuse",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    command: str | None = None,
) -> MatchReport:
    """Put a model's units into the order that matches another model's; it computes the same.

    Args:
        reference: The model that is matched to: a folder or a name such as `zoo:NAME`.
        model: The model that is matched.
        to: Folder to write; must not exist.
        gamma: Share of the weights in what makes two units match, in [0, 1]; the rest is that of
            the activations.
        chosen: Its tasks' items are what activations are compared on; None: the tiny zoo's. Unused
            if gamma is 1.
        vocabulary: What to do with two vocabularies: `refuse`, or `map` the reference's rows by
            token.
        shard_bytes: Largest file of weights.
        command: Command, for the card.

    Returns:
        What was written, and how alike the units are.

    Raises:
        InputError: The models cannot be matched, or anything about folders and tasks is wrong.
        IntegrityError: The written model does not behave as the original does.
    """
    settings_ = chosen or settings()
    check_settings(settings_)

    def calibrate(pool: ModelPool) -> Calibration:
        tasks = build_tasks(
            settings_.objectives, settings_.evaluation, pool.tokenizer, pool.origins.values()
        )
        return calibration_batch(tasks, pool.tokenizer, MATCHING_ITEMS, pool.device)

    return write_matched(
        reference,
        model,
        Path(to),
        gamma,
        calibrate,
        vocabulary=vocabulary,
        shard_bytes=shard_bytes,
        command=command,
    )


def precision(name: str) -> torch.dtype:
    """The precision with a name.

    Raises:
        InputError: Nothing is called that.
    """
    if name not in DTYPES:
        raise InputError(f"unknown precision {name!r}", f"one of {', '.join(DTYPES)}")
    return DTYPES[name]


class Measured(NamedTuple):
    """An evaluation of a checkpoint, and which of its scores are costs turned round.

    Attributes:
        evaluation: The evaluation.
        minimised: How scores of objectives to be minimised read as costs, by name.
    """

    evaluation: Evaluation
    minimised: Mapping[str, Minimised]


def evaluate(model: str | Path, chosen: RunSettings, split: Split = "search") -> Evaluation:
    """Score any checkpoint on the tasks of a configuration; see `measure`."""
    return measure(model, chosen, split).evaluation


def settings_of(run: str | Path) -> RunSettings:
    """The settings of a run, finished or not, for example to score another model on its tasks.

    Raises:
        InputError: The folder is no run's, or its configuration is damaged.
    """
    return settings_of_run(RunFolder(run))


def measure(model: str | Path, chosen: RunSettings, split: Split = "search") -> Measured:
    """Score any checkpoint on the tasks of a configuration.

    Args:
        model: Folder of the checkpoint, or a name such as `zoo:NAME`; an adapter is put into the
            configuration's base.
        chosen: Tasks, evaluation, precision and device are taken from it.
        split: `search` or `test`.

    Returns:
        The evaluation.

    Raises:
        InputError: The configuration cannot work, or the model cannot be read.
    """
    check_settings(chosen, began=True)  # no search begins
    # A whole model stands as base and only expert of a pool of its own: no merge is made of it.
    adapters = chosen.pool.smollm2_adapters
    base = chosen.pool.base if is_adapter(resolve_source(model, adapters)) else model
    pool = ModelPool.load(
        base,
        {"model": model},
        DTYPES[chosen.pool.dtype],
        chosen.pool.device,
        adapters=adapters,
    )
    members = MemberSet(pool)
    tasks = build_tasks(chosen.tasks, chosen.evaluation, pool.tokenizer, pool.origins.values())
    check_isolation(tasks)
    evaluator = Evaluator(
        members,
        tasks,
        EvaluationStore(chosen.evaluation.store or ":memory:"),
        batch_size=chosen.evaluation.batch_size,
        costs=build_costs(chosen.tasks, pool.num_layers),
    )
    candidate = Candidate.whole("model", pool.num_layers)
    (found,) = evaluator.evaluate([candidate], split=split, secondary=True)
    return Measured(found, evaluator.minimised)


def pretrain(
    sources: Sequence[str | Path],
    to: str | Path,
    seed: int = 0,
    without: Collection[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Prior:
    """What searches in some pools teach about others, for `agent.prior`.

    Args:
        sources: Folders of finished runs, and priors, whose evaluations are taken over.
        to: File to write.
        seed: Of networks and their training.
        without: Tasks whose scores are not looked at.
        say: Receives a line for each task: how well its scores are foretold without them.

    Returns:
        The prior.

    Raises:
        InputError: A source is neither, or there are fewer than two tasks.
    """
    return pretrain_prior([Path(one) for one in sources], Path(to), seed, without, say)


def dataset(runs: Sequence[str | Path], to: str, seed: int = 0) -> Written:
    """Write the scored paths of finished runs as episodes of a Minari dataset.

    Args:
        runs: Run folders, whose paths are of one environment.
        to: `minari:NAME`.
        seed: Of the preferences that are drawn for the episodes.

    Returns:
        What was written.

    Raises:
        InputError: See `hm3rl.run.dataset.write_dataset`.
    """
    return write_dataset(runs, to, seed)


def sweep(overrides: Sequence[str], config_dir: str | Path | None = None) -> tuple[Path, bool]:
    """Run a Hydra multirun; each job is a search in a folder of its own.

    The configuration is composed once with the first value of each swept key, so that a typo is an
    `InputError` before any job starts. A job that fails does not stop the others.

    Returns:
        The folder of the sweep, with one folder for each job, and whether all of them finished.
    """
    words, chosen, named = sweep_words([*overrides, *_search_path(config_dir)])
    check_settings(chosen)
    folder = named or f"sweeps/{chosen.name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    store_groups()
    decorated: Any = hydra.main(
        version_base="1.3", config_path=str(config_folder()), config_name="config"
    )(sweep_job)
    argv = sys.argv
    sys.argv = ["hm3rl", "--multirun", *words, f"hydra.sweep.dir={quoted(folder)}"]
    finished = True
    try:
        decorated()
    except SystemExit as end:  # Hydra's way to say, after the last job, that one raised
        finished = not end.code
    finally:
        sys.argv = argv
    return Path(folder), finished


def sweep_job(config: DictConfig) -> float:
    """One job of a sweep; returns the search split's hypervolume, for sweepers that optimise."""
    chosen = to_settings(config)
    chosen.output = HydraConfig.get().runtime.output_dir
    try:
        result = search_with(chosen)
    except DeviceError as error:
        # Hydra would go on with the next job, and this process can compute nothing more.
        notes = "".join(f"\n  -> {note}" for note in getattr(error, "__notes__", ()))
        print(f"failed: {error}{notes}\nthe sweep ends here", file=sys.stderr)
        raise SystemExit(1) from error
    return float(result.summary["hypervolume"]["search"])
