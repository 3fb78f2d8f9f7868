"""What a score depends on besides the candidate: items, tokenizer, decoding, the scorer itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hm3rl.models.pool import ModelPool
from hm3rl.tasks.base import Split, Task
from hm3rl.tasks.suite import suite_version

SCORER_VERSION = "scorer-2"
"""Part of every suite's version; changes when a score could come out differently."""

USUAL_ATTENTION = "sdpa"
"""What transformers chooses for nearly every family."""


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what a tokenizer does, 16 hex digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    text += repr((tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.all_special_ids))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def attention_suffix(pool: ModelPool) -> str:
    """What the name of the backend gets for the attention implementation of the sources.

    Returns:
        Empty for `sdpa`, which rows of older versions mean; else `-eager`, or several names, of
        the implementations in the pool.
    """
    names = {pool.model(name).config._attn_implementation for name in pool.names}
    return "" if names <= {USUAL_ATTENTION} else "-" + "+".join(sorted(map(str, names)))


def scored_suite(tasks: Sequence[Task], split: Split, tokenizer: PreTrainedTokenizerBase) -> str:
    """Version of tasks, their items on a split, tokenizer and scorer, 16 hex digits."""
    return suite_version(tasks, split, tokenizer_fingerprint(tokenizer), SCORER_VERSION)
