"""The agent of this package on any MO-Gymnasium environment with discrete actions.

The parts are those of the merging agent: preference-conditioned heads, a K-dimensional critic
trained through `VectorRolloutBuffer`, PPO with a replay anchor, and advantage-weighted regression
with hindsight preferences. What is special to paths (outcome model, screening) has no place here:
an episode of such an environment costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from hm3rl.agents.buffer import VectorRolloutBuffer
from hm3rl.agents.discrete_policy import StatePolicy
from hm3rl.agents.episodes import EpisodeRegression, EpisodeReplay
from hm3rl.agents.ppo import PreferencePPO
from hm3rl.envs.multi_objective import PreferenceEnv
from hm3rl.envs.multi_objective_vector import Episode, EpisodeVecEnv
from hm3rl.errors import InputError
from hm3rl.objectives.preferences import sample_dirichlet, sample_faces
from hm3rl.objectives.scalarisation import SCALARISATIONS, Scalarisation


@dataclass(frozen=True)
class DiscreteSettings:
    """Options of a `DiscreteAgent`; those named as in `AgentSettings` mean the same.

    Attributes:
        scalarisation: `weighted_sum` or `tchebycheff`.
        critic: `vector` (linear utilities only) or `scalar`.
        conditioning: `concat` or `film`.
        hidden: Width of all layers.
        gamma: Discount of the returns.
        gae_lambda: GAE's lambda.
        learning_rate: PPO's step size at the beginning of an online phase.
        anneal: Whether it falls linearly to zero at the end of the phase.
        clip_range: PPO's clip.
        entropy: PPO's entropy bonus; what keeps exploration alive where rewards are sparse.
        value_weight: PPO's value loss weight.
        target_kl: PPO stops an update beyond 1.5 times this KL divergence; 0: never.
        epochs: PPO epochs for one rollout.
        envs: Environments side by side.
        steps: Steps of each environment in one PPO rollout.
        minibatch: Steps in one minibatch of PPO.
        anchor: `replay` (regression after each PPO update) or `none`.
        replay_steps: Gradient steps of the anchor.
        capacity: Most episodes in the replay.
        pretrain_steps: Gradient steps of the offline phase.
        pretrain_rate: Step size of regression.
        weighting: `trajectory` or `step`: what one advantage belongs to.
        temperature: Of the advantage weights, in units of the utilities' spread.
        hindsight: Whether episodes are relabelled with other preferences.
        preferences: Where preferences are drawn from: `uniform` (all of the simplex) or `faces`
            (half of them from its faces, see `sample_faces`).
    """

    scalarisation: str = "weighted_sum"
    critic: str = "vector"
    conditioning: str = "concat"
    hidden: int = 128
    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 1e-3
    anneal: bool = True
    clip_range: float = 0.2
    entropy: float = 0.1
    value_weight: float = 0.5
    target_kl: float = 0.0
    epochs: int = 4
    envs: int = 16
    steps: int = 128
    minibatch: int = 256
    anchor: str = "replay"
    replay_steps: int = 16
    capacity: int = 2000
    pretrain_steps: int = 1500
    pretrain_rate: float = 1e-3
    weighting: str = "trajectory"
    temperature: float = 0.3
    hindsight: bool = True
    preferences: str = "uniform"

    def __post_init__(self) -> None:
        words = {
            "scalarisation": SCALARISATIONS,
            "critic": ("vector", "scalar"),
            "conditioning": ("concat", "film"),
            "anchor": ("replay", "none"),
            "weighting": ("trajectory", "step"),
            "preferences": ("uniform", "faces"),
        }
        for key, allowed in words.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"{key}={getattr(self, key)}", f"use one of {', '.join(allowed)}")
        for key in ("hidden", "epochs", "envs", "steps", "minibatch", "capacity", "temperature"):
            if not getattr(self, key) > 0:
                raise InputError(f"{key}={getattr(self, key)}", "use a positive number")

    @property
    def vector(self) -> bool:
        """Whether PPO is given vectors: with a utility that is not linear it never is."""
        return self.critic == "vector" and self.scalarisation == "weighted_sum"


class DiscreteAgent:
    """One network for every preference, on an environment with vector rewards.

    Args:
        make_env: Makes the MO-Gymnasium environment.
        settings: All options.
        seed: Seed of everything random in here.
        scale: Units of the objectives, see `PreferenceEnv`.
        utopia: z of Tchebycheff, see `PreferenceEnv`.
        rho: Augmentation of Tchebycheff, see `PreferenceEnv`.
        device: Where the networks are.
    """

    def __init__(
        self,
        make_env: Callable[[], gym.Env[Any, Any]],
        settings: DiscreteSettings,
        seed: int,
        scale: float | np.ndarray = 1.0,
        utopia: float | np.ndarray = 1.1,
        rho: float = 0.05,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.seed = seed
        self._make = lambda: PreferenceEnv(
            make_env(), settings.gamma, self._kind, scale, utopia, rho
        )
        probe = self._make()
        self.objectives = probe.reward_dim
        self.replay = EpisodeReplay(probe.reward_dim, settings.gamma, settings.capacity)
        self.rng = np.random.default_rng(seed)
        self.env = EpisodeVecEnv(self._make, settings.envs, settings.vector, self._record)
        self.ppo = self._build(device)
        self.regression = EpisodeRegression(
            self.policy,
            probe.utility,
            probe.linear,
            settings.weighting,
            settings.temperature,
            settings.hindsight,
            self._sample,
            settings.pretrain_rate,
            np.random.default_rng([seed, 2]),
        )
        if settings.anchor == "replay":
            self.ppo.anchor = self._anchor

    @property
    def _kind(self) -> Scalarisation:
        return self.settings.scalarisation  # type: ignore[return-value]

    def _sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        draw = sample_faces if self.settings.preferences == "faces" else sample_dirichlet
        return draw(n, self.objectives, rng)

    @property
    def policy(self) -> StatePolicy:
        """The networks."""
        assert isinstance(self.ppo.policy, StatePolicy)
        return self.ppo.policy

    def _build(self, device: str) -> PreferencePPO:
        s = self.settings
        ppo = PreferencePPO(
            StatePolicy,
            self.env,
            learning_rate=(lambda left: left * s.learning_rate) if s.anneal else s.learning_rate,
            n_steps=s.steps,
            batch_size=s.minibatch,
            n_epochs=s.epochs,
            # A utility that is not linear is paid once, of a return that is discounted already.
            gamma=s.gamma if s.scalarisation == "weighted_sum" else 1.0,
            gae_lambda=s.gae_lambda,
            clip_range=s.clip_range,
            ent_coef=s.entropy,
            vf_coef=s.value_weight,
            target_kl=s.target_kl or None,
            rollout_buffer_class=VectorRolloutBuffer,
            rollout_buffer_kwargs={
                "columns": self.objectives if s.vector else 1,
                "stop": None,
                "seed": self.seed,
            },
            policy_kwargs={
                "hidden": s.hidden,
                "conditioning": s.conditioning,
                "critic": "vector" if s.vector else "scalar",
            },
            seed=self.seed,
            device=device,
        )
        ppo.set_logger(Logger(folder=None, output_formats=[]))
        return ppo

    def _record(self, episode: Episode) -> None:
        self.replay.add(episode)

    def _anchor(self) -> None:
        if len(self.replay):
            for _ in range(self.settings.replay_steps):
                self.regression.step(self.replay, critics=False)

    def offline(self, episodes: int) -> dict[str, float]:
        """Act at random for some episodes, then pre-train policy and critics on them.

        Args:
            episodes: How many.

        Returns:
            Losses of the last step.
        """
        env = self._make()
        for number in range(episodes):
            self._random_episode(env, self.seed * 1_000_003 + number)
        losses: dict[str, float] = {}
        for _ in range(self.settings.pretrain_steps):
            losses = self.regression.step(self.replay)
        self.ppo.fresh_optimiser()
        return losses

    def _random_episode(self, env: PreferenceEnv, seed: int) -> None:
        observation, _ = env.reset(seed=seed)
        steps = []
        ended = False
        while not ended:
            action = int(self.rng.choice(np.flatnonzero(env.action_masks())))
            after, _, ended, _, info = env.step(action)
            steps.append((observation["state"], action, info["mask"], info["vector_reward"]))
            observation = after
        states, actions, masks, rewards = zip(*steps, strict=True)
        self.replay.add(
            Episode(
                np.stack(states),
                np.array(actions),
                np.stack(masks),
                np.stack(rewards),
                env.preference,
            )
        )

    def online(self, steps: int) -> None:
        """Learn by PPO from at least so many steps of the environments, in whole rollouts."""
        self.ppo.num_timesteps = 0  # the step size falls anew
        self.ppo.learn(steps, reset_num_timesteps=False)

    def consolidate(self, steps: int, temperature: float) -> None:
        """Imitate the best replayed episodes under every preference, with a falling step size.

        PPO stops where its entropy bonus balances the advantage, which leaves preferences near the
        border between two solutions undecided. Near temperature 0 each preference is taught the
        best episode it has seen; where chance has a part in the returns, keep the temperature up.

        Args:
            steps: Gradient steps.
            temperature: Of the weights, in units of the utilities' spread.
        """
        optimiser, own = self.regression.optimiser, self.regression.temperature
        self.regression.temperature = temperature
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = self.settings.pretrain_rate * (1.0 - step / steps)
            self.regression.step(self.replay, critics=False)
        optimiser.param_groups[0]["lr"] = self.settings.pretrain_rate
        self.regression.temperature = own

    @torch.no_grad()
    def returns(self, preferences: np.ndarray) -> np.ndarray:
        """Play one greedy episode for each preference.

        Args:
            preferences: Shape (P, K), on the simplex.

        Returns:
            Discounted vector returns in the environment's own units, shape (P, K).
        """
        self.policy.set_training_mode(False)
        envs = [self._make() for _ in preferences]
        found = np.zeros((len(envs), self.objectives))
        seen = [
            env.reset(seed=self.seed, options={"preference": goal})[0]
            for env, goal in zip(envs, preferences, strict=True)
        ]
        running = list(range(len(envs)))
        while running:
            batch = {key: np.stack([seen[i][key] for i in running]) for key in seen[0]}
            masks = np.stack([envs[i].action_masks() for i in running])
            actions, _ = self.policy.predict(batch, deterministic=True, action_masks=masks)
            still = []
            for i, action in zip(running, actions, strict=True):
                seen[i], _, ended, _, info = envs[i].step(action)
                if ended:
                    found[i] = info["vector_return"]
                else:
                    still.append(i)
            running = still
        return found

    def save(self, path: Path) -> None:
        """Write Stable-Baselines3's zip."""
        self.ppo.save(path)

    def load_networks(self, path: Path) -> None:
        """Take over the networks of a saved agent of the same sizes."""
        self.ppo.set_parameters(str(path), device=self.ppo.device)
