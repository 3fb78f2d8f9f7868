"""Depth-wise integration's search space: at each depth an ordered selection of members' layers.

Su and Geiping (arXiv 2502.04030) give each depth l a block: layer l of some of the models, in some
order, one after the other. An empty block skips the depth, a block of two deepens the model there;
layers of other depths never come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hm3rl.paths.space import PathSpace
from hm3rl.paths.variation import ATTEMPTS


class Blocks(NamedTuple):
    """One point of the space.

    Attributes:
        stem: Index of the member that lends the stem.
        members: For each depth the members whose layer stands there, in order, none twice.
    """

    stem: int
    members: tuple[tuple[int, ...], ...]


class BlockSpace:
    """Draws, varies and describes blocks; what it returns is always a legal path.

    Args:
        space: Legal paths. With same-depth paths every block has one layer.
    """

    def __init__(self, space: PathSpace) -> None:
        self.space = space
        stems = space.limits.stem
        every = range(len(space.members))
        self._stems = list(every) if stems == "free" else [space.members.index(stems)]
        self._has = [[m for m in every if space.num_layers[m] > d] for d in range(space.depth)]

    def row(self, blocks: Blocks) -> np.ndarray | None:
        """Token row of a point, shape (horizon,); None if it is no legal path."""
        space = self.space
        body = [space.layer_action(m, d) for d, b in enumerate(blocks.members) for m in b]
        if len(body) > space.max_length:
            return None
        row = space.pad_tokens([blocks.stem, *body, space.stop])
        return row if space.is_legal(row) else None

    def whole(self, member: int) -> Blocks:
        """A member as it is."""
        depth = self.space.num_layers[member]
        empty = ((),) * (self.space.depth - depth)
        return Blocks(member, ((member,),) * depth + empty)

    def draw(self, rng: np.random.Generator) -> Blocks | None:
        """A point at random: length uniform among the legal, then members uniform.

        Returns:
            The point; None if `ATTEMPTS` draws were illegal (possible in mixed pools).
        """
        space = self.space
        for _ in range(ATTEMPTS):
            length = int(rng.integers(space.min_length, space.max_length + 1))
            counts = self._counts(length, rng)
            blocks = Blocks(
                int(rng.choice(self._stems)),
                tuple(
                    tuple(int(m) for m in rng.permutation(has)[:count])
                    for has, count in zip(self._has, counts, strict=True)
                ),
            )
            if self.row(blocks) is not None:
                return blocks
        return None

    def _counts(self, length: int, rng: np.random.Generator) -> list[int]:
        """Layers in each block: about one, `length` in all if blocks can hold so many."""
        depth = self.space.depth
        counts = [1] * depth
        if self.space.same_depth:
            return counts
        # Uneven blocks of the same total length are points, too.
        moved = int(rng.integers(0, depth // 2 + 1))
        for step in (
            [1] * moved + [-1] * moved + [int(np.sign(length - depth))] * abs(length - depth)
        ):
            places = [d for d in range(depth) if 0 <= counts[d] + step <= len(self._has[d])]
            if places:
                counts[int(rng.choice(places))] += step
        return counts

    def vary(self, blocks: Blocks, rng: np.random.Generator) -> Blocks:
        """A neighbour: another stem, or one block changed by one layer.

        Returns:
            A legal point; the given one if `ATTEMPTS` changes were illegal.
        """
        for _ in range(ATTEMPTS):
            changed = self._change(blocks, rng)
            if changed != blocks and self.row(changed) is not None:
                return changed
        return blocks

    def _change(self, blocks: Blocks, rng: np.random.Generator) -> Blocks:
        depth = int(rng.integers(-1, self.space.depth))
        if depth < 0:
            return blocks._replace(stem=int(rng.choice(self._stems)))
        block = list(blocks.members[depth])
        absent = [m for m in self._has[depth] if m not in block]
        kinds = ["replace"] if self.space.same_depth else ["replace", "insert", "remove", "order"]
        kind = str(rng.choice(kinds))
        if kind == "replace" and block and absent:
            block[int(rng.integers(len(block)))] = int(rng.choice(absent))
        elif kind == "insert" and absent:
            block.insert(int(rng.integers(len(block) + 1)), int(rng.choice(absent)))
        elif kind == "remove" and block:
            del block[int(rng.integers(len(block)))]
        elif kind == "order":
            block = [int(m) for m in rng.permutation(block)]
        members = list(blocks.members)
        members[depth] = tuple(block)
        return blocks._replace(members=tuple(members))

    def features(self, blocks: Blocks) -> np.ndarray:
        """What a model of the scores sees of a point: recipes, never who is which member.

        Returns:
            For each block the number of layers, the mean of their members' recipe features and,
            where blocks may have several, the first one's; then the stem's:
            shape (L * (1 + R) + R,), or (L * (1 + 2R) + R,).
        """
        recipes = [self.space.context[list(block)] for block in blocks.members]
        return self._described(recipes, self.space.context[blocks.stem])

    def whole_features(self, recipe: np.ndarray) -> np.ndarray:
        """The same of a whole model, member or not, with recipe features of shape (R,)."""
        return self._described([recipe[None]] * self.space.depth, recipe)

    def _described(self, blocks: Sequence[np.ndarray], stem: np.ndarray) -> np.ndarray:
        none = np.zeros((1, len(stem)))
        columns = [[float(len(block))] for block in blocks]
        columns += [(block if len(block) else none).mean(axis=0) for block in blocks]
        if not self.space.same_depth:
            columns += [(block if len(block) else none)[0] for block in blocks]
        return np.concatenate([*columns, stem])
