"""Asking a language model: faults, how often, and what is written down."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hm3rl.config.searchers import LanguageModelSettings
from hm3rl.errors import InputError, MachineError
from hm3rl.models.zoo import zoo_folder
from hm3rl.search import language_model
from hm3rl.search.language_model import (
    BadAnswer,
    Conversation,
    Endpoint,
    LocalModel,
    NoAnswer,
    check_model,
)
from tests.search.chat_server import Reply, chat_server

KEY = "sk-never-to-be-seen"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "PAUSE", 0.0)


class Scripted:
    """Says one thing after the other, or raises it."""

    def __init__(self, *said: str | Exception) -> None:
        self.said = list(said)
        self.asked: list[list[dict[str, str]]] = []

    def answer(self, messages: Sequence[Any]) -> str:
        self.asked.append([dict(message) for message in messages])
        found = self.said.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def settings(**changes: Any) -> LanguageModelSettings:
    return LanguageModelSettings(**{"model": "m", "retries": 2, **changes})


def number_of(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadAnswer("it is no number") from None


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_bad_answer_is_told_to_the_model_and_asked_again(tmp_path: Path):
    model = Scripted("seven", BadAnswer("it was refused: no"), "7")
    conversation = Conversation(settings(), tmp_path / "said.jsonl", lambda: model)
    assert conversation.ask("a number?", number_of) == 7
    first, second, third = model.asked
    assert [m["content"] for m in first] == ["a number?"]
    assert second[1:] == [
        {"role": "assistant", "content": "seven"},
        {"role": "user", "content": "This cannot be used: it is no number. Try again."},
    ]
    assert "it was refused: no" in third[-1]["content"]
    said = [(line["answer"], line["fault"]) for line in lines(tmp_path / "said.jsonl")]
    assert said == [("seven", "it is no number"), ("", "it was refused: no"), ("7", "")]
    assert [line["messages"] for line in lines(tmp_path / "said.jsonl")] == model.asked


def test_answers_that_stay_bad_are_none_after_as_many_tries_as_allowed():
    model = Scripted("a", "b", "c", "7")
    assert Conversation(settings(), None, lambda: model).ask("a number?", number_of) is None
    assert model.said == ["7"]


def test_no_answer_is_tried_again_and_then_ends_the_search(tmp_path: Path):
    model = Scripted(NoAnswer("time ran out"), "7", *[NoAnswer("status 503")] * 3)
    conversation = Conversation(settings(), tmp_path / "said.jsonl", lambda: model)
    assert conversation.ask("a number?", number_of) == 7
    with pytest.raises(MachineError, match="model m gave no answer, asked 3 times: status 503"):
        conversation.ask("another?", number_of)
    found = [(line["lost"], line["fault"]) for line in lines(tmp_path / "said.jsonl")]
    assert found == [(True, "time ran out"), (False, ""), *[(True, "status 503")] * 3]


def test_who_goes_on_is_told_what_was_said_before_and_asks_nobody(tmp_path: Path):
    file = tmp_path / "said.jsonl"
    model = Scripted(NoAnswer("time ran out"), "seven", "7", "8", NoAnswer("gone"))
    first = Conversation(settings(retries=1), file, lambda: model)
    assert [first.ask("a number?", number_of), first.ask("a number?", number_of)] == [7, 8]
    file.write_text(file.read_text() + '{"model": "m", "mess')  # it was killed while it wrote
    silent = Scripted("9")
    again = Conversation(settings(retries=1), file, lambda: silent)
    assert [again.ask("a number?", number_of), again.ask("a number?", number_of)] == [7, 8]
    assert not silent.asked
    assert again.ask("a number?", number_of) == 9
    assert [line["answer"] for line in lines(file)] == ["", "seven", "7", "8", "9"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": ""}, "search.llm.model is empty"),
        ({"endpoint": "localhost:8000"}, "no address of a server"),
        ({"endpoint": "http://"}, "no address of a server"),
        ({"endpoint": f"https://user:{KEY}@host/v1"}, language_model.KEY),
        ({"endpoint": f"https://host/v1?api_key={KEY}"}, language_model.KEY),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused(changes: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named) as caught:
        check_model(settings(**changes), "search.llm")
    assert KEY not in str(caught.value)


def test_a_missing_client_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(language_model, "find_spec", lambda name: None)
    check_model(settings(), "search.llm")  # a local model needs none
    with pytest.raises(InputError, match=r"needs openai(.|\n)*hm3rl\[llm\]"):
        check_model(settings(endpoint="http://localhost/v1"), "search.llm")


def endpoint(address: str, **changes: Any) -> Endpoint:
    pytest.importorskip("openai")
    return Endpoint(settings(endpoint=address, **changes))


HELLO = [{"role": "user", "content": "hello"}]


def test_an_endpoint_is_asked_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(language_model.KEY, KEY)
    with chat_server(lambda asked: Reply(f"you said {asked['messages'][0]['content']}")) as server:
        assert endpoint(server.endpoint, tokens=99).answer(HELLO) == "you said hello"
    (asked,) = server.asked
    assert (asked["path"], asked["model"], asked["max_tokens"]) == ("/v1/chat/completions", "m", 99)
    assert server.keys == [f"Bearer {KEY}"]


def test_an_endpoint_without_a_key_is_asked_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(language_model.KEY, raising=False)
    with chat_server(lambda asked: Reply("yes")) as server:
        assert endpoint(server.endpoint).answer(HELLO) == "yes"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("late", wait=1.0), "APITimeoutError"),
        (Reply("busy", status=429), "RateLimitError(.|\n)*busy"),
        (Reply("broken", status=500), "InternalServerError(.|\n)*broken"),
        (Reply("who are you", status=401), "AuthenticationError(.|\n)*who are you"),
        (Reply(body="<html>it works</html>"), "Error"),
        (Reply(body="{}"), "no chat completion"),
        (Reply(body='{"choices": []}'), "no chat completion"),
    ],
)
def test_what_an_endpoint_does_not_answer(reply: Reply, said: str):
    with chat_server(lambda asked: reply) as server:
        with pytest.raises(NoAnswer, match=said):
            endpoint(server.endpoint, timeout=0.2).answer(HELLO)
    assert len(server.asked) == 1


def test_an_endpoint_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NoAnswer, match="APIConnectionError"):
        endpoint(f"http://127.0.0.1:{port}/v1").answer(HELLO)


@pytest.mark.parametrize(
    ("reply", "said"),
    [(Reply(refusal="I can't"), "refused: I can't"), (Reply(""), "empty"), (Reply(), "empty")],
)
def test_what_an_endpoint_refuses(reply: Reply, said: str):
    with chat_server(lambda asked: reply) as server:
        with pytest.raises(BadAnswer, match=said):
            endpoint(server.endpoint).answer(HELLO)


def test_a_key_that_a_server_repeats_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(language_model.KEY, KEY)
    replies = [Reply(f"bad key {KEY}", status=401), Reply(refusal=KEY), Reply(f"{KEY} is yours")]
    with chat_server(lambda asked: replies.pop(0)) as server:
        asked = settings(endpoint=server.endpoint)
        model = endpoint(server.endpoint)
        conversation = Conversation(asked, tmp_path / "said.jsonl", lambda: model)
        assert conversation.ask("a number?", len) == len("*** is yours")
    text = (tmp_path / "said.jsonl").read_text()
    assert KEY not in text and text.count("***") == 4  # the refusal is told to the model


def test_a_local_model_answers_as_its_seed_says():
    folder = str(zoo_folder("base"))
    asked = settings(model=folder, tokens=4)
    before = torch.get_rng_state()
    one, same, other = (LocalModel(asked, seed) for seed in (0, 0, 1))
    question = [{"role": "user", "content": "1 2"}]
    said = [[model.answer(question) for _ in range(3)] for model in (one, same, other)]
    assert said[0] == said[1] != said[2]
    assert (torch.get_rng_state() == before).all()


def test_a_question_that_a_local_model_cannot_read_is_named():
    model = LocalModel(settings(model="zoo:base", tokens=4), 0)
    with pytest.raises(InputError, match=r"zoo:base reads \d+ tokens(.|\n)*search.groups"):
        model.answer([{"role": "user", "content": "1 " * 5000}])


def test_a_local_model_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="language model"):
        LocalModel(settings(model=str(tmp_path / "nothing")), 0)
