"""An answer that has left its reference is given up only if it cannot read like it any more."""

from __future__ import annotations

from itertools import product

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hm3rl.evaluation.spelling import Spelling, one_spelling, spelling_of
from hm3rl.models.pool import ModelPool
from hm3rl.tasks.metrics import normalise

WORDS = ["<end>", "Ġ", "a", "b", "Ã", "©", "ab", "Ġa", "Ã©", "Ċ"]
"""Pieces as byte-level vocabularies write them: Ġ a space, Ċ a new line, Ã and © the bytes of é."""


def fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerBase:
    """A tokenizer as models carry it."""
    wrapped: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special
    )
    return wrapped


@pytest.fixture
def byte_level() -> PreTrainedTokenizerBase:
    """A small byte-level vocabulary, as SmolLM2's is a large one."""
    vocab = {word: number for number, word in enumerate(WORDS)}
    merges = [("a", "b"), ("Ġ", "a"), ("Ã", "©")]
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return fast(tokenizer, eos_token="<end>")


def test_what_is_given_up_never_reads_like_the_reference(
    byte_level: PreTrainedTokenizerBase,
) -> None:
    """All answers of three tokens against all references of two, by their texts."""
    spelling = Spelling(byte_level)
    assert not spelling.one
    pieces = range(1, len(WORDS))
    answers = [a for n in (0, 1, 2, 3) for a in product(pieces, repeat=n)]
    texts = {a: normalise(byte_level.decode(list(a))) for a in answers}
    given_up = alike = 0
    for reference in product(pieces, repeat=2):
        wanted = (*reference, 0)
        for answer in answers:
            full = (*answer, 0)
            at = next((i for i, (x, y) in enumerate(zip(full, wanted, strict=False)) if x != y), -1)
            if at < 0:
                continue
            same = texts[answer] == texts[reference]
            differs = spelling.differs(wanted, at, full[at], {0})
            assert not (same and differs), (answer, reference)
            given_up += differs
            alike += same
    assert alike > 100 and given_up > 20_000


def test_the_clear_cases_are_told_at_once(byte_level: PreTrainedTokenizerBase) -> None:
    spelling = Spelling(byte_level)
    ids = byte_level.convert_tokens_to_ids
    ab = (*ids(["ab", "Ġa"]), 0)
    assert spelling.differs(ab, 0, ids("b"), {0})
    assert not spelling.differs(ab, 0, ids("a"), {0}), "ab may be spelled a b"
    assert not spelling.differs(ab, 0, ids("Ċ"), {0}), "white space is not compared"
    assert spelling.differs(ab, 1, 0, {0}), "an end too early"
    assert spelling.differs(ab, 2, ids("a"), {0}), "no end where there should be one"


def test_word_level_vocabularies_spell_in_one_way(tiny_pool: ModelPool) -> None:
    pieces = fast(Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])), eos_token="b")
    assert one_spelling(tiny_pool.tokenizer) and not one_spelling(pieces)
    spelling = spelling_of(tiny_pool.tokenizer)
    assert spelling is spelling_of(tiny_pool.tokenizer)
    assert spelling.differs((5, 6, 2), 0, 7, {2})
    special = next(iter(set(tiny_pool.tokenizer.all_special_ids) - {2}))
    assert not spelling.differs((5, 6, 2), 0, special, {2}), "special tokens vanish from the text"


@pytest.mark.parametrize("odd", ["\n", "two words", ""])
def test_words_that_hide_between_others_do_not_spell_in_one_way(odd: str) -> None:
    """Metrics collapse white space, so such a token may stand before the very reference."""
    words = {"a": 0, "b": 1}
    plain, hiding = (
        Tokenizer(models.WordLevel(vocab, unk_token="a")) for vocab in (words, {**words, odd: 2})
    )
    assert one_spelling(fast(plain))
    assert not one_spelling(fast(hiding))
    plain.decoder = decoders.Fuse()  # no spaces between words
    assert not one_spelling(fast(plain))


def test_decoders_that_change_texts_are_not_trusted() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<end>": 2}, []))
    tokenizer.decoder = decoders.Replace("ab", "b")
    spelling = Spelling(fast(tokenizer, eos_token="<end>"))
    assert not spelling.differs((1, 2), 0, 0, {2})
