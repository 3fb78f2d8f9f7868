"""The forms in which one problem can be acted on, behind one id: discrete, hybrid, box."""

from __future__ import annotations

from typing import Any

from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import PathEnv
from hm3rl.envs.synthetic import SyntheticMergeEnv
from hm3rl.envs.synthetic_blends import SyntheticBlendsEnv
from hm3rl.errors import InputError

DISCRETE, HYBRID, BOX = "discrete", "hybrid", "box"
FORMS = (DISCRETE, HYBRID, BOX)
"""A member's layer at each step; an index and a blend; the same as one vector."""


def is_blended(form: str) -> bool:
    """Whether a form's layers are blends.

    Raises:
        InputError: There is no such form.
    """
    if form not in FORMS:
        raise InputError(f"form={form!r}", f"use one of {', '.join(FORMS)}")
    return form != DISCRETE


def merge_path(form: str = DISCRETE, **parts: Any) -> PathEnv:
    """`MergePathEnv`, or `BlendPathEnv` in its hybrid or box form, of parts as these take them."""
    if is_blended(form):
        return BlendPathEnv(flat=form == BOX, **parts)
    return MergePathEnv(**parts)


def synthetic_merge(
    form: str = DISCRETE, *, vector_rewards: bool = False, **options: Any
) -> PathEnv:
    """`SyntheticMergeEnv`, or `SyntheticBlendsEnv` in its hybrid or box form."""
    env: PathEnv
    if is_blended(form):
        env = SyntheticBlendsEnv(flat=form == BOX, **options)
    else:
        env = SyntheticMergeEnv(**options)
    env.vector_rewards = vector_rewards
    return env
