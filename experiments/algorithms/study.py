"""Algorithms by name at equal budgets on a small problem; see README.md."""

from __future__ import annotations

from pathlib import Path

from experiments.common.methods import METHODS
from experiments.common.plan import ZOO_TASKS, Study, Variant
from experiments.common.report import write_methods_only
from hm3rl.config.words import quoted

SEEDS = {40: 3}

ITEMS = {"search": 100, "test": 200}
"""Items of each task; half and a fifth of the tiny zoo's, so that a search takes half a minute."""

REINFORCE = Path(__file__).with_name("reinforce.py")


def sb3(algorithm: str) -> tuple[str, ...]:
    """Overrides for an algorithm of Stable-Baselines3."""
    return ("agent=sb3", f"agent.algorithm={algorithm}")


OVER_MEMBERS: dict[str, tuple[str, ...]] = {
    "hm3": METHODS["hm3"],
    "hm3_paper": ("agent=hm3_paper",),
    "maskable_ppo": sb3("MaskablePPO"),
    "dqn": sb3("DQN"),
    "qrdqn": sb3("QRDQN"),
    # It learns nothing from random paths, so there is no phase of them.
    "reinforce": (f"plugins=[{quoted(str(REINFORCE))}]", "agent=reinforce", "search=no_offline"),
    "random": METHODS["random"],
}
"""They walk paths through the members that the same parameter level gives them."""

OVER_BLENDS: dict[str, tuple[str, ...]] = {
    "psl": ("agent=psl",),
    "none": ("agent=none",),
    "layerwise": ("agent=layerwise",),
    "sac": sb3("SAC"),
    "td3": sb3("TD3"),
    "tqc": sb3("TQC"),
}
"""They choose a blend for every layer; there is no parameter level."""

STUDY = Study(
    name="algorithms",
    variants={
        name: Variant(words, SEEDS) for name, words in {**OVER_MEMBERS, **OVER_BLENDS}.items()
    },
    write=write_methods_only,
    words=(
        "threads=1",
        *(f"tasks.{t}.{split}_items={n}" for t in ZOO_TASKS for split, n in ITEMS.items()),
    ),
    adds=True,
)
