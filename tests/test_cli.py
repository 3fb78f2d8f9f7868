"""The command line: what it prints, its exit codes, and that bad input fails early and clearly."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import Result

from hm3rl import __version__, api
from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore
from hm3rl.events import EvaluationEvent
from hm3rl.files import RunFolder, RunLock
from hm3rl.models.zoo import zoo_folder
from hm3rl.reporting.csv_logger import CsvLogger
from tests.commands import assert_refused, call
from tests.small_search import FEW_ITEMS


def test_version_and_help_do_not_import_torch():
    script = "import sys; from hm3rl.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    script += "assert not {'torch', 'hydra', 'wandb', 'transformers'} & set(sys.modules)"
    for word in ("--help", "--version"):
        command = [sys.executable, "-c", script, word]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("Usage" if word == "--help" else __version__) in done.stdout


def test_front_reads_files_and_imports_no_torch(finished):
    script = "import sys; from hm3rl.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    script += "assert not {'torch', 'hydra', 'numpy', 'transformers'} & set(sys.modules)"
    command = [sys.executable, "-c", script, "front", str(finished.folder.path)]
    assert "M00" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("words", [("front",), ("front", "--help")])
def test_a_terminal_without_unicode_gets_plain_signs(finished, words: tuple[str, ...]):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    command = [sys.executable, "-m", "hm3rl.cli", *words, str(finished.folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "+-" in done.stdout
    if words == ("front",):  # columns stay in line
        ends = {line.rindex("+-") for line in done.stdout.splitlines() if "+-" in line}
        assert len(ends) == 1


def test_a_damaged_run_folder_says_what_to_do_and_resume_does_it(searched, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(searched("budget=6", "search=random").folder.path, run)
    front = (run / "front.csv").read_text()
    for name in ("front.csv", "archive.jsonl", "summary.json"):  # what is read last goes first
        file = run / name
        file.write_text(file.read_text()[: file.stat().st_size // 2])
        assert_refused(call("export", run, "M00"), name, f"resume={run}")
    assert call("search", f"resume={run}").exit_code == 0
    assert call("pick", run, "--prefer", "math=1").exit_code == 0
    assert (run / "front.csv").read_text() == front


def test_what_resume_cannot_mend_is_not_sent_there(tmp_path: Path, monkeypatch):
    def refused(problem):
        raise InputError("no expert scores above zero on the test items of code", "drop it")

    monkeypatch.setattr("hm3rl.run.job.experts_on_test", refused)
    done = call("search", *FEW_ITEMS, "budget=6", f"output={tmp_path / 'run'}")
    assert_refused(done, "no expert")
    assert "go on with" not in done.output
    assert (tmp_path / "run" / "run.log").read_text().rstrip().endswith("refused")


def test_report_refuses_what_is_no_run_and_what_is_no_file(finished, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused = call("report", tmp_path / "empty")
    assert_refused(refused, "no finished run", str(tmp_path / "empty"))
    assert "resume=" not in refused.output  # there is nothing to continue
    shutil.copy(finished.folder.config, tmp_path / "empty")
    assert_refused(call("report", tmp_path / "empty"), "resume=")
    assert_refused(call("report", finished.folder.path, "--to", tmp_path), "is a folder")
    target = finished.folder.config / "page.html"
    assert_refused(call("report", finished.folder.path, "--to", target), "cannot be written")


def test_search_front_pick_export_evaluate(tmp_path: Path):
    run, model = tmp_path / "run", tmp_path / "model"
    done = call("search", *FEW_ITEMS, "budget=12", f"output={run}")
    assert done.exit_code == 0, done.output
    assert "hypervolume" in done.output and "hm3rl pick" in done.output

    shown = json.loads(call("front", run, "--json").stdout)
    assert shown["summary"]["evaluations"] == 12
    assert len(shown["front"]) >= 1
    assert "M00" in call("front", run).output

    sections = json.loads(call("store", run, "--json").stdout)
    assert {s["split"]: s["failed"] for s in sections} == {"search": 0, "test": 0}
    # Three experts, the base, the budget, and three uniform blends.
    assert sections[0]["evaluations"] == 4 + 12 + 3
    assert "uniform 0.5" in call("front", run).output
    table = tmp_path / "all.csv"
    shown = call("store", tmp_path / "copy", "--merge", run, "--export", table)
    assert shown.exit_code == 0 and "best math" in shown.output, shown.output
    assert len(table.read_text().splitlines()) == 1 + sum(s["evaluations"] for s in sections)

    picked = call("pick", run, "--prefer", "math=2", "code=1", "--export", model, "--json")
    assert picked.exit_code == 0, picked.output
    found = json.loads(picked.stdout)
    assert " | " in found["path"] and found["asked"]["kind"] == "tchebycheff"
    assert {found["evaluation"]["split"], found["test"]["split"]} == {"search", "test"}
    shown = call("pick", run, "--prefer", "math=1", "--utility", "run").stdout
    header = next(line for line in shown.splitlines() if "best expert" in line)
    assert header.split() == ["search", "best", "expert", "test", "best", "expert"]
    assert re.search(r"^math +\d\.\d+ ± 0\.\d+ +\d\.\d+ +\d\.\d+ ± ", shown, re.MULTILINE)
    assert "(weighted sum; scores" in shown
    assert_refused(call("pick", run, "--prefer", "math=1", "--at-least", "math=2"), "math=2")
    assert_refused(call("pick", run, "--prefer", "math=1", "--at-least", "poems=1"), "poems")

    said = call("answers", run, "math", "--task", "math").stdout
    assert said.startswith("math 0: exact_match ") and said.count("  reference  ") == 10
    assert "code" not in json.loads(call("answers", run, "M00", "--task", "math", "--json").stdout)
    assert_refused(call("answers", run, "M99"), "M99", "M00")

    halved = call("export", run, "M00", "--to", tmp_path / "first", "--dtype", "bfloat16")
    assert halved.exit_code == 0, halved.output
    card = (tmp_path / "first" / "README.md").read_text()
    assert "precision: bfloat16" in card and "| task | search split | test split |" in card
    for folder in (model, tmp_path / "first"):
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        tokens = AutoTokenizer.from_pretrained(folder)("a", return_tensors="pt")
        assert loaded(**tokens).logits.isfinite().all()

    scored = json.loads(call("evaluate", model, *FEW_ITEMS, "--json").stdout)
    stored = json.loads(picked.stdout)["evaluation"]
    assert scored["scores"] == pytest.approx(stored["scores"])
    same = json.loads(call("evaluate", model, "--run", run, "--json").stdout)
    assert same["scores"] == scored["scores"]
    assert_refused(call("evaluate", model, "budget=3", "--run", run), "--run with budget=3")
    assert_refused(call("evaluate", model, "--run", tmp_path), str(tmp_path))
    # What decided nothing is told beside: in the table of a choice, the leaderboard, the card.
    assert re.search(r"^translation: chrf +[01]\.\d+ +[01]\.\d+$", shown, re.MULTILINE)
    board = (run / "leaderboard.md").read_text()
    assert "Further metrics, test split" in board and "| model | translation chrf |" in board
    assert re.search(r"^\| M00 \| [01]\.\d{3} \|$", board, re.MULTILINE)
    card = (model / "README.md").read_text()
    assert re.search(r"^\| translation: chrf \| – \| [01]\.\d{3} \|$", card, re.MULTILINE)


def test_evaluate_shows_what_is_minimised_as_it_is():
    words = ["+tasks.length.kind=path_length", "paths=any", *FEW_ITEMS]
    shown = call("evaluate", "zoo:math", *words).stdout
    assert re.search(r"^length ↓ +8\.000 ± 0\.000 \(search split\)$", shown, re.MULTILINE)
    assert re.search(r"^math +[01]\.\d+ ± .*nll", shown, re.MULTILINE)
    plain = json.loads(call("evaluate", "zoo:math", *words, "--json").stdout)
    assert plain["minimised"] == {"length": {"worst": 16.0, "unit": "layers"}}
    assert plain["scores"]["length"] == 0.5


def test_evaluate_puts_an_adapter_into_the_base(tmp_path: Path):
    pytest.importorskip("peft")
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors = load_file(zoo_folder("math") / "model.safetensors")
    query = "model.layers.0.self_attn.q_proj"
    whole = tensors.pop(f"{query}.weight")
    tensors[f"{query}.base_layer.weight"] = whole
    tensors[f"{query}.lora_A.weight"] = torch.ones(1, whole.shape[1])
    tensors[f"{query}.lora_B.weight"] = torch.zeros(whole.shape[0], 1)
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "target_modules": query}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    scored = [
        json.loads(call("evaluate", model, *FEW_ITEMS, "--json").stdout)["scores"]
        for model in (folder, "zoo:math", "zoo:base")
    ]
    assert scored[0] == scored[1] != scored[2]


def test_check_runs_nothing_and_says_what_a_run_needs():
    report = json.loads(call("check", *FEW_ITEMS, "budget=12", "--json").stdout)
    assert report["evaluations"] == 12 and report["layers"] == 8
    assert "24 search and 24 test items" in report["tasks"]
    assert report["math items"].endswith("raise tasks.math.search_items, of 24 now")
    assert report["code programs"].endswith("limits")


def test_check_scores_the_sources_and_says_whether_it_is_worth_merging(tmp_path: Path):
    report = json.loads(call("check", *FEW_ITEMS, "--score", "--json").stdout)
    assert re.match(r"translation 1\.000 ± 0\.000, math 0\.\d+ ± ", report["score of translation"])
    assert {"score of base", "score of uniform 0.3", "score of uniform 1"} <= set(report)
    assert re.match(
        r"the most even expert, \w+, keeps \d+% .*; the blend uniform \S+, .* \d+%",
        report["worth merging"],
    )
    assert "signs conflict in" in report["translation and math"]
    assert "of the base's weights" in report["task vector of code"]
    # What no expert can do is found before the search, all tasks at once.
    rows = [json.dumps({"prompt": f"w{i}", "reference": "zzz"}) for i in range(60)]
    (tmp_path / "no.jsonl").write_text("\n".join(rows))
    path = f"path={tmp_path / 'no.jsonl'}"
    words = [
        word
        for task in ("poems", "odes")
        for word in (
            f"+tasks.{task}.kind=jsonl",
            f"tasks.{task}.{path}",
            f"tasks.{task}.max_new_tokens=4",
        )
    ]
    refused = call("check", *FEW_ITEMS, *words, "--score", "--json")
    assert refused.exit_code == 2
    assert "the tasks poems, odes" in json.loads(refused.stdout)["refused"]
    assert_refused(call("check", "--recipe", tmp_path / "x.yml", "--score"), "--score")


def test_check_encodes_the_items_and_checks_the_paths(tmp_path: Path):
    assert_refused(call("check", *FEW_ITEMS, "tasks.math.max_new_tokens=1"), "math", "1")
    assert_refused(call("check", *FEW_ITEMS, "paths=any", "paths.min_length=9"), "min_length=9")
    assert_refused(call("check", *FEW_ITEMS, "paths.stem=nobody"), "nobody")
    assert not list(tmp_path.iterdir())


def test_check_of_a_recipe_reads_no_weights(tmp_path: Path, monkeypatch):
    from hm3rl.models.pool import ModelPool

    file = tmp_path / "stack.yml"
    file.write_text("""
        merge_method: linear
        slices:
          - sources:
              - {model: zoo:math, layer_range: [0, 6]}
              - {model: zoo:code, layer_range: [1, 7]}
          - sources: [{model: zoo:code, layer_range: [4, 8]}]
        parameters: {weight: 1}
    """)
    done = call("merge", file, tmp_path / "model")
    assert done.exit_code == 0, done.output
    monkeypatch.delattr(ModelPool, "load")
    report = json.loads(call("check", "--recipe", file, "--json").stdout)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert report["layers"] == 10
    assert report["parameters"] == f"{sum(w.numel() for w in weights.values()):,}"
    again = call("check", "--recipe", tmp_path / "model" / "recipe.yaml", "--json")
    assert json.loads(again.stdout)["parameters"] == report["parameters"]
    assert_refused(call("check", "--recipe", file, "budget=3"), "budget=3")
    file.write_text(file.read_text().replace("[4, 8]", "[4, 9]"))
    assert_refused(call("check", "--recipe", file), "[4, 9]", "half-open")


def test_push_refuses_before_any_work(tmp_path: Path):
    assert_refused(call("push", tmp_path / "absent", "me/model", "--token", "t"), "HF_HUB_OFFLINE")
    assert_refused(call("push", tmp_path, "model"), "USER/NAME")


def test_init_writes_a_config_that_check_accepts(tmp_path: Path):
    rows = [{"prompt": f"w{i}", "reference": "x"} for i in range(60)]
    data = tmp_path / "qa.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    made = call(
        *("init", tmp_path / "conf", "--base", "zoo:base", "--expert", "m=zoo:math"),
        *("--task", f"qa={data}"),
    )
    assert made.exit_code == 0, made.output
    words = ("--config-dir", tmp_path / "conf", "experiment=mine", "pool.dtype=float32")
    shown = call("check", *words)
    assert shown.exit_code == 0
    # Facts longer than a line go on under their own beginning, not under their name.
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(re.match(r"(\w+ ?)*\s+", line)[0]) for line in lines if line[:1] != " "}) == 1
    assert "a score of 0.5 is known to ±" in shown.stdout
    # How many lines would do, at the share that the search has of them; none is for training.
    report = json.loads(call("check", *words, "--json").stdout)
    counts = [int(count) for count in re.findall(r"(\d+) (?:search|test)", report["tasks"])]
    assert sum(counts) == 60 and counts[0] > counts[1]
    assert "100 search items: 167 lines" in report["qa items"]
    shares = ("tasks.qa.split={search:50,test:40}", "paths.alignment=none")
    assert_refused(call("check", *words, *shares), "tasks.qa.split", "90 percent")
    aligned = call("check", *words, "paths.alignment=scalar", "--json").stdout
    assert "tokens of search items" in json.loads(aligned)["alignment"]


def test_the_help_of_report_says_where_it_writes():
    assert "report.html" in call("report", "--help").output


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    for name in ("base", "math"):
        shutil.copytree(zoo_folder(name), tmp_path / name)
    return tmp_path


def search_on(folder: Path) -> Result:
    return call(
        *("search", *FEW_ITEMS, "budget=12", f"pool.base={folder / 'base'}"),
        f"pool.experts={{math: {folder / 'math'}}}",
        f"output={folder / 'run'}",
    )


def test_a_missing_folder_is_named(copies: Path):
    shutil.rmtree(copies / "math")
    assert_refused(search_on(copies), str(copies / "math"))


def test_a_model_in_pickle_files_only_is_refused(copies: Path):
    (copies / "math" / "model.safetensors").unlink()
    torch.save({}, copies / "math" / "pytorch_model.bin")
    assert_refused(search_on(copies), "math", "safetensors")


def test_a_hidden_size_mismatch_names_both_sides(copies: Path):
    config = json.loads((copies / "math" / "config.json").read_text())
    other = config["hidden_size"] * 2
    (copies / "math" / "config.json").write_text(json.dumps(config | {"hidden_size": other}))
    assert_refused(search_on(copies), "hidden_size", str(other), str(config["hidden_size"]))


def test_a_corrupt_file_is_named(copies: Path):
    file = copies / "math" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert_refused(search_on(copies), "model.safetensors")


def test_nan_weights_are_named_with_their_tensor(copies: Path):
    file = copies / "math" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    assert_refused(search_on(copies), "model.norm.weight")


def test_nothing_is_left_behind_by_refused_sources(copies: Path):
    shutil.rmtree(copies / "math")
    search_on(copies)
    assert not (copies / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tasks.math.kind=poetry"], ["poetry"]),
        (["agent.entropi=1"], ["agent.entropi"]),
        (["search=hm4"], ["hm4"]),
        (["budget=2"], ["budget=2", "3 phases"]),
        (["budget=0"], ["budget=0"]),
        (["+export.prefer.poems=1"], ["poems"]),
        (["+export.prefer.math=0"], ["zero"]),
        (["pool.dtype=int3"], ["int3"]),
        (["paths.actions=sideways"], ["sideways"]),
        (["search.parameter.operators=[blend]"], ["blend"]),
        (["agent.scalarisation=median"], ["median"]),
        (["search.parameter_share=0.9"], ["parameter_share"]),
        (["logging.wandb=sometimes"], ["sometimes"]),
        (["resume=nowhere"], ["nowhere"]),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_made(
    tmp_path: Path, words: list[str], named: list[str]
):
    own = [] if words[0].startswith("resume") else [f"output={tmp_path / 'run'}"]
    assert_refused(call("search", *words, *own), *named)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_bad_preference_at_pick_is_refused(finished):
    assert_refused(call("pick", finished.folder.path, "--prefer", "poems=1"), "poems")
    assert_refused(call("pick", finished.folder.path, "--prefer", "math=0"), "zero")
    assert_refused(call("store", "nowhere"), "nowhere", "evaluations.sqlite")
    assert_refused(call("pick", "nowhere", "--prefer", "math=1"), "nowhere")


@pytest.mark.parametrize(
    "words",
    [
        ("front", "LONG"),
        ("report", "LONG"),
        ("store", "LONG"),
        ("check", "--config-dir", "LONG"),
        ("search", "resume=LONG"),
        ("init", "LONG", "--base", "zoo:base", "--expert", "m=zoo:math", "--task", "a=b"),
    ],
)
def test_a_name_of_300_letters_is_refused(words: tuple[str, ...]):
    assert_refused(call(*(word.replace("LONG", "x" * 300) for word in words)))


def test_export_asks_which_model_and_never_overwrites(finished, tmp_path: Path):
    assert_refused(call("export", finished.folder.path), "which model")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    target = tmp_path / "there"
    assert_refused(call("export", finished.folder.path, "M00", "--to", target), str(target.name))


def test_merge_runs_a_mergekit_file_and_says_what_it_ignores(tmp_path: Path):
    file = tmp_path / "ties.yml"
    file.write_text("""
        merge_method: ties
        base_model: zoo:base
        models:
          - {model: zoo:math, parameters: {weight: [0.3, 1.0]}}
          - {model: zoo:code, parameters: {weight: 0.5, density: 0.6}}
        parameters: {int8_mask: true}
    """)
    done = call("merge", file, tmp_path / "model", "--max-shard-size", "500KB")
    assert done.exit_code == 0, done.output
    assert "int8_mask is ignored" in done.output
    assert (tmp_path / "model" / "model.safetensors.index.json").is_file()
    assert_refused(call("merge", file, tmp_path / "model"), "exists already")
    file.write_text("{merge_method: ties, base_model: zoo:base, modules_: []}")
    assert_refused(call("merge", file, tmp_path / "other"), "modules_", "did you mean modules")
    assert_refused(call("merge", file, tmp_path / "other", "--dtype", "int3"), "int3")
    assert_refused(call("merge", file, tmp_path / "other", "--max-shard-size", "5"), "5GB")


def test_ctrl_c_exits_with_130_and_the_run_can_be_resumed(tmp_path: Path, monkeypatch):
    from hm3rl.evaluation.problem import MergeProblem

    plain = MergeProblem.evaluate

    def interrupted(self, candidates, phase, **named):
        if phase == "online":
            raise KeyboardInterrupt
        return plain(self, candidates, phase, **named)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(MergeProblem, "evaluate", interrupted)
        assert call("search", *FEW_ITEMS, "budget=12", f"output={run}").exit_code == 130
    assert (run / "run.log").read_text().rstrip().endswith("interrupted")
    assert call("search", f"resume={run}").exit_code == 0


def test_a_full_disk_ends_with_1_one_sentence_and_the_way_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    real, calls = CsvLogger.evaluation, count()

    def fail(logger: CsvLogger, event: EvaluationEvent) -> None:
        if next(calls) == 6:
            raise OSError(28, "No space left on device")
        real(logger, event)

    monkeypatch.setattr(CsvLogger, "evaluation", fail)
    done = call("search", *FEW_ITEMS, "search=random", "budget=6", f"output={run}")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert "No space left on device" in done.output
    assert f"hm3rl search resume={run}" in done.output.replace("\n", "")
    monkeypatch.undo()
    assert call("search", f"resume={run}").exit_code == 0
    with (run / "evaluations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sum(row["cached"] == "1" for row in rows) >= 6  # nothing of it ran again


def test_store_forgets_failures_when_asked_to(tmp_path: Path):
    path = tmp_path / "store.sqlite"
    condition = Condition("suite", "search", "float32", "torch-cpu")
    with EvaluationStore(path) as store:
        for key, cause in (("own", "candidate"), ("unknown", None)):
            failed = Evaluation.failure(key, "search", ("math",), "Why", {}, cause=cause)
            store.put(failed, {}, condition)
    assert json.loads(call("store", path, "--json").stdout)[0]["failed"] == 2
    done = call("store", path, "--drop-failed")
    assert done.exit_code == 0 and "dropped 2 failures" in done.output
    assert json.loads(call("store", path, "--json").stdout) == []


def test_pictures_and_the_picked_model_are_written_under_the_runs_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    asked: list[str] = []

    def locked(name: str) -> Callable[..., None]:
        def check(*_: object, **__: object) -> None:
            asked.append(name)
            with pytest.raises(InputError, match="another process is writing"):
                RunLock(RunFolder(run)).__enter__()

        return check

    def export(run: object, candidate: object, to: Path, **_: object) -> None:
        locked("export")()
        assert (to.parent / "picked" / "old").is_file()  # what stands there stays meanwhile
        to.mkdir()

    for name in ("write_pictures", "write_leaderboard", "write_report"):
        monkeypatch.setattr(api, name, locked(name))
    monkeypatch.setattr(api, "export", export)
    (run / "models" / "picked").mkdir(parents=True)
    (run / "models" / "picked" / "old").touch()
    monkeypatch.setattr(api, "has_plotly", lambda: True)
    api.search(*FEW_ITEMS, "search=random", "budget=8", "+export.prefer.math=1", f"output={run}")
    assert asked == ["write_pictures", "write_leaderboard", "write_report", "export"]
    assert not list((run / "models" / "picked").iterdir())


@pytest.mark.slow
def test_a_finished_run_in_a_read_only_folder_is_read(finished, tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(finished.folder.path, run)
    script = f"""
mount --bind {run} {run} && mount -o remount,ro,bind {run} || exit 77
"{sys.executable}" - <<'PYTHON'
from hm3rl.cli import app
for words in (
    "front {run} --json",
    "store {run} --json",
    "pick {run} --prefer math=1 --export {out}/picked",
    "export {run} M00 --to {out}/exported",
    "report {run} --to {out}/report.html",
):
    assert not app(words.split(), standalone_mode=False), words
assert app("report {run}".split(), standalone_mode=False) == 2
PYTHON
"""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here, with which a folder is made read-only")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip(f"a folder cannot be made read-only here: {done.stderr.strip()[-80:]}")
    assert done.returncode == 0, done.stderr
    assert (out / "picked" / "config.json").is_file() and (out / "report.html").is_file()
