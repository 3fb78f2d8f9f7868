"""Ways to make a path from other paths: mixtures, mutations, crossover, neighbours.

All work on token rows (see `PathSpace`) and return legal rows only.
"""

from __future__ import annotations

import numpy as np

from hm3rl.paths.space import PathSpace

ATTEMPTS = 20
"""Tries of a random move before the path is left as it is."""

RANDOM_MOVES = 2
"""Random moves among the neighbours: runs, swaps, skips and repeats."""


def body_of(space: PathSpace, row: np.ndarray) -> list[int]:
    """Layer actions of a row."""
    return [int(t) for t in row[1:] if t < space.stop]


def row_of(space: PathSpace, stem: int, body: list[int]) -> np.ndarray:
    """Row of a stem and layer actions; the caller checks that it is legal."""
    return space.pad_tokens([stem, *body, space.stop])


def mixtures(
    space: PathSpace, weights: np.ndarray, switch: float, rng: np.random.Generator
) -> np.ndarray:
    """Same-depth paths whose members are drawn by weight, in runs.

    Args:
        space: The space.
        weights: Probabilities of the members for each path, shape (n, M).
        switch: Probability to draw the member anew at a depth, instead of keeping it.
        rng: Source of randomness.

    Returns:
        Legal rows, shape (at most n, horizon); empty if no member has a legal length.
    """
    rows = []
    count = len(space.members)
    for p in weights:
        fixed = space.limits.stem
        stem = int(rng.choice(count, p=p)) if fixed == "free" else space.members.index(fixed)
        member = int(rng.choice(count, p=p))
        body = []
        for layer in range(min(space.num_layers)):
            if rng.random() < switch:
                member = int(rng.choice(count, p=p))
            body.append(space.layer_action(member, layer))
        if len(body) <= space.max_length:
            rows.append(row_of(space, stem, body))
    found = np.array(rows, dtype=np.int64).reshape(len(rows), space.horizon)
    return found[space.legal_rows(found)]


def random_walk(space: PathSpace, rng: np.random.Generator) -> np.ndarray:
    """A path of uniformly random legal actions, shape (horizon,)."""
    tokens: list[int] = []
    while not tokens or tokens[-1] != space.stop:
        tokens.append(int(rng.choice(np.flatnonzero(space.mask(tokens)))))
    return space.pad_tokens(tokens)


def _replace(space: PathSpace, body: list[int], rng: np.random.Generator) -> list[int]:
    """Give a run of layers to one member; half of the time the run is a single layer."""
    m = len(space.members)
    start = int(rng.integers(len(body)))
    longest = len(body) - start
    run = 1 if rng.random() < 0.5 else int(rng.integers(1, longest + 1))
    member = int(rng.integers(m))
    layers = [int(space.token_layer[a]) for a in body[start : start + run]]
    if any(layer >= space.num_layers[member] for layer in layers):
        return body
    changed = [space.layer_action(member, layer) for layer in layers]
    return body[:start] + changed + body[start + run :]


def _swap(space: PathSpace, body: list[int], rng: np.random.Generator) -> list[int]:
    """Exchange the members (same depth) or the layers of two places."""
    i, j = (int(x) for x in rng.integers(len(body), size=2))
    out = list(body)
    if space.same_depth:
        a, b = space.token_member[body[i]], space.token_member[body[j]]
        out[i] = space.layer_action(int(b), int(space.token_layer[body[i]]))
        out[j] = space.layer_action(int(a), int(space.token_layer[body[j]]))
    else:
        out[i], out[j] = out[j], out[i]
    return out


def _skip(space: PathSpace, body: list[int], rng: np.random.Generator) -> list[int]:
    """Leave a layer out."""
    at = int(rng.integers(len(body)))
    return body[:at] + body[at + 1 :]


def _repeat(space: PathSpace, body: list[int], rng: np.random.Generator) -> list[int]:
    """Run a layer twice."""
    at = int(rng.integers(len(body)))
    return body[: at + 1] + body[at:]


def mutate(
    space: PathSpace, row: np.ndarray, rng: np.random.Generator, times: int = 1
) -> np.ndarray:
    """Apply random moves: replace, swap, another stem, and where legal skip and repeat.

    Args:
        space: The space.
        row: A legal row.
        rng: Source of randomness.
        times: Moves to apply.

    Returns:
        A legal row; the given one if every attempt was illegal.
    """
    current = np.asarray(row)
    for _ in range(times):
        for _ in range(ATTEMPTS):
            stem, body = int(current[0]), body_of(space, current)
            kind = rng.random()
            if kind < 0.15 and space.limits.stem == "free":
                stem = int(rng.integers(len(space.members)))
            elif kind < 0.25:
                body = _swap(space, body, rng)
            elif kind < 0.40 and not space.same_depth:
                body = (_skip if rng.random() < 0.5 else _repeat)(space, body, rng)
            else:
                body = _replace(space, body, rng)
            if not space.min_length <= len(body) <= space.max_length:
                continue
            changed = row_of(space, stem, body)
            if not (changed == current).all() and space.legal_rows(changed[None])[0]:
                current = changed
                break
    return current


def crossover(
    space: PathSpace, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Replace a random run of one path by the same places of another; the stem of either.

    Returns:
        A legal row; the first path if no attempt was legal.
    """
    a, b = body_of(space, first), body_of(space, second)
    for _ in range(ATTEMPTS):
        i, j = sorted(int(x) for x in rng.integers(0, min(len(a), len(b)) + 1, size=2))
        stem = int(first[0] if rng.random() < 0.5 else second[0])
        child = row_of(space, stem, a[:i] + b[i:j] + a[j:])
        if not (child == first).all() and space.legal_rows(child[None])[0]:
            return child
    return np.asarray(first)


def neighbours(
    space: PathSpace, row: np.ndarray, limit: int, rng: np.random.Generator
) -> np.ndarray:
    """Paths one move away: every single replacement and stem, and a few random moves.

    Args:
        space: The space.
        row: A legal row.
        limit: At most so many replacements; more are thinned at random.
        rng: Source of randomness.

    Returns:
        Legal rows other than the given one, shape (n, horizon); random moves may repeat others.
    """
    m = len(space.members)
    body = np.array(body_of(space, row))
    layers = space.token_layer[body]
    places = np.repeat(np.arange(len(body)), m)
    members = np.tile(np.arange(m), len(body))
    exists = layers[places] < np.asarray(space.num_layers)[members]
    changed = exists & (m + members * space.depth + layers[places] != body[places])
    places, members = places[changed], members[changed]
    if len(places) > limit:
        keep = np.sort(rng.permutation(len(places))[:limit])
        places, members = places[keep], members[keep]
    replaced = np.tile(row, (len(places), 1))
    replaced[np.arange(len(places)), places + 1] = m + members * space.depth + layers[places]
    stems = np.tile(row, (m, 1))
    stems[:, 0] = np.arange(m)
    moves = [mutate(space, row, rng) for _ in range(RANDOM_MOVES)]
    rows = np.concatenate([stems, replaced, np.array(moves)])
    return rows[(rows != row).any(axis=1) & space.legal_rows(rows)]
