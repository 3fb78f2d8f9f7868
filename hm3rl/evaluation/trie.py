"""The trie of the candidates of a batch: stems at the roots, one layer an edge."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hm3rl.evaluation.stack import Stack


@dataclass
class Node:
    """A prefix that some stacks have in common.

    Attributes:
        stack: Number of the first of them; its modules stand for those of all.
        depth: Number of layers in the prefix.
        ends: Numbers of the stacks that are complete here.
        children: Longer prefixes, by the name of the next layer.
    """

    stack: int
    depth: int
    ends: list[int] = field(default_factory=list)
    children: dict[Hashable, Node] = field(default_factory=dict)

    def numbers(self) -> Iterator[int]:
        """Iterate over all stacks that begin with this prefix."""
        yield from self.ends
        for child in self.children.values():
            yield from child.numbers()


def trie(stacks: Sequence[Stack], numbers: Iterable[int]) -> dict[Hashable, Node]:
    """Build the trie of some stacks.

    Args:
        stacks: All stacks.
        numbers: Which of them.

    Returns:
        Roots by the name of the stem; first come, first placed.
    """
    roots: dict[Hashable, Node] = {}
    for number in numbers:
        node = roots.setdefault(stacks[number].stem, Node(number, 0))
        for depth, key in enumerate(stacks[number].keys, 1):
            node = node.children.setdefault(key, Node(number, depth))
        node.ends.append(number)
    return roots


def distinct_prefixes(stacks: Sequence[Stack]) -> int:
    """Count the layer forwards that no evaluation of these stacks can do without."""

    def count(node: Node) -> int:
        return sum(1 + count(child) for child in node.children.values())

    return sum(count(root) for root in trie(stacks, range(len(stacks))).values())
