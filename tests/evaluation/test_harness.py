"""Tasks of the lm-evaluation-harness: local YAML files, no network, models from memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import ZOO_SPLIT, HarnessSettings
from hm3rl.errors import InputError, MachineError
from hm3rl.evaluation import harness
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.harness import _run
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.evaluation.texts import Answerer
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import SPLITS
from hm3rl.tasks.build import build_tasks
from hm3rl.tasks.harness import HarnessTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.suite import suite_version

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
# The harness and the libraries below it are not free of warnings of their own.
pytestmark = pytest.mark.filterwarnings("ignore")

GENERATE = """
output_type: generate_until
generation_kwargs: {until: ["\\n"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOOSE = """
output_type: multiple_choice
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a YAML task whose documents are items of the zoo's arithmetic."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "docs.jsonl"
    items = [*MathTask(n_search=40, n_test=40).items("search")]
    with data.open("w") as stream:
        for place, item in enumerate(items):
            wrong = items[place - 1].reference
            choices = [item.reference, wrong] if place % 2 else [wrong, item.reference]
            doc = {"question": item.prompt, "answer": item.reference, "choices": choices}
            stream.write(json.dumps({**doc, "gold": choices.index(item.reference)}) + "\n")

    def write(text: str, target: str = "{{answer}}", more: str = "") -> Path:
        path = tmp_path / "own_task.yaml"
        path.write_text(
            f"task: own_task\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {data}}}\n"
            f"test_split: test\ndoc_to_text: '{{{{question}}}}'\ndoc_to_target: '{target}'\n"
            f"{text}{more}"
        )
        return path

    return write


def build(pool: ModelPool, path: Path | str, **settings: object) -> HarnessTask:
    chosen = HarnessSettings(kind="lm_eval", lm_eval=str(path), **settings)  # type: ignore[arg-type]
    (task,) = build_tasks({"own": chosen}, EvaluationSettings(), pool.tokenizer)
    assert isinstance(task, HarnessTask)
    return task


def test_the_documents_are_divided_by_their_hash(zoo_pool: ModelPool, write: Write) -> None:
    task = build(zoo_pool, write(GENERATE), max_new_tokens=8)
    splits = [{item.prompt for item in task.items(s)} for s in SPLITS]
    assert sum(map(len, splits)) == 40 == len(set.union(*splits))
    assert not task.items("train") and "+split 60/40" in task.version
    trained = build(zoo_pool, write(GENERATE), max_new_tokens=8, split=ZOO_SPLIT)
    assert all(trained.items(split) for split in SPLITS) and "split" not in trained.version
    assert (task.metric, task.direction, task.max_new_tokens) == ("exact_match", "maximise", 8)
    fewer = build(zoo_pool, write(GENERATE), search_items=2, max_new_tokens=8)
    assert fewer.items("search") == task.items("search")[:2]


def test_it_scores_as_our_own_task_does(
    zoo_pool: ModelPool, zoo_members: MemberSet, store: EvaluationStore, write: Write
) -> None:
    task = build(zoo_pool, write(GENERATE), max_new_tokens=8)
    own = MathTask(n_search=40, n_test=40)
    evaluator = Evaluator(zoo_members, [task, own], store)
    depth = zoo_pool.num_layers
    candidates = [
        Candidate.whole("math", depth),
        Candidate.whole("translation", depth),
        Candidate(LayerPath.parse("math | math[0:5] + code[5] + math[6:8]")),
    ]
    hashes = dict(zoo_pool.hashes)
    mine = {item.prompt: place for place, item in enumerate(own.items("search"))}
    places = [mine[item.prompt] for item in task.items("test")]
    ours = [e.per_item["math"][places] for e in evaluator.evaluate(candidates, "search")]
    found = evaluator.evaluate(candidates, "test")
    for evaluation, expected in zip(found, ours, strict=True):
        assert evaluation.ok, evaluation.error
        assert evaluation.per_item["own"].tolist() == expected.tolist()
        assert np.isfinite(evaluation.nll).all()
    assert found[0].scores[0] > 0.9 > 0.6 > found[1].scores[0]
    assert {name: zoo_pool.hashes[name] for name in hashes} == hashes
    assert "tie_weights" not in zoo_pool.model("math").__dict__


def test_multiple_choice_is_scored_by_likelihood(
    zoo_pool: ModelPool, zoo_members: MemberSet, store: EvaluationStore, write: Write
) -> None:
    task = build(zoo_pool, write(CHOOSE, "{{gold}}"), metric="acc")
    assert {item.reference.strip() for item in task.items("test")} <= {
        item.reference for item in MathTask(n_search=40).items("search")
    }
    evaluator = Evaluator(zoo_members, [task], store)
    candidate = Candidate.whole("math", zoo_pool.num_layers)
    (full,) = evaluator.evaluate([candidate], "test")
    assert full.scores[0] > 0.9
    (half,) = evaluator.evaluate([Candidate.whole("code", 8)], "test", "items:0.5")
    assert 2 <= len(half.per_item["own"]) < len(full.per_item["own"])


def test_other_metrics_of_the_harness_are_reported_beside(
    zoo_pool: ModelPool, zoo_members: MemberSet, store: EvaluationStore, write: Write
) -> None:
    both = build(zoo_pool, write(CHOOSE, "{{gold}}"), metric="acc", also=["acc_norm"])
    other = build(zoo_pool, write(CHOOSE, "{{gold}}"), metric="acc_norm")
    assert both.version != build(zoo_pool, write(CHOOSE, "{{gold}}"), metric="acc").version
    asked = [Candidate.whole("code", zoo_pool.num_layers)]
    (found,) = Evaluator(zoo_members, [both], store).evaluate(asked, "test", secondary=True)
    (normalised,) = Evaluator(zoo_members, [other], store).evaluate(asked, "test")
    assert found.secondary == {"own": {"acc_norm": pytest.approx(normalised.scores[0])}}
    with pytest.raises(InputError, match="has no metric 'f1'"):
        build(zoo_pool, write(CHOOSE, "{{gold}}"), also=["f1"])


def test_another_document_makes_another_version(zoo_pool: ModelPool, write: Write) -> None:
    keys = [item.key for item in build(zoo_pool, write(CHOOSE, "{{gold}}")).items("test")]
    again = [item.key for item in build(zoo_pool, write(CHOOSE, "{{gold}}")).items("test")]
    described = build(zoo_pool, write(CHOOSE, "{{gold}}", "description: 'compute '\n"))
    assert keys == again
    assert not set(keys) & {item.key for item in described.items("test")}


def test_another_way_of_judging_makes_another_version(zoo_pool: ModelPool, write: Write) -> None:
    """Filters and options of the metric decide scores, and no item says so."""
    filters = """filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "^([0-9]+)$"}, {function: take_first}]}
  - {name: loose, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}
"""
    two = GENERATE + filters
    cased = GENERATE.replace("higher_is_better", "ignore_case: true, higher_is_better")
    described = [
        (two, "exact_match,strict"),
        (two, "exact_match,loose"),
        (two.replace("[0-9]+)$", "[0-9])$"), "exact_match,strict"),
        (GENERATE, ""),
        (cased, ""),
    ]
    versions = [
        [
            suite_version([build(zoo_pool, write(text), metric=metric, max_new_tokens=8)], "test")
            for text, metric in described
        ]
        for _ in range(2)
    ]
    assert versions[0] == versions[1]
    assert len(set(versions[0])) == len(described)


@pytest.mark.parametrize("fits", [2, 0])
def test_running_out_of_memory_is_not_the_candidates_failure(
    zoo_pool: ModelPool,
    zoo_members: MemberSet,
    store: EvaluationStore,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    fits: int,
) -> None:
    task = build(zoo_pool, write(CHOOSE, "{{gold}}"), metric="acc")
    evaluator = Evaluator(zoo_members, [task], store, batch_size=8)
    sizes = []

    def run(model: Any, requests: Sequence[Any]) -> None:
        sizes.append(model.batch_size)
        if model.batch_size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        _run(model, requests)

    monkeypatch.setattr(harness, "_run", run)
    candidate = Candidate.whole("math", zoo_pool.num_layers)
    if fits:
        (found,) = evaluator.evaluate([candidate], "test")
        assert found.scores[0] > 0.9 and sizes == [8, 4, 2]
        return
    with pytest.raises(MachineError, match="memory does not suffice"):
        evaluator.evaluate([candidate], "test")
    assert sizes == [8, 4, 2, 1] * 2 and len(store) == 0  # tried once more


@pytest.mark.parametrize(
    ("metric", "text", "named"),
    [
        ("f1", GENERATE, "has no metric 'f1'"),
        ("exact_match,strict", GENERATE, "exact_match,none"),
        ("bleu", GENERATE.replace("exact_match", "bleu"), "no number per document"),
    ],
)
def test_metrics_that_cannot_be_used_are_refused(
    zoo_pool: ModelPool, write: Write, metric: str, text: str, named: str
) -> None:
    with pytest.raises(InputError, match=named) as caught:
        build(zoo_pool, write(text), metric=metric)
    assert caught.value.remedy


def test_what_is_no_single_task_of_text_is_refused(zoo_pool: ModelPool, write: Write) -> None:
    with pytest.raises(InputError, match=r"give tasks\.own\.lm_eval"):
        build(zoo_pool, "")
    with pytest.raises(InputError, match="no such file"):
        build(zoo_pool, "nowhere.yaml")
    with pytest.raises(InputError, match="runs generated programs"):
        build(zoo_pool, write(GENERATE, more="unsafe_code: true\n"))
    with pytest.raises(InputError, match="loglikelihood_rolling"):
        build(zoo_pool, write("output_type: loglikelihood_rolling\n"))
    broken = write(GENERATE)
    broken.write_text(broken.read_text().replace("docs.jsonl", "other.jsonl"))
    with pytest.raises(InputError, match="cannot load"):
        build(zoo_pool, broken)


def test_what_a_model_said_is_kept_in_words(
    zoo_pool: ModelPool, zoo_members: MemberSet, write: Write
) -> None:
    math = Candidate.whole("math", zoo_pool.num_layers)
    task = build(zoo_pool, write(GENERATE), max_new_tokens=8)
    said = Answerer(zoo_members, [task], "test", 3).answers(math)["own"]
    assert [one.item for one in said] == list(task.items("test")[:3])
    assert all(one.score == (one.text.strip() == one.item.reference.strip()) for one in said)
    assert any(one.score == 1 for one in said)
    # Of a multiple choice it is the choice that is most likely.
    task = build(zoo_pool, write(CHOOSE, "{{gold}}"))
    said = Answerer(zoo_members, [task], "test", 5).answers(math)["own"]
    assert all(one.score == (one.text == one.item.reference) for one in said)
    assert any(one.score == 1 for one in said)
