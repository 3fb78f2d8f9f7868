"""Every number that decides what the tiny zoo becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import LlamaConfig

from experiments.zoo.training import Schedule
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sequences import ReversalTask, SortingTask
from hm3rl.tasks.sums import SumsTask, WorkedSumsTask
from hm3rl.tasks.synthetic_text import Level, SyntheticTask
from hm3rl.tasks.translation import TranslationTask

NAMES = ("base", "translation", "math", "code")
"""The four models; the experts are named after their tasks."""

MORE = ("sorting", "reversal")
"""Experts for pools of more than three, trained later from the published base."""


LENGTHS: dict[str, type[SumsTask]] = {"thinking": WorkedSumsTask, "short": SumsTask}
"""Experts for long to short, trained later from the published base on the same sums: one works
them out, the other answers at once."""


def zoo_tasks() -> dict[str, SyntheticTask]:
    """Return the three tasks by name, without a program runner."""
    tasks = (TranslationTask(), MathTask(), CodeTask())
    return {task.name: task for task in tasks}


def all_tasks() -> dict[str, SyntheticTask]:
    """Return all five tasks by name; the vocabulary is that of the first three."""
    return {**zoo_tasks(), "sorting": SortingTask(), "reversal": ReversalTask()}


BASE = Schedule(steps=1000, rows=144, learning_rate=3e-3, warmup=100, average=0.98, pool=60_000)
EXPERT = Schedule(steps=400, rows=96, learning_rate=7e-4, warmup=20, average=0.98, pool=40_000)

THINKING_EXPERT = Schedule(
    steps=400, rows=96, learning_rate=1e-3, warmup=20, average=0.98, pool=40_000
)
SHORT_EXPERT = Schedule(
    steps=120, rows=96, learning_rate=1e-3, warmup=20, average=0.98, pool=40_000
)
"""Stopped early: after 200 steps of 400 it was right without working on 0.94 of the sums, and
nothing would have been left to trade."""

MORE_EXPERT = Schedule(steps=500, rows=96, learning_rate=7e-4, warmup=20, average=0.98, pool=40_000)


@dataclass(frozen=True)
class ZooSettings:
    """The knobs, explained in this folder's README.

    Attributes:
        seed: Seed of the weights; data and sampling seeds are derived from it.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layers.
        layers: Depth.
        heads: Attention heads.
        full_share: Per task, the part of its base text drawn from the full grammar, not the easy.
        replay: Share of the base's mixture in an expert's training text.
        base: Schedule of the base.
        expert: Schedule of the first three experts.
        more_replay: Share of the base's mixture in the text of an expert of `MORE`.
        more_other: Share of easy items of the other task of `MORE`: the base knows neither, and
            experts that score nothing at each other's task leave no volume to merges.
        more: Schedule of the experts of `MORE`.
        thinking: Schedule of the expert of that name, whose text is sums alone.
        short: Schedule of the other one of `LENGTHS`, likewise.
    """

    seed: int = 0
    hidden: int = 64
    intermediate: int = 192
    layers: int = 8
    heads: int = 4
    full_share: Mapping[str, float] = field(
        default_factory=lambda: {"translation": 0.009, "math": 0.03, "code": 0.008}
    )
    replay: float = 0.35
    base: Schedule = BASE
    expert: Schedule = EXPERT
    more_replay: float = 0.45
    more_other: float = 0.1
    more: Schedule = MORE_EXPERT
    thinking: Schedule = THINKING_EXPERT
    short: Schedule = SHORT_EXPERT

    def llama(self, vocabulary: int) -> LlamaConfig:
        """Return the architecture for a vocabulary of the given size."""
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def schedule(self, name: str) -> Schedule:
        """Return the schedule of a model."""
        if name in MORE:
            return self.more
        if name in LENGTHS:
            return self.thinking if name == "thinking" else self.short
        return self.base if name == "base" else self.expert

    def shares(self, name: str) -> dict[tuple[str, Level], float]:
        """Return a model's mixture.

        The base gets equal parts per task, mostly easy. An expert gets its full task and a replay
        of the base's mixture; those of `MORE` also a little of each other's task.
        """
        if name in LENGTHS:
            return {("sums", "full"): 1.0}
        base: dict[tuple[str, Level], float] = {}
        for task, full in self.full_share.items():
            base[(task, "easy")] = (1.0 - full) / len(self.full_share)
            base[(task, "full")] = full / len(self.full_share)
        if name == "base":
            return base
        if name in MORE:
            shares = {part: share * self.more_replay for part, share in base.items()}
            shares[(name, "full")] = 1.0 - self.more_replay - self.more_other
            for other in MORE:
                if other != name:
                    shares[(other, "easy")] = self.more_other
            return shares
        shares = {part: share * self.replay for part, share in base.items()}
        shares[(name, "full")] += 1.0 - self.replay
        return shares
