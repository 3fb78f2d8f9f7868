"""What the surrogate sees of a complete path: recipes by depth, and transitions.

Everything is a function of the path and its members alone, never of a policy. Depth means the
index of a layer in its source, so that paths with repeats and skips have features of the same
length as plain ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hm3rl.paths.space import PathSpace

OVERALL = 6
"""Transition features of the whole path, beside one for each depth."""


class PathFeatures(NamedTuple):
    """Blocks of features of n paths, each an array of shape (n, ...).

    Attributes:
        recipe: Sum of the used members' recipe features and layer descriptors, by depth, and those
            of the stem, scaled. Members of equal recipe and weights are equal here.
        transition: Changes of member by depth, jumps, and length.
    """

    recipe: np.ndarray
    transition: np.ndarray

    def rows(self, index: np.ndarray) -> PathFeatures:
        """Some of the paths."""
        return PathFeatures(*(block[index] for block in self))

    def stacked(self, other: PathFeatures) -> PathFeatures:
        """These paths followed by others."""
        return PathFeatures(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1 over the first axis; constant ones become 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)


class AuxiliaryData(NamedTuple):
    """Whole models that were scored but are not offered as members.

    Attributes:
        context: Recipe features, shape (n, R).
        descriptors: Layer descriptors, shape (n, L, D).
        vectors: Scores over z*, shape (n, K).
    """

    context: np.ndarray
    descriptors: np.ndarray
    vectors: np.ndarray


class FeatureMap:
    """Turns token rows of a space into `PathFeatures`.

    Args:
        space: The path space.
        auxiliary: Further whole models, described like the members.
    """

    def __init__(self, space: PathSpace, auxiliary: AuxiliaryData | None = None) -> None:
        self.space = space
        m = len(space.members)
        context, layers = space.context, space.descriptors
        if auxiliary is not None:
            context = np.concatenate([context, auxiliary.context])
            layers = np.concatenate([layers, auxiliary.descriptors])
        context = _standardised(context.astype(np.float64))
        context /= np.sqrt(max(1, context.shape[1]))
        layers = _standardised(layers.astype(np.float64))
        layers /= np.sqrt(max(1, layers.shape[2]))
        repeated = np.repeat(context[:, None], space.depth, axis=1)
        described = np.concatenate([repeated, layers], axis=2)
        stems = np.concatenate([context, layers.mean(axis=1)], axis=1)
        recipe, self._depths = self._reduced(described, stems)
        # Choices of offered members come first; whole models of the auxiliary use the rest.
        count = len(context)
        by_layer, by_stem = recipe[: count * space.depth], recipe[count * space.depth :]
        self._recipe = np.concatenate([by_layer[: m * space.depth], by_stem[:m]])
        whole = by_layer.reshape(count, space.depth, -1).sum(axis=1) + by_stem
        self._auxiliary = whole[m:]

    def auxiliary(self) -> PathFeatures:
        """Features of the auxiliary models' own paths."""
        plain = np.zeros((len(self._auxiliary), self.space.depth + OVERALL))
        return PathFeatures(self._auxiliary, plain)

    @property
    def depths(self) -> np.ndarray:
        """Depth of each column of `recipe`, integers of shape (F,); the number L for the stem."""
        return self._depths

    @staticmethod
    def _reduced(layers: np.ndarray, stems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear map from choices to recipe features, in as few columns as keep all distances.

        Args:
            layers: Features of each member's layers, shape (M, L, F).
            stems: Features of each member as a stem, shape (M, F).

        Returns:
            Matrix of shape (M*L + M, columns), each depth rotated to its own principal axes, and
            the depth of each column.
        """
        m, depth, _ = layers.shape
        columns, depths = [], []
        for at in range(depth + 1):
            values = stems if at == depth else layers[:, at]
            left, sizes, _ = np.linalg.svd(values, full_matrices=False)
            keep = sizes > 1e-6 * max(sizes.max(), 1e-12)
            block = np.zeros((m * depth + m, int(keep.sum())))
            rows = np.arange(m) * depth + at if at < depth else m * depth + np.arange(m)
            block[rows] = left[:, keep] * sizes[keep]
            columns.append(block)
            depths += [at] * block.shape[1]
        return np.concatenate(columns, axis=1), np.array(depths)

    def __call__(self, tokens: np.ndarray) -> PathFeatures:
        """Features of complete paths.

        Args:
            tokens: Token rows, integers of shape (n, horizon).
        """
        space = self.space
        n, m, depth = len(tokens), len(space.members), space.depth
        stem = tokens[:, 0]
        body = tokens[:, 1:]
        used = (body >= m) & (body < space.stop)
        counts = np.zeros((n, m * depth))
        rows, columns = np.nonzero(used)
        np.add.at(counts, (rows, body[rows, columns] - m), 1.0)
        choice = np.concatenate([counts, np.eye(m)[stem]], axis=1)

        recipe = choice @ self._recipe

        member = np.where(used, space.token_member[body], -1)
        layer = np.where(used, space.token_layer[body], 0)
        both = used[:, 1:] & used[:, :-1]
        switch = both & (member[:, 1:] != member[:, :-1])
        move = np.where(both, layer[:, 1:] - layer[:, :-1], 1)
        at = np.zeros((n, depth))
        rows, columns = np.nonzero(switch)
        np.add.at(at, (rows, layer[rows, columns + 1]), 1.0)
        length = used.sum(axis=1)
        overall = np.stack(
            [
                switch.sum(axis=1),
                (move == 0).sum(axis=1),
                (move > 1).sum(axis=1),
                (move < 0).sum(axis=1),
                length - depth,
                member[:, 0] != stem,
            ],
            axis=1,
        )
        return PathFeatures(recipe, np.concatenate([at, overall], axis=1).astype(float))
