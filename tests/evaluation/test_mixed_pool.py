"""Candidates that no checkpoint can express are scored in process like any other."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.stack import Stack
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.paths.statistics import Calibration

PATHS = (
    "base | base[0] + b[1:3] + base[2]",
    "base | base[0] + b[1] + a[2]",
    "b | b[0:2] + base[1:3]",
    "a | a[0:2] + base[2]",
)


@pytest.fixture
def members(tmp_path, save_pool, tiny_config) -> MemberSet:
    llama = tiny_config()
    shape = {**llama.to_dict(), "num_attention_heads": 8, "intermediate_size": 24}
    mistral = MistralConfig(**{**shape, "sliding_window": 4, "model_type": "mistral"})
    assert isinstance(llama, LlamaConfig)
    one = save_pool(tmp_path / "one", llama, ("a",))
    two = save_pool(tmp_path / "two", mistral, ("a",))
    pool = ModelPool.load(one["base"], {"a": one["a"], "b": two["a"]}, architecture="mixed")
    return MemberSet(pool, calibration=Calibration.of([(5, 6, 7, 9), (8, 9)]))


@pytest.mark.parametrize("kind", ["none", "diagonal"])
def test_scores_are_those_of_plain_generation(members, tasks, store, kind):
    candidates = [
        Candidate(LayerPath.parse(text), alignment=members.alignment(kind)) for text in PATHS
    ]
    evaluator = Evaluator(members, tasks, store)
    found = evaluator.evaluate(candidates)
    tokenizer = members.pool.tokenizer
    for candidate, evaluation in zip(candidates, found, strict=True):
        assert evaluation.ok, evaluation.error
        model = assemble(candidate, members)
        for number, task in enumerate(tasks):
            items = task.items("search")
            outputs = []
            for item in items:
                ids = tokenizer(item.prompt, return_tensors="pt").input_ids
                answer = model.generate(
                    ids, max_new_tokens=task.max_new_tokens, do_sample=False, pad_token_id=0
                )[0, ids.shape[1] :]
                outputs.append(tokenizer.decode(answer, skip_special_tokens=True))
            scores = task.score(items, outputs)
            assert evaluation.scores[number] == pytest.approx(sum(scores) / len(scores))


def test_layers_that_are_called_differently_are_told_apart(tmp_path, save_pool):
    """One path leaves windows to the decoder's masks; the other has two, so layers see to them."""
    shape = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    kinds = ["sliding_attention", "full_attention"]
    one, two = (
        save_pool(
            tmp_path / str(window),
            Qwen2Config(
                **shape,
                num_key_value_heads=2,
                intermediate_size=window * 4,
                use_sliding_window=True,
                sliding_window=window,
                layer_types=kinds,
            ),
            ("a",),
        )
        for window in (6, 4)
    )
    pool = ModelPool.load(one["base"], {"a": one["a"], "b": two["a"]}, architecture="mixed")
    members = MemberSet(pool)
    plain, narrowing = (
        Stack.of_candidate(candidate, assemble(candidate, members))
        for candidate in map(
            Candidate, map(LayerPath.parse, ("a | a[0] + a[1]", "a | a[0] + b[0]"))
        )
    )
    assert plain.call_signature == narrowing.call_signature and plain.stem == narrowing.stem
    assert plain.kinds[0] != narrowing.kinds[0] and plain.keys[0] != narrowing.keys[0]
