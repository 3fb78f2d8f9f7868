"""The construction of a path through blends: an index and coefficients at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from hm3rl.envs.path_env import Episode, Observation, PathEnv, PreferenceSampler, ScorePaths
from hm3rl.errors import InputError
from hm3rl.models.names import BASE
from hm3rl.objectives.scalarisation import Scalarisation
from hm3rl.objectives.utility import Utility
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace

STEM = 0
"""The first token of every path: a path of blends has one stem to choose, and chooses its blend."""


class BlendPathEnv(PathEnv):
    """Builds one path through blends: the stem's blend, then an index and a blend for each layer.

    Reward and starting state are those of `PathEnv`.

    ## Description
    Which indices are legal is what a `PathSpace` with a single member, the base, says: with
    `same_depth` limits layer t at depth t and then STOP, with `any` every layer at every depth,
    STOP from the shortest to the longest length. HM3's choice of a member is here a point of
    [0, largest]^N: an expert's layer is the blend with 1 of itself.

    ## Observation Space
    `Dict`: `path` (0 for the stem, 1 + l for layer l, 1 + L for STOP, padded with 2 + L), `length`
    (actions taken), `blends` (of the stem and the T layers so far, flat (1 + T_max)*N, padded with
    0, rounded as they are merged), `preference` (K).

    ## Action Space
    `Dict`: `layer` in `Discrete(L + 1)`, the last is STOP, and `blend` in [0, largest]^N. The first
    step does not read the index, STOP does not read the blend. `action_masks()` says which indices
    are legal.

    With `flat`, one `Box` in [-1, 1], as learners without masks and with a Gaussian around 0 need
    it: a logit for each index, then the blend, -1 for 0 and 1 for `largest`. The index is the legal
    one of the largest logit, so no action is illegal. `same_depth` leaves nothing to choose, and
    the Box is the blend alone, shape (N,).

    Args:
        blends: Experts, depth and the largest coefficient.
        score_paths: Scores complete paths.
        objectives: K.
        limits: Which indices are legal; default: each layer once, in order.
        flat: Whether the action space is the Box.
        scalarisation: u_lambda.
        length_cost: beta_1, for each layer of the path.
        preference_sampler: Draws a preference at reset; default is uniform on the simplex.
        utopia: z of the Tchebycheff utility in units of f / z*, a number or shape (K,).

    Raises:
        InputError: The limits fix the stem, which is a blend like the others.
    """

    def __init__(
        self,
        blends: BlendSpace,
        score_paths: ScorePaths,
        objectives: int,
        limits: PathLimits | None = None,
        flat: bool = False,
        scalarisation: Scalarisation = "weighted_sum",
        length_cost: float = 0.0,
        preference_sampler: PreferenceSampler | None = None,
        utopia: float | np.ndarray = 1.1,
    ) -> None:
        depth, experts = blends.depth, len(blends.experts)
        if limits is None:
            limits = PathLimits(depth, depth, actions="same_depth")
        if limits.stem != "free":
            raise InputError(
                f"the stem of a path of blends is a blend, it cannot be fixed to {limits.stem!r}",
                "leave it free",
            )
        space = PathSpace(
            members=(BASE,),
            num_layers=(depth,),
            limits=limits,
            context=np.zeros((1, 0), np.float32),
            descriptors=np.zeros((1, depth, 0), np.float32),
            can_follow=np.ones((1, 1), dtype=bool),
        )
        self.blends = blends
        self.flat = flat
        actions: spaces.Space[Any] = spaces.Dict(
            {
                "layer": spaces.Discrete(depth + 1),
                "blend": spaces.Box(0.0, blends.largest, (experts,), np.float32),
            }
        )
        if flat:
            logits = 0 if space.same_depth else depth + 1
            actions = spaces.Box(-1.0, 1.0, (logits + experts,), np.float32)
        seen = (1 + space.max_length) * experts
        super().__init__(
            space,
            {"blends": spaces.Box(0.0, blends.largest, (seen,), np.float32)},
            actions,
            score_paths,
            objectives,
            Utility(scalarisation, length_cost, utopia),
            preference_sampler,
        )

    def mask(self, episode: Episode) -> np.ndarray:
        """Legal indices of an episode, boolean of shape (L + 1,); all where none is read."""
        legal = super().mask(episode)[1 + STEM :]
        return legal if episode.tokens else np.ones_like(legal)

    def take(self, episode: Episode, action: Any) -> None:
        """Take one action, of either form; nothing happens once the episode has ended."""
        index, blend = self._read_flat(episode, action) if self.flat else _read(action)
        super().take(episode, 1 + STEM + index if episode.tokens else STEM)
        if not self.ended(episode):
            episode.blends.append(self.blends.rounded(blend))

    def _read_flat(self, episode: Episode, action: np.ndarray) -> tuple[int, np.ndarray]:
        row = np.asarray(action, dtype=np.float64)
        logits, blend = np.split(row, [len(row) - len(self.blends.experts)])
        legal = self.mask(episode)
        index = np.where(legal, logits, -np.inf).argmax() if len(logits) else legal.argmax()
        return int(index), (blend + 1.0) / 2.0 * self.blends.largest

    def path(self, episode: Episode) -> LayerPath:
        """The path of an episode that ended legally."""
        layers = self.space.token_layer[episode.tokens[1:-1]]
        return self.blends.decode(np.array(episode.blends), layers.tolist())

    def action_on(self, path: LayerPath, episode: Episode) -> Any:
        """The next action on a path that keeps each layer at its depth, in the form of this one."""
        rows = self._rows(path)
        taken = len(episode.tokens)
        index = max(taken - 1, 0)  # of STOP it is L, as the number of layers
        blend = rows[taken] if taken < len(rows) else np.zeros(rows.shape[1])
        if not self.flat:
            return {"layer": np.int64(index), "blend": blend.astype(np.float32)}
        logits = -np.ones(0 if self.space.same_depth else self.blends.depth + 1)
        if len(logits):
            logits[index] = 1.0
        row = np.concatenate([logits, blend / self.blends.largest * 2.0 - 1.0])
        return row.astype(np.float32)

    def _rows(self, path: LayerPath) -> np.ndarray:
        """Blends of a path, shape (1 + L, N), the stem's first."""
        rows = self.blends.encode(Candidate(path))
        if rows is None:
            raise ValueError(f"{path} is no path of blends in the model's order")
        return rows

    def offers(self, path: LayerPath) -> bool:
        """Whether an episode can end in the blends that a path is made of, each at its depth."""
        if not self.space.min_length <= path.length <= self.space.max_length:
            return False
        return self.blends.offers(path) and self._rows(path).max() <= self.blends.largest

    def observe(self, episode: Episode) -> Observation:
        """What an agent sees of an episode."""
        padded = np.zeros((1 + self.space.max_length, len(self.blends.experts)), np.float32)
        if episode.blends:
            padded[: len(episode.blends)] = episode.blends
        return {**super().observe(episode), "blends": padded.ravel()}


def _read(action: dict[str, Any]) -> tuple[int, np.ndarray]:
    return int(action["layer"]), np.asarray(action["blend"], dtype=np.float64)
