"""Language models that are asked in words: one behind an endpoint, or one that is run here.

`Conversation` asks, tries again a bounded number of times, and writes every question and answer
down. What is written is an answer for good: a resumed search asks nobody again what it asked
before, since no model says the same twice. A key is taken from the environment, and is neither in a
configuration, nor in a message, nor in what is written.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import torch
from transformers import AutoTokenizer

from hm3rl.config.searchers import LanguageModelSettings
from hm3rl.errors import InputError, MachineError
from hm3rl.files import write_text
from hm3rl.models.hashing import short_hash
from hm3rl.models.loading import load_model
from hm3rl.models.source import read_source
from hm3rl.models.zoo import resolve_source

KEY = "OPENAI_API_KEY"
"""Environment variable with the endpoint's key; a server of one's own may need none."""

PAUSE = 1.0
"""Seconds before an endpoint that gave no answer is asked again; twice as many each time."""

Message = Mapping[str, str]
"""`role` (user, assistant) and `content`."""

T = TypeVar("T")


class NoAnswer(Exception):
    """Nothing came back, or something that is no answer: time ran out, a status, no connection."""


class BadAnswer(Exception):
    """An answer that cannot be used: why, in words that the model is told."""


class LanguageModel(Protocol):
    """Answers the last message of a conversation."""

    def answer(self, messages: Sequence[Message]) -> str:
        """The answer.

        Raises:
            NoAnswer: There is none.
            BadAnswer: It refused.
        """
        ...


def check_model(settings: LanguageModelSettings, key: str) -> None:
    """Refuse a language model that cannot be asked; nothing is loaded or connected to.

    Args:
        settings: The model.
        key: Where these stand, such as `search.llm`.

    Raises:
        InputError: Names the key and the way out.
    """
    if not settings.model:
        raise InputError(
            f"{key}.model is empty",
            f"name a folder of a transformers model, or give {key}.endpoint and a model's name",
        )
    if not settings.endpoint:
        return
    parts = urlsplit(settings.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"{key}.endpoint is no address of a server",
            "give one such as http://localhost:8000/v1",
        )
    if "@" in parts.netloc or parts.query:
        raise InputError(
            f"{key}.endpoint holds more than an address, and would be written into the run",
            f"put the key into the environment variable {KEY}",
        )
    if find_spec("openai") is None:
        raise InputError(
            f"{key}.endpoint needs openai, which is not installed",
            f"pip install 'hm3rl[llm]', or use a local model: {key}.endpoint='' {key}.model=FOLDER",
        )


class Endpoint:
    """A server that speaks OpenAI's chat completions.

    Args:
        settings: Its address, the model's name there, and how long it may take.
    """

    def __init__(self, settings: LanguageModelSettings) -> None:
        from openai import OpenAI  # an extra

        self._settings = settings
        self._key = os.environ.get(KEY, "")
        self._client = OpenAI(
            api_key=self._key or "none",
            base_url=settings.endpoint,
            timeout=settings.timeout,
            max_retries=0,  # `Conversation` tries again, and writes down what failed
        )

    def answer(self, messages: Sequence[Message]) -> str:
        """See `LanguageModel.answer`."""
        from openai import OpenAIError

        try:
            reply: Any = self._client.chat.completions.create(
                model=self._settings.model,
                messages=[dict(message) for message in messages],
                max_tokens=self._settings.tokens,
            )
        except (OpenAIError, ValueError) as error:
            raise NoAnswer(self._without_key(f"{type(error).__name__}: {error}")) from None
        choices = getattr(reply, "choices", None)
        if not choices:
            raise NoAnswer("the reply is no chat completion")
        message = choices[0].message
        if getattr(message, "refusal", None):
            raise BadAnswer(f"it was refused: {self._without_key(str(message.refusal))}")
        if not message.content:
            raise BadAnswer("it is empty")
        return self._without_key(str(message.content))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class LocalModel:
    """A transformers model of a local folder, on the CPU, sampled at temperature 1.

    Args:
        settings: Its folder, and how long answers may be.
        seed: Seeds its answers.

    Raises:
        InputError: There is no such model.
    """

    def __init__(self, settings: LanguageModelSettings, seed: int) -> None:
        folder = resolve_source(settings.model)
        self._label = f"the language model {settings.model}"
        config = read_source(self._label, folder).config
        self._model = load_model(self._label, folder, config, torch.float32, "cpu")
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tokens = settings.tokens
        self._seed = seed
        self._asked = 0

    def answer(self, messages: Sequence[Message]) -> str:
        """See `LanguageModel.answer`.

        Raises:
            InputError: The question is longer than what the model can read.
        """
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
            asked = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:  # a model that only continues texts
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            asked = self._tokenizer(text, return_tensors="pt")
        length = asked["input_ids"].shape[1]
        most = getattr(self._model.config, "max_position_embeddings", None)
        if most is not None and length + self._tokens > most:
            raise InputError(
                f"{self._label} reads {most} tokens, and a question with its answer has {length} "
                f"and {self._tokens}",
                "use a model that reads more, or fewer search.groups or search.llm.tokens",
            )
        self._asked += 1
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(self._seed * 1_000_003 + self._asked)
            said = self._model.generate(  # type: ignore[operator]
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                max_new_tokens=self._tokens,
                do_sample=True,
                temperature=1.0,
                pad_token_id=self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(said[0, length:], skip_special_tokens=True))


def open_model(settings: LanguageModelSettings, seed: int) -> LanguageModel:
    """The model of some settings, connected to or loaded.

    Args:
        settings: The model.
        seed: Seeds the answers of one that is run here.
    """
    return Endpoint(settings) if settings.endpoint else LocalModel(settings, seed)


class Conversation:
    """Asks a language model, and writes down what was said.

    Args:
        settings: The model, and how often it is asked again.
        transcript: File of JSON lines that takes every question and answer; None: they are lost.
        open_model: Gives the model when it is first needed.
    """

    def __init__(
        self,
        settings: LanguageModelSettings,
        transcript: Path | None,
        open_model: Callable[[], LanguageModel],
    ) -> None:
        self._settings = settings
        self._transcript = transcript
        self._open = open_model
        self._model: LanguageModel | None = None
        self._said: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        if transcript is not None:
            lines = _whole_lines(transcript)
            for line in lines:
                if not line["lost"]:
                    self._said[short_hash(line["messages"])].append(line)
            write_text(transcript, "".join(json.dumps(line) + "\n" for line in lines))

    def ask(self, question: str, read: Callable[[str], T]) -> T | None:
        """Ask until an answer can be used.

        Args:
            question: The question.
            read: What makes something of an answer, or raises `BadAnswer`.

        Returns:
            What `read` made of it; None if no answer could be used.

        Raises:
            MachineError: Nothing came back, as often as it was tried.
        """
        messages: list[Message] = [{"role": "user", "content": question}]
        for _ in range(1 + self._settings.retries):
            text, fault = self._answer(messages, read)
            if not fault:
                return read(text)
            messages = [
                *messages,
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"This cannot be used: {fault}. Try again."},
            ]
        return None

    def _answer(self, messages: list[Message], read: Callable[[str], Any]) -> tuple[str, str]:
        """An answer, and what is wrong with it, if anything."""
        if before := self._said[short_hash(messages)]:
            line = before.pop(0)
            return line["answer"], line["fault"]
        lost = ""
        for attempt in range(1 + self._settings.retries):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            begun, text, fault = time.perf_counter(), "", ""
            try:
                if self._model is None:
                    self._model = self._open()
                text = self._model.answer(messages)
                read(text)
            except NoAnswer as error:
                lost = str(error)
                self._write(messages, "", lost, begun, lost=True)
                continue
            except BadAnswer as error:
                fault = str(error)
            self._write(messages, text, fault, begun)
            return text, fault
        raise MachineError(
            f"the language model {self._settings.model} gave no answer, asked "
            f"{1 + self._settings.retries} times: {lost}"
        )

    def _write(
        self, messages: list[Message], text: str, fault: str, begun: float, lost: bool = False
    ) -> None:
        if self._transcript is None:
            return
        line = {
            "model": self._settings.model,
            "messages": messages,
            "answer": text,
            "fault": fault,
            "lost": lost,
            "seconds": round(time.perf_counter() - begun, 3),
        }
        with self._transcript.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """Lines of a transcript; a process that was killed may leave half of one at the end."""
    if not file.is_file():
        return []
    found = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found.append(line)
    return found
