"""What paths there are: members, legal moves, and the token form that everybody shares.

Actions are numbered stem choices first (0 .. M-1), then layers (M + m*L + l), then STOP (M + M*L).
A path in token form is its actions in order, padded with `pad` to `max_length + 2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hm3rl.errors import InputError
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.limits import PathLimits


@dataclass(frozen=True, eq=False)
class PathSpace:
    """The legal paths over the members offered, and what networks may know of the members.

    Attributes:
        members: Names of the M members offered.
        num_layers: Layers of each member, length M; L is the largest.
        limits: Length limits, who may be the stem, which layers may stand at which depth.
        context: Recipe features of the members, float32 of shape (M, R).
        descriptors: Layer descriptors, float32 of shape (M, L, D).
        can_follow: Boolean, shape (M, M): may a layer of the second member follow one of the first.
    """

    members: tuple[str, ...]
    num_layers: tuple[int, ...]
    limits: PathLimits
    context: np.ndarray
    descriptors: np.ndarray
    can_follow: np.ndarray

    def __post_init__(self) -> None:
        m, depth = len(self.members), self.depth
        expected = {"context": (m,), "descriptors": (m, depth), "can_follow": (m, m)}
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found[: len(shape)] != shape:
                raise ValueError(f"{name} must have a shape that begins with {shape}, got {found}")
        if not self.can_follow.diagonal().all():
            raise ValueError("a member's layers must be able to follow one another")
        if self.limits.stem != "free" and self.limits.stem not in self.members:
            raise InputError(
                f"the stem {self.limits.stem!r} is not a member",
                f"use free or one of {', '.join(self.members)}",
            )
        if self.same_depth and len(set(self.num_layers)) > 1:
            raise InputError(
                f"same_depth paths need members of one depth, got {self.num_layers}",
                "use paths.actions=any",
            )

    @property
    def depth(self) -> int:
        """L, the most layers a member has."""
        return max(self.num_layers)

    @property
    def same_depth(self) -> bool:
        """Whether depth t only takes layers with index t."""
        return self.limits.actions == "same_depth"

    @property
    def max_length(self) -> int:
        """Most layers of a path."""
        return self.depth if self.same_depth else self.limits.max_length

    @property
    def min_length(self) -> int:
        """Fewest layers of a path."""
        return self.depth if self.same_depth else self.limits.min_length

    @property
    def horizon(self) -> int:
        """Most actions of an episode: stem, layers, STOP."""
        return self.max_length + 2

    @property
    def stop(self) -> int:
        """The action that ends the path."""
        return len(self.members) * (1 + self.depth)

    @property
    def num_actions(self) -> int:
        """Stems, layers and STOP."""
        return self.stop + 1

    @property
    def pad(self) -> int:
        """Token of unused places; never an action."""
        return self.num_actions

    @cached_property
    def token_member(self) -> np.ndarray:
        """Member of each token, shape (num_actions + 1,); -1 for STOP and padding."""
        m = len(self.members)
        layers = np.repeat(np.arange(m), self.depth)
        return np.concatenate([np.arange(m), layers, [-1, -1]])

    @cached_property
    def token_layer(self) -> np.ndarray:
        """Layer of each token, shape (num_actions + 1,); -1 for stems, STOP and padding."""
        m = len(self.members)
        return np.concatenate([np.full(m, -1), np.tile(np.arange(self.depth), m), [-1, -1]])

    @cached_property
    def _exists(self) -> np.ndarray:
        """Layer actions whose member has that layer, shape (M*L,)."""
        counts = np.asarray(self.num_layers)
        return (np.arange(self.depth)[None, :] < counts[:, None]).ravel()

    def layer_action(self, member: int, layer: int) -> int:
        """Number of the action that appends a layer."""
        return len(self.members) + member * self.depth + layer

    def mask(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Legal actions after the actions taken so far.

        Args:
            tokens: Actions taken, without padding; they must have been legal themselves.

        Returns:
            Boolean array of shape (num_actions,); only STOP once the path is complete, which is the
            no-op of an episode that waits for others.
        """
        last = int(tokens[-1]) if len(tokens) else self.pad
        return self.mask_after(last, len(tokens)).copy()

    def mask_after(self, last: int, taken: int) -> np.ndarray:
        """Legal actions after `taken` actions, the last of which was `last` (padding if none).

        Returns:
            Read-only boolean array of shape (num_actions,).
        """
        if (last, taken) not in self._masks:
            legal = self._legal(last, taken)
            legal.setflags(write=False)
            self._masks[last, taken] = legal
        return self._masks[last, taken]

    @cached_property
    def _masks(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    def _legal(self, last: int, taken: int) -> np.ndarray:
        legal = np.zeros(self.num_actions, dtype=bool)
        m, length = len(self.members), taken - 1
        if taken == 0:
            stems = [self.limits.stem] if self.limits.stem != "free" else self.members
            legal[[self.members.index(name) for name in stems]] = True
        elif last == self.stop or length >= self.max_length:
            legal[self.stop] = True
        else:
            member = self.token_member[last]
            layers = self._exists & np.repeat(self.can_follow[member], self.depth)
            if self.same_depth:
                layers = layers & (self.token_layer[m : self.stop] == length)
            legal[m : self.stop] = layers
            legal[self.stop] = length >= self.min_length
        return legal

    def pad_tokens(self, tokens: Sequence[int]) -> np.ndarray:
        """Actions padded to the horizon, int64 of shape (horizon,)."""
        row = np.full(self.horizon, self.pad, dtype=np.int64)
        row[: len(tokens)] = tokens
        return row

    def encode(self, path: LayerPath) -> np.ndarray:
        """Token form of a path, STOP included.

        Args:
            path: A path over members of this space.

        Returns:
            int64 array of shape (horizon,).

        Raises:
            ValueError: The path is longer than the space allows or names a stranger.
        """
        index = {name: i for i, name in enumerate(self.members)}
        try:
            layers = [self.layer_action(index[ref.member], ref.layer) for ref in path.refs]
            tokens = [index[path.stem], *layers, self.stop]
        except KeyError as error:
            raise ValueError(f"{path} uses {error} which this space does not offer") from None
        if len(tokens) > self.horizon:
            raise ValueError(f"{path} is longer than {self.max_length} layers")
        return self.pad_tokens(tokens)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> LayerPath:
        """Path of a token row (padding and STOP are skipped)."""
        actions = [int(t) for t in tokens if t < self.stop]
        refs = tuple(
            LayerRef(self.members[self.token_member[a]], int(self.token_layer[a]))
            for a in actions[1:]
        )
        return LayerPath(refs, stem=self.members[actions[0]])

    def is_legal(self, tokens: Sequence[int] | np.ndarray) -> bool:
        """Whether a padded row is a complete path that the masks allow."""
        actions = [int(t) for t in tokens if t != self.pad]
        if not actions or actions[-1] != self.stop:
            return False
        return all(self.mask(actions[:i])[action] for i, action in enumerate(actions))

    def legal_rows(self, tokens: np.ndarray) -> np.ndarray:
        """Which padded rows are complete legal paths; `is_legal` for many rows at once.

        Args:
            tokens: Integers of shape (n, horizon), each row stem, layers, STOP, padding.

        Returns:
            Boolean array of shape (n,).
        """
        m = len(self.members)
        body = tokens[:, 1:]
        layer = (body >= m) & (body < self.stop)
        length = layer.sum(axis=1)
        place = np.arange(body.shape[1])[None, :]
        end = np.where(place == length[:, None], self.stop, self.pad)
        form = np.where(place < length[:, None], layer, body == end).all(axis=1)
        stem = (tokens[:, 0] >= 0) & (tokens[:, 0] < m)
        if self.limits.stem != "free":
            stem &= tokens[:, 0] == self.members.index(self.limits.stem)
        member = self.token_member[tokens]
        follows = self.can_follow[member[:, :-1], member[:, 1:]] | ~layer
        exists = np.append(np.ones(m, dtype=bool), self._exists)[np.where(layer, body, 0)]
        depth = self.token_layer[body] == place if self.same_depth else np.ones_like(layer)
        within = (length >= self.min_length) & (length <= self.max_length)
        return form & stem & within & (follows & exists & (depth | ~layer)).all(axis=1)

    def offers(self, path: LayerPath) -> bool:
        """Whether a path can be walked in this space."""
        try:
            return self.is_legal(self.encode(path))
        except ValueError:
            return False

    def lengths(self, tokens: np.ndarray) -> np.ndarray:
        """Layers of complete paths, T; integers of shape (n,) for rows of shape (n, horizon)."""
        m = len(self.members)
        return np.asarray(((tokens >= m) & (tokens < self.stop)).sum(axis=-1))

    def whole(self, member: int) -> np.ndarray:
        """Token form of one member as it is, shape (horizon,)."""
        layers = [self.layer_action(member, layer) for layer in range(self.num_layers[member])]
        return self.pad_tokens([member, *layers, self.stop])
