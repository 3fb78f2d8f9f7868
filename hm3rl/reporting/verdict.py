"""What a front is worth, in sentences: for who picks a model, and at the top of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hm3rl.objectives.utility import GOOD, Utility


def just_an_expert(expert: str, utility: Utility) -> str:
    """Said where the model that was picked is a source."""
    more = ""
    if utility.kind == "weighted_sum":
        more = "; --utility balance asks for one that is good at all that is preferred"
    return f"this is the expert {expert} itself: by this utility no merge is worth more{more}"


def none_is_good(name: str, share: float) -> str | None:
    """Said where no model is good at all tasks; None: one is.

    Args:
        name: The most even model's.
        share: Of the best expert's score, on the task where it keeps least.
    """
    if share >= GOOD:
        return None
    return (
        f"no model keeps {GOOD:.0%} of the best expert's score on every task; "
        f"the most even one, {name}, keeps {share:.0%}"
    )


def verdict(
    front: Mapping[str, Sequence[float] | np.ndarray],
    test: Mapping[str, Sequence[float] | np.ndarray],
    experts: Mapping[str, Sequence[float] | np.ndarray],
    blends: Mapping[str, Sequence[float] | np.ndarray],
) -> str:
    """Whether merging was worth it, in one sentence.

    Args:
        front: What the front goes by, as f / z*, by model; each of shape (K,).
        test: The same on the test split, z* that split's.
        experts: Scores f / z* on the search split, of the experts.
        blends: The same, of merges that nobody had to search for; may be empty.
    """
    names = list(front)
    number, share = Utility.most_even(np.array([front[name] for name in names]))
    alone, least = Utility.most_even(np.array(list(experts.values())))
    expert = list(experts)[alone]
    name = names[number]
    tested = np.array(test[name]).min()
    kept = f"keeps {share:.0%} of the best expert's score on every task"
    tested_text = "" if np.isnan(tested) else f" ({tested:.0%} on the test split)"
    if share <= least:
        return (
            f"No merge is more even than an expert: {expert} keeps {least:.0%} of the best "
            f"expert's score on every task, {name} {share:.0%}."
        )
    begin = (
        f"{name} {kept}{tested_text}"
        if share >= GOOD
        else (
            f"No model keeps {GOOD:.0%} of the best expert's score on every task: {name}, the most "
            f"even one, keeps {share:.0%}{tested_text}"
        )
    )
    end = f"the most even expert, {expert}, {least:.0%}"
    if blends:
        best, kept_by_blend = Utility.most_even(np.array(list(blends.values())))
        end += (
            f", and the blend {list(blends)[best]}, which nobody searched for, {kept_by_blend:.0%}"
        )
    return f"{begin}; {end}."
