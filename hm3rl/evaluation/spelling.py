"""Whether an answer that has left its reference can still read like it.

Where anything but the reference scores 0, a row may stop at its first token that differs, provided
no other tokens spell the same text. A vocabulary of whole words spells every text in one way. Other
tokenizers spell most texts in many ways, but their texts are the texts of their tokens put
together: if the token taken is no beginning of what is left of the reference, no continuation
helps. White space is left out of the comparison, as scores ignore how much of it there is; that
errs towards decoding.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache

from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase

_JOINING = (
    {"type": "ByteLevel"},
    {"type": "Metaspace"},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " "},
    {"type": "Replace", "pattern": {"String": "\N{LOWER ONE EIGHTH BLOCK}"}, "content": " "},
)
"""Decoders that put the texts of tokens together, changing nothing but white space; parts of their
descriptions."""

_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


class Spelling:
    """Tells when an answer differs from its reference for good.

    Args:
        tokenizer: The models' tokenizer.

    Attributes:
        one: Whether different tokens always read differently.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.one = one_spelling(tokenizer)
        self._joins = _joins(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._added = frozenset(tokenizer.get_added_vocab().values())
        self._texts: dict[int, str] = {}

    def differs(self, reference: Sequence[int], at: int, taken: int, ends: Collection[int]) -> bool:
        """Whether no continuation can read like the reference, white space aside.

        Args:
            reference: Answer tokens and the end token.
            at: Place of the first token that differs.
            taken: The token taken there instead.
            ends: Tokens that end an answer.

        Returns:
            True only if it is certain.
        """
        if taken in ends:
            return self.one or bool(self._text(reference[at:-1]))
        if taken in self._special:  # vanishes from the text
            return False
        if self.one:
            return True
        if not self._joins or taken in self._added:
            return False
        left, text = self._text(reference[at:-1]), self._text([taken])
        if _UNREADABLE in text or _UNREADABLE in left[:1]:  # part of a character
            return False
        return not left.startswith(text)

    def _text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens without white space."""
        if len(tokens) == 1:
            (token,) = tokens
            if token not in self._texts:
                self._texts[token] = self._decoded(tokens)
            return self._texts[token]
        return self._decoded(tokens)

    def _decoded(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return "".join(str(text).split())


@lru_cache(maxsize=4)
def spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """The spelling of a tokenizer; looking a vocabulary through takes its time, so it is kept."""
    return Spelling(tokenizer)


def one_spelling(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether different tokens always read differently, as words with spaces between them do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, WordLevel) or backend.decoder is not None:
        return False
    return all(word.split() == [word] for word in tokenizer.get_vocab())


def _joins(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the text of an answer is the texts of its tokens put together."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    decoder = json.loads(backend.to_str())["decoder"]
    if decoder is None:
        return False
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return all(any(known.items() <= part.items() for known in _JOINING) for part in parts)
