"""Prompts through a tokenizer's chat template, which is somebody's program: it may fail or not end.

Its steps are counted, not its seconds, so that the same file is refused or accepted everywhere.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from hm3rl.errors import InputError

STEPS = 1_000_000
"""Most lines of a template that one prompt may execute; real ones take a hundred a message."""

CHARACTERS = 10_000_000
"""Longest prompt; no model takes so many."""

TEMPLATE = "<template>"
"""What jinja calls the source of a template that was given as text."""


class TooManySteps(Exception):
    """A template executes more than `STEPS` lines for one prompt."""


def require_template(task: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        InputError: It has none.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"task {task!r} asks for a chat template, but the model's tokenizer has none",
            f"set tasks.{task}.chat_template=false and write prompts in the model's own format",
        )


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]], where: str, instead: str
) -> str:
    """Write messages as the model was trained to read them, ready for its answer.

    Args:
        tokenizer: Has a chat template.
        messages: Each with `role` and `content`.
        where: Where the messages stand, for the message.
        instead: How to do without a template.

    Returns:
        The prompt.

    Raises:
        InputError: The template cannot be parsed, raises, does not end, or writes no text.
    """
    try:
        with counted_steps():
            prompt = str(
                tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True
                )
            )
    except TemplateSyntaxError as error:
        raise InputError(
            f"{_place(tokenizer, error.lineno)} is no Jinja template: {error.message}",
            f"mend it, or {instead}",
        ) from None
    except Exception as error:  # a template may raise whatever an expression of its can
        last = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _is_template(f)]
        reason = str(error) or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "it calls itself without end"
        raise InputError(
            f"{where}: {_place(tokenizer, last[-1] if last else None)} fails for this prompt: "
            f"{next(iter(reason.splitlines()))}",
            f"write messages that the template takes, or {instead}",
        ) from None
    if len(prompt) > CHARACTERS:
        raise InputError(
            f"{where}: {_place(tokenizer, None)} writes {len(prompt):,} characters",
            f"mend it, or {instead}",
        )
    return prompt


def _is_template(frame: traceback.FrameSummary) -> bool:
    return frame.filename == TEMPLATE


def _place(tokenizer: PreTrainedTokenizerBase, line: int | None) -> str:
    """The template's file, with a line if it is known."""
    folder = Path(str(tokenizer.name_or_path))
    file = folder / "chat_template.jinja"
    if not file.is_file():
        # Older checkpoints have it as an entry, in which lines count from its own beginning.
        file = folder / "tokenizer_config.json"
        return f"{file}: chat_template" + ("" if line is None else f", line {line}")
    return f"{file}" + ("" if line is None else f", line {line}")


@contextmanager
def counted_steps() -> Iterator[None]:
    """Raise `TooManySteps` from the template that executes more than `STEPS` lines within."""
    steps = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps += 1
        if steps > STEPS:
            raise TooManySteps(f"it takes more than {STEPS:,} steps")
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename == TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)
