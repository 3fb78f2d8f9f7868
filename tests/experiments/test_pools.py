"""The bench's tasks: what they draw, and who is sealed away from whom."""

from __future__ import annotations

import random

import pytest

from experiments.pools.settings import (
    DEVELOPMENT,
    EXPERTS,
    SEALED,
    SPARE,
    BenchSettings,
    bench_tasks,
)
from hm3rl.tasks.base import split_of

TASKS = bench_tasks(n_search=20, n_test=20)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_stays_within_its_vocabulary_and_its_limits(name: str) -> None:
    task, rng = TASKS[name], random.Random(0)
    known = set(task.words())
    for level in ("easy", "full"):
        for item in (task.draw(rng, level) for _ in range(150)):
            prompt, answer = item.prompt.split(), item.reference.split()
            assert known >= {*prompt, *answer} and answer
            assert len(answer) < task.max_new_tokens and len(prompt) + len(answer) < 62
            if task.metric == "exact_match":
                assert task.score([item, item], [item.reference, "?"]) == [1.0, 0.0]


@pytest.mark.parametrize("name", TASKS)
def test_training_text_holds_no_held_out_prompt(name: str) -> None:
    task = TASKS[name]
    held = {item.prompt for split in ("search", "test") for item in task.items(split)}
    text = task.training_items(200, "full", seed=1)
    assert len(held) == 40 and not held & {item.prompt for item in text}
    assert {split_of(name, item.prompt) for item in text} == {"train"}


def test_no_development_expert_has_a_sealed_task() -> None:
    sealed = [task for tasks in SEALED.values() for task in tasks]
    assert sorted([*DEVELOPMENT, *sealed, *SPARE]) == sorted(TASKS)
    assert {expert.task for expert in EXPERTS.values()} == {*DEVELOPMENT, *sealed}
    assert [len(tasks) for tasks in SEALED.values()] == [4, 4, 4] and len(EXPERTS) >= 28
    settings = BenchSettings()
    for name in DEVELOPMENT:
        full = {task for (task, level) in settings.expert_text(EXPERTS[name]) if level == "full"}
        assert name in full
    assert abs(sum(settings.text().values()) - 1) < 1e-9
