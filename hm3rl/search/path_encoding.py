"""Paths as vectors, for optimisers of integers and of real numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.paths.alignment_kind import write_scales
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.search.architecture_level import to_candidate


class PathEncoding:
    """What encodings of paths share: the stem, succession, and a whole model for want of a path.

    Args:
        problem: Makes candidates of paths.
        space: Legal paths.
    """

    def __init__(self, problem: MergeProblem, space: PathSpace) -> None:
        self.problem = problem
        self.space = space
        fixed = space.limits.stem
        self.stems = list(range(len(space.members)))
        if fixed != "free":
            self.stems = [space.members.index(fixed)]

    def following(self, stem: int, wanted: Iterable[tuple[int, int]]) -> list[int]:
        """Layer actions of (member, layer) pairs, without those that cannot follow (C4)."""
        last, body = stem, []
        for member, layer in wanted:
            if self.space.can_follow[last, member]:
                body.append(self.space.layer_action(member, layer))
                last = member
        return body

    def candidate(self, stem: int, body: list[int]) -> Candidate:
        """The candidate of a stem and layer actions."""
        return to_candidate(self.problem, self.path(stem, body))

    def path(self, stem: int, body: list[int]) -> LayerPath:
        """The path of a stem and layer actions.

        What C4 leaves too short, or a length that this space does not have, stands for the whole
        model of the stem; only pools of mixed architectures know such a case.
        """
        space = self.space
        path = None
        if len(body) <= space.max_length:
            row = space.pad_tokens([stem, *body, space.stop])
            path = space.decode(row) if space.is_legal(row) else None
        return path or space.decode(space.whole(stem))


class DepthEncoding(PathEncoding):
    """For each depth who lends its layer and, where any path is legal, how often: integers.

    Entries: the stem if it is free, a member for each depth and, unless paths are of the same
    depth, how often its layer runs there (0 skips it). Layers stay in their order; other jumps are
    not expressed. Lengths beyond the limits are mended from the last depth down: repeats go first,
    then layers; skipped layers come back first, then layers are repeated.
    """

    def __init__(self, problem: MergeProblem, space: PathSpace) -> None:
        super().__init__(problem, space)
        self._has = [
            [m for m in range(len(space.members)) if space.num_layers[m] > depth]
            for depth in range(space.depth)
        ]
        members = [len(has) - 1 for has in self._has]
        self._times = 0 if space.same_depth else space.depth
        upper = [len(self.stems) - 1, *members, *[2] * self._times]
        self.upper = np.array(upper, dtype=np.float64)
        self.lower = np.zeros(len(upper))

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors, half of them at random and half members with a quarter of it redrawn."""
        drawn = rng.integers(0, self.upper.astype(int) + 1, size=(n, len(self.upper)))
        if self._times:
            once = rng.random((n, self._times)) < 0.8
            drawn[:, -self._times :][once] = 1
        for row in drawn[1::2]:
            kept = rng.random(len(row)) >= 0.25
            row[kept] = self.whole(int(rng.integers(len(self.space.members))))[kept]
        return drawn.astype(np.float64)

    def whole(self, member: int) -> np.ndarray:
        """The vector of a member as it is, or nearly, where it cannot be the stem or is shorter."""
        stem = self.stems.index(member) if member in self.stems else 0
        places = [has.index(member) if member in has else 0 for has in self._has]
        return np.array([stem, *places, *[1] * self._times])

    def decode(self, vector: np.ndarray) -> Candidate:
        """The candidate of a vector of shape (D,); entries are rounded."""
        genes = np.clip(np.round(vector), self.lower, self.upper).astype(int)
        depth = self.space.depth
        chosen = [has[gene] for has, gene in zip(self._has, genes[1 : depth + 1], strict=True)]
        times = self._mend(genes[depth + 1 :].tolist() or [1] * depth)
        stem = self.stems[genes[0]]
        wanted = ((m, d) for d, m in enumerate(chosen) for _ in range(times[d]))
        return self.candidate(stem, self.following(stem, wanted))

    def _mend(self, times: list[int]) -> list[int]:
        """Bring the length within the limits."""
        low, high, last = self.space.min_length, self.space.max_length, range(len(times))[::-1]
        for floor in (1, 0):
            for depth in last:
                times[depth] -= min(max(times[depth] - floor, 0), max(sum(times) - high, 0))
        for depth in last:
            times[depth] += int(times[depth] == 0 and sum(times) < low)
        while sum(times) < low:
            for depth in last:
                times[depth] += int(sum(times) < low)
        return times


class DataFlowEncoding(PathEncoding):
    """Sakana's indicator over all layers of all members, several times over: real numbers.

    Akiba et al. (arXiv 2403.13187): the layers of model 1 in order, then those of model 2, ..., all
    of it r times; entry i of an array of length T = r * sum_m L_m says by its sign whether layer i
    of that sequence is part of the model. Before it stand entries for the stem, whose largest wins.

    A length beyond the limits is mended by value: the highest entries stay, or come in. With
    same-depth paths, which the paper does not have, the highest entry of each depth wins.

    The paper's W_ij scales what layer i hands to layer j. Its entries are many, so here they follow
    from two numbers for each member (the paper, too, has a version with few parameters):
    log W = (u[member of i] + v[member of j]) / 2 * log `scale_max`, where a path is stitched. What
    the embedding hands to the first layer is not scaled, so that every path can be exported.

    Args:
        problem: Makes candidates of paths.
        space: Legal paths.
        repetitions: r; one is enough for same-depth paths, where order plays no part.
        scale_max: Largest factor of W, its reciprocal the smallest; 1: no W.
    """

    def __init__(
        self, problem: MergeProblem, space: PathSpace, repetitions: int, scale_max: float = 1.0
    ) -> None:
        super().__init__(problem, space)
        once = [(m, layer) for m, count in enumerate(space.num_layers) for layer in range(count)]
        self.layers = once * (1 if space.same_depth else repetitions)
        self.scale_max = scale_max
        scales = 2 * len(space.members) if scale_max > 1 else 0
        size = len(self.stems) + len(self.layers) + scales
        self.lower, self.upper = -np.ones(size), np.ones(size)

    def whole(self, member: int, margin: float) -> np.ndarray:
        """The vector of a member as it is: `margin` for its stem and layers, else -`margin`."""
        on = [stem == member for stem in self.stems]
        taken: set[tuple[int, int]] = set()
        for place in self.layers:
            on.append(place[0] == member and place not in taken)
            taken.add(place)
        scales = np.zeros(len(self.upper) - len(on))
        return np.concatenate([np.where(on, margin, -margin), scales])

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, D)."""
        return rng.uniform(-1.0, 1.0, size=(n, len(self.upper)))

    def decode(self, vector: np.ndarray) -> Candidate:
        """The candidate of a vector of shape (D,)."""
        count = len(self.stems)
        stem = self.stems[int(np.argmax(vector[:count]))]
        values = np.asarray(vector[count : count + len(self.layers)])
        if self.space.same_depth:
            path = self.path(stem, self._by_depth(stem, values))
        else:
            order = np.argsort(-values, kind="stable")
            length = int(np.clip((values > 0).sum(), self.space.min_length, self.space.max_length))
            wanted = (self.layers[i] for i in sorted(order[:length].tolist()))
            path = self.path(stem, self.following(stem, wanted))
        if self.scale_max == 1 or not path.stitch_points:
            return to_candidate(self.problem, path)
        scales = self._scales(path, np.asarray(vector[count + len(self.layers) :]))
        return Candidate.of(path, self.problem.members.recipes, alignment=write_scales(scales))

    def _scales(self, path: LayerPath, entries: np.ndarray) -> list[float]:
        """The factor at each stitch point, from u and v one after the other, shape (2M,)."""
        out, into = np.split(np.clip(entries, -1.0, 1.0), 2)
        place = {name: m for m, name in enumerate(self.space.members)}
        members = [place[ref.member] for ref in path.refs]
        logs = [
            0.0 if at == 0 else (out[members[at - 1]] + into[members[at]]) / 2
            for at in path.stitch_points
        ]
        return [float(self.scale_max**log) for log in logs]

    def _by_depth(self, stem: int, values: np.ndarray) -> list[int]:
        """The member with the highest entry at each depth, among those that can follow."""
        space, last, body = self.space, stem, []
        table = np.full((len(space.members), space.depth), -np.inf)
        for (member, layer), value in zip(self.layers, values, strict=True):
            table[member, layer] = value
        for depth in range(space.depth):
            last = int(np.argmax(np.where(space.can_follow[last], table[:, depth], -np.inf)))
            body.append(space.layer_action(last, depth))
        return body
