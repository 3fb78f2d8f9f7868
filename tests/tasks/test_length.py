"""The length of answers as an objective."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from hm3rl.config.compose import compose_settings
from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import AnswerLengthSettings, SizedTaskSettings, TaskSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.costs import minimised
from hm3rl.models.pool import ModelPool
from hm3rl.run.build import check_settings
from hm3rl.run.job import SearchResult
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import build_tasks


@pytest.fixture
def tokenizer(tiny_pool: ModelPool) -> PreTrainedTokenizerBase:
    return tiny_pool.tokenizer


def build(tokenizer: PreTrainedTokenizerBase, of: str = "math") -> tuple[Task, ...]:
    tasks: dict[str, TaskSettings] = {
        "length": AnswerLengthSettings("answer_length", of=of),
        "math": SizedTaskSettings("math", search_items=5, test_items=4, max_new_tokens=4),
    }
    return build_tasks(tasks, EvaluationSettings(), tokenizer)


def test_tokens_and_the_end_are_a_share_of_the_limit(tokenizer: PreTrainedTokenizerBase):
    length, math = build(tokenizer)
    assert length.items("search") == math.items("search") and len(length.items("test")) == 4
    # Nothing but the end; two tokens and the end; cut at the limit, after four.
    outputs = ["", "w1 w2", "w1 w2 w3 w4"]
    assert length.score(length.items("search")[:3], outputs) == [0.25, 0.75, 1.0]
    assert length.score([], []) == []


def test_readers_are_shown_tokens(tokenizer: PreTrainedTokenizerBase):
    (found,) = minimised(build(tokenizer), ()).values()
    assert (found.worst, found.unit) == (4.0, "tokens")
    assert found.cost(0.25) == 3.0


def test_answers_of_no_task_are_refused(tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(InputError, match=r"tasks.length.of='sums' is no task(.|\n)*math"):
        build(tokenizer, of="sums")
    with pytest.raises(InputError, match=r"tasks.length.of='length' is no task"):
        build(tokenizer, of="length")


def test_proxies_have_no_answers():
    words = ["+tasks.length.kind=answer_length", "tasks.length.of=math"]
    with pytest.raises(InputError, match=r"evaluation.fidelity=proxy with the objective length"):
        check_settings(compose_settings([*words, "evaluation.fidelity=proxy"]))


def test_a_search_trades_a_score_for_short_answers(searched: Callable[..., SearchResult]):
    words = ("+tasks.length.kind=answer_length", "tasks.length.of=math")
    result = searched("budget=8", "search=parameter_only", *words)
    problem = result.problem
    assert problem.objectives == ("translation", "math", "code", "length")
    limit = problem.evaluator.tasks[1].max_new_tokens
    for point in problem.trace:
        found = problem.evaluation(point.key)
        tokens = limit * (1 - found.per_item["length"])
        assert np.allclose(tokens, tokens.round()) and (tokens >= 1).all()
        error = tokens.std(ddof=1) / limit / np.sqrt(len(tokens))
        assert found.standard_errors[3] == pytest.approx(error, abs=1e-6)
    assert result.summary["minimised"]["length"] == {"worst": float(limit), "unit": "tokens"}
