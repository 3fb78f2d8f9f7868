"""The merging agent's networks and PPO on environments of MO-Gymnasium, whose best is known.

`MergeAgent` plans paths of layers and learns from few, dear evaluations; such environments have
states, rewards at every step, and episodes that cost nothing. What can be checked on them is what
both have in common: heads that know the preference, `PreferencePPO`, and the advantages of a
K-dimensional critic (`VectorRolloutBuffer`), which are the package's own. Replay and regression
are written anew in `episodes`, by the same rules; nothing of the surrogate has a place here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments.agent_checks.episodes import EpisodeRegression, EpisodeReplay
from experiments.agent_checks.policy import StatePolicy
from experiments.agent_checks.preference_env import Episode, PreferenceEnv, VectorRewards
from hm3rl.agents.buffer import VectorRolloutBuffer
from hm3rl.agents.ppo import PreferencePPO
from hm3rl.objectives.preferences import sample_dirichlet, sample_faces
from hm3rl.objectives.scalarisation import Scalarisation


@dataclass(frozen=True)
class LearnerSettings:
    """Options of an `EpisodeLearner`; those named as in `AgentSettings` mean the same.

    Attributes:
        scalarisation: The utility. The critic is vector-valued where it is linear.
        conditioning: `concat` or `film`.
        hidden: Width of all layers.
        gamma: Discount of the returns.
        learning_rate: PPO's step size at the beginning of an online phase; falls to 0 at its end.
        entropy: PPO's entropy bonus; what keeps exploration alive where rewards are sparse.
        epochs: PPO epochs for one rollout.
        envs: Environments side by side.
        steps: Steps of each environment in one PPO rollout.
        minibatch: Steps in one minibatch of PPO.
        replay_steps: Gradient steps on the replay after each PPO update; 0: PPO alone.
        capacity: Most episodes in the replay.
        pretrain_steps: Gradient steps of the offline phase.
        pretrain_rate: Step size of regression.
        temperature: Of the advantage weights, in units of the utilities' spread.
        faces: Whether half of the hindsight preferences are drawn from the simplex's faces.
    """

    scalarisation: Scalarisation = "weighted_sum"
    conditioning: str = "concat"
    hidden: int = 128
    gamma: float = 0.99
    learning_rate: float = 1e-3
    entropy: float = 0.1
    epochs: int = 4
    envs: int = 16
    steps: int = 128
    minibatch: int = 256
    replay_steps: int = 16
    capacity: int = 2000
    pretrain_steps: int = 1500
    pretrain_rate: float = 1e-3
    temperature: float = 0.3
    faces: bool = False


class EpisodeLearner:
    """One network for every preference, on an environment with vector rewards.

    Args:
        make_env: Makes the environment.
        settings: All options.
        seed: Seed of everything random in here.
        **units: `scale`, `utopia` and `rho` of `PreferenceEnv`.
    """

    def __init__(
        self,
        make_env: Callable[[], gym.Env[Any, Any]],
        settings: LearnerSettings,
        seed: int,
        **units: Any,
    ) -> None:
        self.settings = s = settings
        self.seed = seed
        self.rng = np.random.default_rng(seed)

        def make(listener: Callable[[Episode], object] | None = None) -> PreferenceEnv:
            return PreferenceEnv(make_env(), s.gamma, s.scalarisation, listener=listener, **units)

        self._make = make
        probe = make()
        self.objectives = probe.reward_dim
        self.replay = EpisodeReplay(probe.reward_dim, s.gamma, s.capacity)
        self.ppo = self._build(probe.linear)
        policy = self.ppo.policy
        assert isinstance(policy, StatePolicy)
        self.policy = policy
        self.regression = EpisodeRegression(
            *(policy, probe, self.replay, s.temperature, self._sample, s.pretrain_rate),
            np.random.default_rng([seed, 2]),
        )
        self.ppo.anchor = self._anchor

    def _sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        draw = sample_faces if self.settings.faces else sample_dirichlet
        return draw(n, self.objectives, rng)

    def _build(self, linear: bool) -> PreferencePPO:
        s = self.settings
        envs = DummyVecEnv([lambda: self._make(self.replay.add)] * s.envs)
        ppo = PreferencePPO(
            StatePolicy,
            VectorRewards(envs) if linear else envs,
            learning_rate=lambda left: left * s.learning_rate,
            n_steps=s.steps,
            batch_size=s.minibatch,
            n_epochs=s.epochs,
            # A utility that is not linear is paid once, of a return that is discounted already.
            gamma=s.gamma if linear else 1.0,
            ent_coef=s.entropy,
            rollout_buffer_class=VectorRolloutBuffer,
            rollout_buffer_kwargs={
                "columns": self.objectives if linear else 1,
                "stop": None,
                "seed": self.seed,
            },
            policy_kwargs={
                "hidden": s.hidden,
                "conditioning": s.conditioning,
                "critic": "vector" if linear else "scalar",
            },
            seed=self.seed,
            device="cpu",
        )
        ppo.set_logger(Logger(folder=None, output_formats=[]))
        return ppo

    def _anchor(self) -> None:
        if len(self.replay):
            for _ in range(self.settings.replay_steps):
                self.regression.step(critics=False)

    def offline(self, episodes: int) -> None:
        """Act at random for some episodes, then pre-train policy and critics on them.

        Args:
            episodes: How many.
        """
        env = self._make(self.replay.add)
        actions = env.action_space.n  # type: ignore[attr-defined]
        for number in range(episodes):
            env.reset(seed=self.seed * 1_000_003 + number)
            while not env.step(self.rng.integers(actions))[2]:
                pass
        for _ in range(self.settings.pretrain_steps):
            self.regression.step()
        self.ppo.fresh_optimiser()

    def online(self, steps: int) -> None:
        """Learn by PPO from at least so many steps of the environments, in whole rollouts."""
        self.ppo.num_timesteps = 0  # the step size falls anew
        self.ppo.learn(steps, reset_num_timesteps=False, use_masking=False)

    def consolidate(self, steps: int, temperature: float) -> None:
        """Imitate the best replayed episodes under every preference, with a falling step size.

        PPO stops where its entropy bonus balances the advantage, which leaves preferences near the
        border between two solutions undecided. Near temperature 0 each preference is taught the
        best episode it has seen; where chance has a part in the returns, keep the temperature up.

        Args:
            steps: Gradient steps.
            temperature: Of the weights, in units of the utilities' spread.
        """
        optimiser = self.regression.optimiser
        self.regression.temperature = temperature
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = self.settings.pretrain_rate * (1.0 - step / steps)
            self.regression.step(critics=False)
        optimiser.param_groups[0]["lr"] = self.settings.pretrain_rate
        self.regression.temperature = self.settings.temperature

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
            actions, _ = self.policy.predict(batch, deterministic=True)
            still = []
            for i, action in zip(running, actions, strict=True):
                seen[i], _, ended, _, info = envs[i].step(action)
                if ended:
                    found[i] = info["vector_return"]
                else:
                    still.append(i)
            running = still
        return found
