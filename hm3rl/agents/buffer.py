"""Rollout buffers: episodes without a score left out, advantages for each objective.

A failed evaluation is no reward, so PPO does not learn from its episode: the environment says so in
`info["failed"]`, a callback tells the buffer, and the buffer does not hand out the episode's steps.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback


class ScoredEpisodes(RolloutBuffer):
    """Remembers which episodes of a rollout ended without a score."""

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._unscored: list[tuple[int, int]] = []

    def leave_out(self, env: int) -> None:
        """Leave out the episode of one environment that ends with the step that comes next."""
        self._unscored.append((self.pos, env))

    def left_out(self) -> np.ndarray:
        """Steps of episodes without a score, boolean of shape (steps, n_envs)."""
        steps = np.zeros((self.buffer_size, self.n_envs), dtype=bool)
        for last, env in self._unscored:
            begun = np.flatnonzero(self.episode_starts[: last + 1, env])
            steps[(begun[-1] if len(begun) else 0) : last + 1, env] = True
        return steps

    @property
    def scored(self) -> bool:
        """Whether there is anything to learn from."""
        return not self.left_out().all()


class LeaveOutUnscored(BaseCallback):
    """Tells a rollout's buffer which episodes ended without a score."""

    def _on_step(self) -> bool:
        for env, info in enumerate(self.locals["infos"]):
            if info.get("failed"):
                self.locals["rollout_buffer"].leave_out(env)
        return True


class ScoredRolloutBuffer(ScoredEpisodes, MaskableRolloutBuffer):
    """sb3-contrib's buffer for observations that are arrays, without episodes that have no score.

    A minibatch should be a whole rollout: parts may come out smaller, or empty.
    """

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield minibatches of steps that may be learnt from."""
        self._kept = (~self.left_out()).T.ravel()
        yield from super().get(batch_size)

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        return super()._get_samples(batch_inds[self._kept[batch_inds]], env)


class VectorAdvantages(ScoredEpisodes, DictRolloutBuffer):
    """Generalised advantage estimation (Schulman et al., 2016) for vector rewards.

    A_vec is estimated for each objective with its own value; the policy sees w.A_vec, with w the
    preference in the observation. For linear utilities that equals the estimate from w.r and w.V.
    With one column (scalar rewards and V_u) it is the ordinary buffer. `values` and `returns` are
    handed out flat, (B*K), as the stock `train()` flattens the critic's output.

    Steps of episodes that have no score, or that have ended and wait for others (STOP stands in the
    observed path), are not handed out, and a reward paid while waiting belongs to the step that
    ended the episode.

    Args:
        *args: As Stable-Baselines3's buffer.
        columns: K, or 1 for scalar rewards.
        stop: Token of STOP; None where no episode waits for others.
        spread: Pay the return in equal parts over the episode's steps (HM3's R / T) instead of at
            its end.
        seed: Seed of the minibatches' order.
        **kwargs: As Stable-Baselines3's buffer.
    """

    def __init__(
        self,
        *args: Any,
        columns: int,
        stop: int | None,
        spread: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.columns, self.stop, self.spread = columns, stop, spread
        self._rng = np.random.default_rng(seed)
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        shape = (self.buffer_size, self.n_envs, self.columns)
        self.vector_rewards = np.zeros(shape, dtype=np.float32)
        self.vector_values = np.zeros(shape, dtype=np.float32)

    def add(  # type: ignore[override]
        self,
        obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: torch.Tensor,
        log_prob: torch.Tensor,
        **kwargs: Any,
    ) -> None:
        """Store one step; `reward` and `value` have shape (n_envs, columns)."""
        self.vector_rewards[self.pos] = np.asarray(reward).reshape(self.n_envs, self.columns)
        self.vector_values[self.pos] = value.detach().cpu().numpy()
        first = value[:, 0]
        super().add(
            obs,
            action,
            self.vector_rewards[self.pos][:, 0],
            episode_start,
            first,
            log_prob,
            **kwargs,
        )

    def waiting(self) -> np.ndarray:
        """Steps of episodes that had already ended, boolean of shape (steps, n_envs)."""
        if self.stop is None:
            return np.zeros((self.buffer_size, self.n_envs), dtype=bool)
        return (self.observations["path"] == self.stop).any(axis=-1)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Estimate advantages for each column and scalarise them.

        Args:
            last_values: Values after the last step, shape (n_envs, columns).
            dones: Whether the last step ended its episode, shape (n_envs,).
        """
        idle = self.waiting()
        rewards = self._episode_rewards(idle)
        after = np.concatenate([self.vector_values[1:], last_values.cpu().numpy()[None]])
        ended = np.concatenate([self.episode_starts[1:], dones[None]]).astype(bool)
        ended[:-1] |= idle[1:]
        going = (~ended).astype(np.float32)[..., None]
        delta = rewards + self.gamma * after * going - self.vector_values
        advantage = np.zeros_like(delta)
        run = np.zeros(delta.shape[1:], dtype=np.float32)
        for step in reversed(range(self.buffer_size)):
            run = delta[step] + self.gamma * self.gae_lambda * going[step] * run
            run[idle[step]] = 0.0
            advantage[step] = run
        self.vector_advantages = advantage
        self.values = np.where(idle[..., None], 0.0, self.vector_values)
        self.returns = advantage + self.values
        if self.columns == 1:
            self.advantages = advantage[..., 0]
        else:
            self.advantages = (advantage * self.observations["preference"]).sum(axis=-1)
        self._active = ~idle & ~self.left_out()

    def _episode_rewards(self, idle: np.ndarray) -> np.ndarray:
        """Rewards moved to the step that ended the episode, or spread over its steps."""
        rewards = np.zeros_like(self.vector_rewards)
        for env in range(self.n_envs):
            starts = [*np.flatnonzero(self.episode_starts[:, env]), self.buffer_size]
            if starts[0] != 0:
                starts.insert(0, 0)
            for begin, end in pairwise(starts):
                steps = np.arange(begin, end)
                active = steps[~idle[begin:end, env]]
                late = steps[idle[begin:end, env]]
                rewards[active, env] = self.vector_rewards[active, env]
                if len(active):
                    rewards[active[-1], env] += self.vector_rewards[late, env].sum(axis=0)
                    if self.spread:
                        rewards[active, env] = rewards[active, env].sum(axis=0) / len(active)
        return rewards

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield minibatches of nearly equal size, of active steps only, in random order."""
        if not self.generator_ready:
            for key, values in self.observations.items():
                self.observations[key] = self.swap_and_flatten(values)
            for name in ("actions", "values", "log_probs", "advantages", "returns"):
                self.__dict__[name] = self.swap_and_flatten(self.__dict__[name])
            self._flatten_more()
            self._active = self.swap_and_flatten(self._active).ravel()
            self.generator_ready = True
        indices = self._rng.permutation(np.flatnonzero(self._active))
        # Near-equal parts: a last batch of one step would have an undefined standard deviation.
        parts = 1 if batch_size is None else max(1, round(len(indices) / batch_size))
        for part in np.array_split(indices, parts):
            yield self._get_samples(part)

    def _flatten_more(self) -> None:
        """Flatten what only some buffers have."""


class VectorRolloutBuffer(VectorAdvantages, MaskableDictRolloutBuffer):  # type: ignore[misc]
    """Vector advantages with the masks of discrete actions, for `MaskablePPO`."""

    def _flatten_more(self) -> None:
        self.action_masks = self.swap_and_flatten(self.action_masks)


class ProtoRolloutBuffer(VectorAdvantages):
    """Vector advantages with proto-actions, for Stable-Baselines3's `PPO`."""
