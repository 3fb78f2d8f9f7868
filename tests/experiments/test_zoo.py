"""The zoo's tokenizer, training text and training loop, on two-layer models."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from experiments.zoo.corpus import IGNORED, Mixture, encode
from experiments.zoo.publish import publish
from experiments.zoo.settings import LENGTHS, MORE, NAMES, ZooSettings, all_tasks, zoo_tasks
from experiments.zoo.tokenizer import build_tokenizer
from experiments.zoo.train import train_lengths, train_more
from experiments.zoo.training import Schedule, train
from hm3rl.models.zoo import zoo_folder
from hm3rl.tasks.synthetic_text import SyntheticTask

TASKS = zoo_tasks()
ALL = all_tasks()
TOKENIZER = build_tokenizer(tuple(TASKS.values()))
SHIPPED = {
    "base": "fb666a81f011aefe",
    "translation": "39a2f1868794371a",
    "math": "67ed042ebf81f5a3",
    "code": "38dc1c4b6762413c",
}
"""Weights that every committed result was measured with."""

SMALL = ZooSettings(hidden=16, intermediate=32, layers=2, heads=2)


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(SMALL.llama(len(TOKENIZER)))


def mixture(seed: int = 1) -> Mixture:
    return Mixture(TASKS, SMALL.shares("math"), TOKENIZER, pool_size=200, seed=seed)


@pytest.mark.parametrize("task", list(TASKS))
def test_tokenizer_gives_texts_back(task: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        item = TASKS[task].draw(rng, "full")
        for text in (item.prompt, item.reference):
            ids = TOKENIZER(text)["input_ids"]
            assert TOKENIZER.unk_token_id not in ids
            assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_labels_are_the_answer_and_the_end_token() -> None:
    items = TASKS["code"].items("train")[:20]
    batch = encode(items, TOKENIZER)
    for row, item in enumerate(items):
        prompt = TOKENIZER(item.prompt)["input_ids"]
        wanted = batch.labels[row] != IGNORED
        labels = batch.labels[row][wanted].tolist()
        assert TOKENIZER.decode(labels) == f"{item.reference} </s>"
        assert int(wanted.nonzero()[0]) == len(prompt) - 1
        following = batch.ids[row, len(prompt) : len(prompt) + len(labels) - 1].tolist()
        assert following == labels[:-1]


def test_no_sampled_training_batch_holds_a_held_out_prompt() -> None:
    held_out = {
        item.prompt
        for task in ALL.values()
        for split in ("search", "test")
        for item in task.items(split)  # type: ignore[arg-type]
    }
    for name in (*NAMES, *MORE):
        text = Mixture(ALL, SMALL.shares(name), TOKENIZER, pool_size=1500, seed=3)
        for _ in range(20):
            for batch in text.draw(96):
                for row in TOKENIZER.batch_decode(batch.ids):
                    assert f"{row.split(' =')[0]} =" not in held_out


def test_shares_sum_to_one_and_experts_get_their_whole_task() -> None:
    for name in MORE:
        shares = SMALL.shares(name)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert shares[(name, "full")] == max(shares.values())
    for name in NAMES:
        shares = SMALL.shares(name)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(share >= 0 for share in shares.values())
        for task in TASKS:
            assert (shares[(task, "full")] > 0.5) == (task == name)


def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    schedule = Schedule(steps=12, rows=16, learning_rate=1e-3, warmup=2, average=0.5, pool=200)
    whole, log = train(small_model(), mixture(), schedule, tmp_path / "a.pt", _nothing, every=4)

    def stop_at_eight(model: LlamaForCausalLM) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {}

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), mixture(), schedule, tmp_path / "b.pt", stop_at_eight, every=4)
    again, _ = train(small_model(), mixture(), schedule, tmp_path / "b.pt", _nothing, every=4)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert [row["step"] for row in log] == [4.0, 8.0, 12.0]
    assert log[-1]["loss"] < log[0]["loss"]


def _nothing(model: LlamaForCausalLM) -> dict[str, float]:
    return {}


def test_another_schedule_does_not_continue_a_checkpoint(tmp_path: Path) -> None:
    first = Schedule(steps=2, rows=8, learning_rate=1e-3, pool=200)
    train(small_model(), mixture(), first, tmp_path / "a.pt", _nothing)
    second = Schedule(steps=2, rows=8, learning_rate=2e-3, pool=200)
    with pytest.raises(ValueError, match="another schedule"):
        train(small_model(), mixture(), second, tmp_path / "a.pt", _nothing)


def test_published_folder_loads_with_plain_transformers(tmp_path: Path) -> None:
    model = small_model().eval()
    for card in ("old", "new"):
        publish(model, TOKENIZER, [{"step": 1.0}], card, tmp_path / "m")
    assert (tmp_path / "m" / "README.md").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert loaded.dtype == torch.bfloat16
    ids = torch.tensor([TOKENIZER("compute 1 2 3 + 4 5 6 =")["input_ids"]])
    with torch.no_grad():
        near = loaded.float()(ids).logits - model(ids).logits
    assert float(near.abs().max()) < 0.05
    assert AutoTokenizer.from_pretrained(tmp_path / "m").get_vocab() == TOKENIZER.get_vocab()


def test_shipped_models_share_the_tokenizer_and_stay_small() -> None:
    folders = [zoo_folder(name) for name in (*NAMES, *MORE, *LENGTHS)]
    for folder in folders:
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == TOKENIZER.get_vocab()
    total = sum(file.stat().st_size for folder in folders for file in folder.rglob("*"))
    assert total < 8 * 2**20


def test_every_expert_is_the_best_of_its_task() -> None:
    scores = np.array([[_exact(name, task) for task in NAMES[1:]] for name in NAMES])
    assert (scores[1:].argmax(axis=0) == np.arange(3)).all()
    assert (np.diag(scores[1:]) >= 0.95).all()
    assert ((scores[0] > 0.15) & (scores[0] < 0.55)).all()


def test_the_later_experts_master_their_task_and_the_base_knows_neither() -> None:
    scores = np.array([[_exact(name, task) for task in MORE] for name in (*MORE, "base")])
    assert (np.diag(scores) >= 0.95).all()
    assert (scores[-1] < 0.05).all()
    # A little of each other's task, or no merge of all five could have a volume.
    assert ((scores[[0, 1], [1, 0]] > 0.02) & (scores[[0, 1], [1, 0]] < 0.6)).all()


def test_the_first_four_models_are_those_that_were_measured() -> None:
    for name, digits in SHIPPED.items():
        weights = (zoo_folder(name) / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest().startswith(digits), name


def test_later_experts_train_from_the_published_base(tmp_path: Path) -> None:
    start = small_model()
    publish(start, TOKENIZER, [{"step": 1.0}], "card", tmp_path / "zoo" / "base")
    before = (tmp_path / "zoo" / "base" / "model.safetensors").read_bytes()
    few = replace(SMALL, more=Schedule(steps=2, rows=8, learning_rate=1e-3, pool=200))
    train_more(few, tmp_path / "work", tmp_path / "zoo")
    assert (tmp_path / "zoo" / "base" / "model.safetensors").read_bytes() == before
    for name in MORE:
        card = (tmp_path / "zoo" / name / "README.md").read_text()
        assert f"the whole {name} task" in card and "--more" in card
        trained = AutoModelForCausalLM.from_pretrained(tmp_path / "zoo" / name)
        assert trained.config.num_hidden_layers == SMALL.layers


def test_one_expert_thinks_and_is_right_the_other_is_short_and_less_often() -> None:
    scores = [_exact(name, make()) for name, make in LENGTHS.items()]
    assert scores[0] >= 0.95 > 0.7 > scores[1] > 0.3
    thinking, short = (make() for make in LENGTHS.values())
    assert _exact("thinking", short) == _exact("short", thinking) == 0  # neither does as the other
    assert max(_exact("base", task) for task in (thinking, short)) == 0


def test_experts_of_two_lengths_train_from_the_published_base(tmp_path: Path) -> None:
    publish(small_model(), TOKENIZER, [{"step": 1.0}], "card", tmp_path / "zoo" / "base")
    two = Schedule(steps=2, rows=8, learning_rate=1e-3, pool=200)
    train_lengths(replace(SMALL, thinking=two, short=two), tmp_path / "work", tmp_path / "zoo")
    cards = [(tmp_path / "zoo" / name / "README.md").read_text() for name in LENGTHS]
    assert "worked out" in cards[0] and "at once" in cards[1]


def _exact(name: str, task: str | SyntheticTask) -> float:
    """Teacher-forced exact match on the first 100 search items."""
    model = AutoModelForCausalLM.from_pretrained(zoo_folder(name), dtype=torch.float32)
    asked = ALL[task] if isinstance(task, str) else task
    batch = encode(asked.items("search")[:100], TOKENIZER)
    wanted = batch.labels != IGNORED
    with torch.no_grad():
        guesses = model(batch.ids).logits.argmax(-1)
    return float(((guesses == batch.labels) | ~wanted).all(dim=1).float().mean())
