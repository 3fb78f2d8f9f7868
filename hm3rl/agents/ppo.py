"""PPO on path episodes: sb3-contrib's `MaskablePPO` with a vector critic and an anchor.

Nothing of the training loop is copied. The K-dimensional critic works with the stock `train()`
because the buffer hands values and returns out flat; the anchor (a few steps of regression on the
replay, or of KL to the pre-trained policy) runs after it, because PPO alone drifts away from what
was learnt offline.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from hm3rl.agents.buffer import (
    LeaveOutUnscored,
    ProtoRolloutBuffer,
    ScoredEpisodes,
    VectorRolloutBuffer,
)
from hm3rl.agents.encoder import PathShape
from hm3rl.agents.policy import DecodingState, PathPolicy
from hm3rl.agents.wolpertinger import Discretiser, WolpertingerPolicy, action_box
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import Observation, ScorePaths
from hm3rl.envs.proto import ProtoActionWrapper
from hm3rl.envs.vector import MergePathVecEnv, VectorReward
from hm3rl.objectives.utility import Utility
from hm3rl.paths.space import PathSpace

MINIBATCH = 64


class AnchoredPPO(OnPolicyAlgorithm):
    """What both learners add to theirs: the update ends with an anchor.

    Attributes:
        anchor: Called after each update; None does nothing.
    """

    anchor: Callable[[], None] | None = None

    def train(self) -> None:
        """Update from the rollout buffer, unless nothing in it was scored; then hold the anchor."""
        assert isinstance(self.rollout_buffer, ScoredEpisodes)
        if self.rollout_buffer.scored:
            super().train()
        if self.anchor is not None:
            self.anchor()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "anchor"]

    def learn_rollout(self) -> None:
        """Collect one batch of complete episodes and learn from it."""
        self.learn(
            self.n_steps * self.n_envs,
            callback=LeaveOutUnscored(),
            reset_num_timesteps=self.num_timesteps == 0,
        )

    def fresh_optimiser(self) -> None:
        """Forget the moments of earlier training (a new phase begins)."""
        policy = self.policy
        policy.optimizer = policy.optimizer_class(
            policy.parameters(),
            lr=self.lr_schedule(1),  # type: ignore[call-arg]
            **policy.optimizer_kwargs,
        )


class PreferencePPO(AnchoredPPO, MaskablePPO):
    """`MaskablePPO` with an anchor, for the masked categorical policy."""


class ProtoPPO(AnchoredPPO, PPO):
    """Stable-Baselines3's `PPO` with an anchor, for proto-actions (Wolpertinger)."""


def build_ppo(
    space: PathSpace,
    objectives: int,
    settings: HM3AgentSettings,
    score_paths: ScorePaths,
    sampler: Callable[[np.random.Generator], np.ndarray],
    seed: int,
) -> tuple[AnchoredPPO, MergePathVecEnv]:
    """Build the learner with its environment.

    The objective is the clipped surrogate, plus the value loss, minus the entropy (HM3 (12), with
    the signs of its Algorithm 1, line 12, rather than of the printed (14); its printed (13) is no
    value loss). A vector critic is valid for linear utilities only: with any other, PPO uses the
    scalar utility as reward and V_u as baseline, whatever `settings.critic` says.

    Args:
        space: The path space.
        objectives: K.
        settings: The agent's settings.
        score_paths: Scores the paths of a rollout, f / z*.
        sampler: Draws the preferences of the rollouts.
        seed: Seed of networks and rollouts.

    Returns:
        The learner and its episodes.
    """
    utility = Utility.of(settings)
    vector = settings.critic == "vector" and utility.kind == "weighted_sum"
    proto = settings.head == "wolpertinger"
    env = MergePathEnv(
        *(space, score_paths, objectives, utility.kind, utility.length_cost, sampler),
        utopia=utility.utopia,
    )
    episodes = MergePathVecEnv(env, settings.rollouts)
    venv: VecEnv = episodes
    if proto:
        discretiser = Discretiser(space, settings, env.utility, seed)
        # The policy is built by the learner, which wants the environment first.
        mapping = partial(_mapped, discretiser, lambda: ppo.policy)
        venv = ProtoActionWrapper(episodes, action_box(settings.embedding), mapping)
    learner: type[PreferencePPO | ProtoPPO] = ProtoPPO if proto else PreferencePPO
    ppo: PreferencePPO | ProtoPPO = learner(
        WolpertingerPolicy if proto else PathPolicy,  # type: ignore[arg-type]
        VectorReward(venv) if vector else venv,
        learning_rate=settings.learning_rate,
        n_steps=space.horizon,
        batch_size=_batch_size(space.horizon * settings.rollouts),
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        ent_coef=settings.entropy,
        vf_coef=settings.value_weight,
        target_kl=settings.target_kl,
        rollout_buffer_class=ProtoRolloutBuffer if proto else VectorRolloutBuffer,
        rollout_buffer_kwargs={
            "columns": objectives if vector else 1,
            "stop": space.stop,
            "spread": settings.reward == "spread",
            "seed": seed,
        },
        policy_kwargs={
            "shape": tuple(PathShape.of(space)),
            "embedding": settings.embedding,
            "hidden": settings.hidden,
            "conditioning": settings.conditioning,
            "critic": "vector" if vector else "scalar",
            "likelihoods": settings.likelihood_weight > 0,
        },
        seed=seed,
        device="cpu",
    )
    ppo.set_logger(Logger(folder=None, output_formats=[]))
    if isinstance(ppo.policy, WolpertingerPolicy):
        ppo.policy.discretiser = discretiser
        ppo.policy.freeze(discretiser.context, discretiser.descriptors)
    return ppo, episodes


def _batch_size(steps: int) -> int:
    """A divisor of a rollout's steps, up to `MINIBATCH` if there is one above 1.

    The buffers divide what they hand out evenly by themselves; Stable-Baselines3 warns of others.
    """
    sizes = [size for size in range(2, MINIBATCH + 1) if steps % size == 0]
    return max(sizes, default=steps)


def _mapped(
    discretiser: Discretiser,
    policy: Callable[[], Any],
    proto: np.ndarray,
    observations: Observation,
    legal: np.ndarray,
) -> np.ndarray:
    """A discretiser as the environment's mapping."""
    decoding = DecodingState(
        observations["path"],
        observations["length"].ravel(),
        legal,
        observations["preference"].astype(float),
        np.ones(len(proto)),
    )
    return discretiser(policy(), proto, decoding)


def kl_anchor(
    policy: PathPolicy, reference: PathPolicy, draw: Callable[[], Any], steps: int, rate: float
) -> Callable[[], None]:
    """Anchor that pulls the policy towards a frozen one on replayed states.

    Args:
        policy: The policy that learns.
        reference: The frozen policy, of the same shape.
        draw: Returns a `TrajectoryBatch` with the space's context and descriptors.
        steps: Gradient steps for each update.
        rate: Step size.
    """
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)

    def pull() -> None:
        for _ in range(steps):
            batch, context, descriptors = draw()
            inputs = (batch.path, context, descriptors, batch.preference)
            with torch.no_grad():
                target = reference.sequences(*inputs).logits
            found = policy.sequences(*inputs).logits
            divergence = policy.divergence(target, found, batch.masks)
            loss = (divergence * batch.steps).sum() / batch.steps.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return pull
