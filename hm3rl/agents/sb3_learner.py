"""Algorithms of Stable-Baselines3 and sb3-contrib by name, set up for a few hundred episodes."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from hm3rl.agents.path_extractor import PathExtractor
from hm3rl.config.agents import SB3Settings
from hm3rl.envs.path_env import PathEnv
from hm3rl.envs.vector import MergePathVecEnv
from hm3rl.envs.wrappers import LegalActionsVec
from hm3rl.errors import InputError

DICTIONARY_POLICIES = ("MultiInputPolicy", "MultiInputLstmPolicy")

CONTINUOUS = ("SAC", "TD3", "DDPG", "TQC")
"""Those that know continuous actions only."""

DISCRETE = ("DQN", "QRDQN", "MaskablePPO")
"""Those that know discrete actions only."""

OWN = ("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")
"""Arguments that are no option."""

FEW_EPISODES: dict[str, Any] = {"gamma": 1.0, "buffer_size": 50_000}
Q_LEARNING: dict[str, Any] = {"exploration_fraction": 0.5, "target_update_interval": 200}
"""Defaults of algorithms that have such an argument; theirs are for millions of steps."""

NOISE = 0.2
"""Standard deviation of TD3's and DDPG's actions while they explore, in a box that is two wide."""


def algorithms() -> dict[str, type[BaseAlgorithm]]:
    """Those whose policies read dictionaries, by name."""
    found = [getattr(m, name) for m in (stable_baselines3, sb3_contrib) for name in dir(m)]
    return {
        one.__name__: one
        for one in found
        if isinstance(one, type)
        and issubclass(one, BaseAlgorithm)
        and set(DICTIONARY_POLICIES) & set(one.policy_aliases)
    }


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """The algorithm of a name.

    Raises:
        InputError: There is none that reads dictionaries.
    """
    known = algorithms()
    if name not in known:
        raise InputError(f"agent.algorithm={name}", f"use one of {', '.join(sorted(known))}")
    return known[name]


def is_blended(options: SB3Settings) -> bool:
    """Whether an algorithm acts on blends."""
    return options.form == "box" or (options.form == "auto" and options.algorithm in CONTINUOUS)


def is_masked(algorithm: type[BaseAlgorithm]) -> bool:
    """Whether an algorithm asks for masks by itself."""
    return issubclass(algorithm, sb3_contrib.MaskablePPO)


def check_options(options: SB3Settings) -> None:
    """Refuse algorithms, forms and arguments that do not go together.

    Raises:
        InputError: Names the key.
    """
    algorithm = find_algorithm(options.algorithm)
    wrong = DISCRETE if is_blended(options) else CONTINUOUS
    if options.algorithm in wrong:
        raise InputError(
            f"agent.form={options.form} with agent.algorithm={options.algorithm}, which does not "
            "know such actions",
            "leave agent.form at auto",
        )
    takes = [name for name in inspect.signature(algorithm.__init__).parameters if name not in OWN]
    for name in options.kwargs:
        if name not in takes:
            near = get_close_matches(name, takes, n=1)
            hint = f"did you mean agent.kwargs.{near[0]}? " if near else ""
            raise InputError(
                f"{options.algorithm} has no argument {name} to be set by agent.kwargs.{name}",
                f"{hint}it takes: {', '.join(takes)}",
            )


def build_learner(env: PathEnv, options: SB3Settings, seed: int) -> BaseAlgorithm:
    """The algorithm with its episodes.

    Args:
        env: The path environment, discrete or with one vector of actions.
        options: The agent's.
        seed: Of networks and exploration.

    Raises:
        InputError: The algorithm refuses an argument.
    """
    algorithm = find_algorithm(options.algorithm)
    episodes: VecEnv = MergePathVecEnv(env, options.envs, idle=False)
    if isinstance(env.action_space, spaces.Discrete) and not is_masked(algorithm):
        episodes = LegalActionsVec(episodes)
    takes = inspect.signature(algorithm.__init__).parameters
    # As many gradient steps for each step of an episode as with a single environment.
    chosen = {**FEW_EPISODES, "gradient_steps": options.envs}
    if issubclass(algorithm, OnPolicyAlgorithm):
        # One episode of each environment is a rollout, and one minibatch where there are any.
        chosen |= {"n_steps": env.space.horizon, "batch_size": env.space.horizon * options.envs}
    if options.algorithm in ("DQN", "QRDQN"):
        chosen |= Q_LEARNING
    if options.algorithm in ("TD3", "DDPG"):
        chosen["action_noise"] = NOISE
    chosen = {name: value for name, value in chosen.items() if name in takes} | options.kwargs
    if isinstance(noise := chosen.get("action_noise"), int | float):
        width = episodes.action_space.shape
        assert width is not None
        chosen["action_noise"] = NormalActionNoise(np.zeros(width), np.full(width, noise))
    own = {"features_extractor_class": PathExtractor, **(chosen.pop("policy_kwargs", None) or {})}
    policy = next(name for name in DICTIONARY_POLICIES if name in algorithm.policy_aliases)
    make: Any = algorithm
    try:
        learner: BaseAlgorithm = make(
            policy, episodes, policy_kwargs=own, seed=seed, device="cpu", **chosen
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(
            f"{options.algorithm} does not take agent.kwargs={dict(options.kwargs)}: {error}",
            "see its documentation for what it takes",
        ) from error
    learner.set_logger(Logger(folder=None, output_formats=[]))
    return learner
