"""The zoo's tokenizer: one token per word, shared by all four models."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hm3rl.tasks.synthetic_text import SyntheticTask

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
"""Padding, beginning, end and unknown, with the ids 0 to 3."""


def build_tokenizer(tasks: tuple[SyntheticTask, ...]) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer over the words of all tasks.

    Decoding joins tokens by one space, which is how the tasks write prompts and answers. Nothing
    is added around a text: a prompt begins with the word that names its task.
    """
    words = dict.fromkeys((*SPECIAL, *(word for task in tasks for word in task.words())))
    vocabulary = {word: index for index, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
