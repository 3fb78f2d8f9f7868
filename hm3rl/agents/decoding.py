"""Sampling and greedy decoding of whole paths from the policy."""

from __future__ import annotations

import numpy as np
import torch

from hm3rl.agents.policy import DecodingState, PathPolicy
from hm3rl.paths.space import PathSpace


@torch.no_grad()
def roll_out(
    policy: PathPolicy,
    space: PathSpace,
    preferences: np.ndarray,
    temperature: np.ndarray | float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw one path for each preference.

    Args:
        policy: The networks.
        space: The path space they were built for, or one of the same sizes.
        preferences: Shape (n, K).
        temperature: Of the action probabilities, a number or shape (n,); 0 is greedy.
        rng: Source of randomness.

    Returns:
        Legal rows, integers of shape (n, horizon).
    """
    n = len(preferences)
    policy.set_training_mode(False)
    encoder = policy.encoder
    context = torch.as_tensor(space.context.ravel()[None], dtype=torch.float32)
    descriptors = torch.as_tensor(space.descriptors.ravel()[None], dtype=torch.float32)
    table = encoder.tokens(context, descriptors)
    preference = torch.as_tensor(preferences, dtype=torch.float32)
    temperature = np.broadcast_to(np.asarray(temperature, dtype=np.float64), (n,))
    rows = np.full((n, space.horizon), space.pad, dtype=np.int64)
    last = np.full(n, space.pad, dtype=np.int64)
    hidden = encoder.start.expand(n, -1)
    running = np.ones(n, dtype=bool)
    for step in range(space.horizon):
        time = encoder.time.weight[step].expand(n, -1)
        states = torch.cat([hidden, time], dim=-1)[:, None]
        heads = policy.heads(states, table, torch.as_tensor(last)[:, None], preference)
        legal = np.stack([space.mask_after(int(token), step) for token in last])
        taken = np.where(running, step, (rows != space.pad).sum(axis=1))
        decoding = DecodingState(rows, taken, legal, preferences, temperature)
        actions = policy.choose(heads.logits[:, 0], decoding, rng)
        rows[running, step] = actions[running]
        last = actions
        running &= actions != space.stop
        if not running.any():
            break
        inputs = table[0][torch.as_tensor(actions)][:, None]
        run, _ = encoder.gru(inputs, hidden[None].contiguous())
        hidden = run[:, 0]
    return rows
