"""Multiple choice by likelihood: as the lm-evaluation-harness has it, and without generating."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import HarnessSettings
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.evaluation.texts import Answerer
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.build import build_tasks
from hm3rl.tasks.jsonl import JsonlTask
from hm3rl.tasks.math import MathTask


def docs() -> list[dict[str, object]]:
    """Arithmetic with wrong answers that are likely, and longer or shorter than the right one."""
    items = MathTask(n_search=60, n_test=60).items("search")
    found = []
    for place, item in enumerate(items):
        right, near = item.reference, items[place - 1].reference
        choices = list(dict.fromkeys([right, near, f"{right} {near}", f"{near} 1 {right}", "7"]))
        turned = choices[place % len(choices) :] + choices[: place % len(choices)]
        found.append({"question": item.prompt, "choices": turned, "gold": turned.index(right)})
    return found


DOCS = docs()
MODELS = (
    "math | math[0:8]",
    "translation | translation[0:8]",
    "math | math[0:5] + code[5] + math[6:8]",
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    lines = [
        {
            "prompt": doc["question"],
            "choices": [f" {choice}" for choice in doc["choices"]],
            "reference": doc["gold"],
        }
        for doc in DOCS
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def candidates() -> list[Candidate]:
    return [Candidate(LayerPath.parse(text)) for text in MODELS]


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
@pytest.mark.parametrize(("ours", "theirs"), [("choice", "acc"), ("choice_norm", "acc_norm")])
def test_scores_are_those_of_the_harness(
    zoo_pool: ModelPool,
    zoo_members: MemberSet,
    store: EvaluationStore,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    ours: str,
    theirs: str,
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", own.parent / "cache")
    data, spec = own.parent / "docs.jsonl", own.parent / "own_choices.yaml"
    data.write_text("\n".join(map(json.dumps, DOCS)), encoding="utf-8")
    spec.write_text(
        f"task: own_choices\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\n"
        "doc_to_choice: choices\ndoc_to_target: '{{gold}}'\nmetric_list:\n"
        + "".join(
            f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n"
            for name in ("acc", "acc_norm")
        )
    )
    settings = HarnessSettings(kind="lm_eval", lm_eval=str(spec), metric=theirs)
    (harness,) = build_tasks({"own": settings}, EvaluationSettings(), zoo_pool.tokenizer)
    task = JsonlTask("own", own, metric=ours)
    expected = Evaluator(zoo_members, [harness], store).evaluate(candidates(), "test")
    found = Evaluator(zoo_members, [task], store).evaluate(candidates(), "test")
    assert [i.prompt for i in task.items("test")] == [i.prompt for i in harness.items("test")]
    for mine, other in zip(found, expected, strict=True):
        assert mine.per_item["own"].tolist() == other.per_item["own"].tolist()
    assert 0 < found[1].scores[0] < 1  # a model that is not sure tells two ways of scoring apart


def test_one_metric_decides_and_the_other_is_reported(
    zoo_members: MemberSet, store: EvaluationStore, own: Path
) -> None:
    both = JsonlTask("own", own, also=["choice_norm"])
    by_length = JsonlTask("own", own, metric="choice_norm")
    assert both.metric == "choice"  # the lines have choices
    found = Evaluator(zoo_members, [both], store).evaluate(candidates(), "test", secondary=True)
    other = Evaluator(zoo_members, [by_length], store).evaluate(candidates(), "test")
    reported = [(one.secondary or {})["own"]["choice_norm"] for one in found]
    assert reported == pytest.approx([one.scores[0] for one in other])
    assert [one.scores for one in found] != [one.scores for one in other]


def test_nothing_is_generated_and_parts_of_the_items_are_scored_alike(
    zoo_members: MemberSet, store: EvaluationStore, own: Path
) -> None:
    evaluator = Evaluator(zoo_members, [JsonlTask("own", own)], store)
    some = evaluator.evaluate(candidates(), fidelity="items:0.4")
    assert evaluator.totals.decoded == 0
    alone = Evaluator(zoo_members, [JsonlTask("own", own)], EvaluationStore(":memory:"))
    for one, (whole,) in zip(some, ([e] for e in alone.evaluate(candidates())), strict=True):
        numbers = one.items["own"]
        assert len(numbers) < len(whole.items["own"])
        assert np.array_equal(one.per_item["own"], whole.per_item["own"][numbers])
        assert np.allclose(one.per_item_nll["own"], whole.per_item_nll["own"][numbers], rtol=1e-5)
    # A teacher-forced pass is all there is, so a proxy is the score itself.
    proxies = alone.evaluate(candidates(), fidelity="proxy")
    assert [p.scores for p in proxies] == [e.scores for e in alone.evaluate(candidates())]


def test_a_likelihood_is_the_sum_over_a_choices_tokens_after_the_prompt(
    zoo_pool: ModelPool, zoo_members: MemberSet, store: EvaluationStore, own: Path
) -> None:
    task = JsonlTask("own", own)
    (found,) = Evaluator(zoo_members, [task], store).evaluate(candidates()[:1])
    request = Request.build(task, "search", zoo_pool.tokenizer, 8)
    assert len(request.encoded) == sum(len(item.choices) for item in request.items)
    item = request.items[3]
    row = request.encoded[request.rows(3)[item.choices.index(item.reference)]]
    ids = torch.tensor([[*row.prompt, *row.answer]])
    with torch.inference_mode():
        logs = zoo_pool.model("math")(ids).logits[0].log_softmax(-1)
    tokens = range(len(row.prompt), ids.shape[1])
    mean = -sum(float(logs[at - 1, ids[0, at]]) for at in tokens) / len(tokens)
    assert found.per_item_nll["own"][3] == pytest.approx(mean, rel=1e-4)


def test_what_a_model_takes_is_its_answer(zoo_members: MemberSet, own: Path) -> None:
    task = JsonlTask("own", own)
    said = Answerer(zoo_members, [task], "search", 6).answers(candidates()[0])["own"]
    assert [one.item for one in said] == list(task.items("search")[:6])
    assert all(one.text in one.item.choices for one in said)
    assert all(one.score == (one.text == one.item.reference) for one in said)
