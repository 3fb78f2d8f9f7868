"""The construction of an inference path as a Markov decision process (HM3, section 3.2)."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from hm3rl.envs.path_env import Episode, Observation, PathEnv, PreferenceSampler, ScorePaths
from hm3rl.objectives.scalarisation import Scalarisation
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace

FEATURE_BOUND = 1e6
"""Bound of features in the observation space; they are of order one, checkers want it finite."""


class MergePathEnv(PathEnv):
    """Builds one path through members' layers: stem first, then layers, then STOP.

    Reward and starting state are those of `PathEnv`.

    ## Description
    A state is the path so far, together with the members offered and the preference of this
    episode.

    ## Observation Space
    `Dict`: `path` (action numbers, padded), `length` (actions taken), `context` (recipe features of
    the members, flat M*R), `descriptors` (layer descriptors, flat M*L*D), `preference` (K).

    ## Action Space
    `Discrete(M + M*L + 1)`: the first M choose the stem and are legal at the first step only;
    M + m*L + l appends layer l of member m; the last is STOP. `action_masks()` says what is legal.

    Args:
        space: Legal paths and what is known of the members.
        score_paths: Scores complete paths.
        objectives: K.
        scalarisation: u_lambda.
        length_cost: beta_1, for each layer of the path.
        preference_sampler: Draws a preference at reset; default is uniform on the simplex.
        utopia: z of the Tchebycheff utility in units of f / z*, a number or shape (K,).
        describe: Whether `context` and `descriptors` are observed. They tell members of another
            pool apart; while the members stay the same they never change.
    """

    def __init__(
        self,
        space: PathSpace,
        score_paths: ScorePaths,
        objectives: int,
        scalarisation: Scalarisation = "weighted_sum",
        length_cost: float = 0.0,
        preference_sampler: PreferenceSampler | None = None,
        utopia: float | np.ndarray = 1.1,
        describe: bool = True,
    ) -> None:
        # Stable-Baselines3 takes arrays of two or three dimensions for pictures.
        flat = {"context": space.context.ravel(), "descriptors": space.descriptors.ravel()}
        self._features = {key: value.astype(np.float32) for key, value in flat.items() if describe}
        super().__init__(
            space,
            {
                key: spaces.Box(-FEATURE_BOUND, FEATURE_BOUND, value.shape, np.float32)
                for key, value in self._features.items()
            },
            spaces.Discrete(space.num_actions),
            score_paths,
            objectives,
            Utility(scalarisation, length_cost, utopia),
            preference_sampler,
        )

    def path(self, episode: Episode) -> LayerPath:
        """The path of an episode that ended legally."""
        return self.space.decode(episode.tokens)

    def action_on(self, path: LayerPath, episode: Episode) -> int:
        """The next action on a path, the number of a token."""
        return int(self.space.encode(path)[len(episode.tokens)])

    def offers(self, path: LayerPath) -> bool:
        """Whether an episode can end in a path."""
        return self.space.offers(path)

    def observe(self, episode: Episode) -> Observation:
        """What an agent sees of an episode."""
        features = {key: value.copy() for key, value in self._features.items()}
        return {**super().observe(episode), **features}
