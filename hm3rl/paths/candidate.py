"""`Candidate`: everything needed to rebuild a model from the sources, with a content key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hm3rl.errors import InputError
from hm3rl.merging.blend import blend_of, is_blend
from hm3rl.merging.recipe import MERGED_PREFIX, MergeRecipe, blend_recipe, names_merge
from hm3rl.models.hashing import short_hash
from hm3rl.models.names import BASE
from hm3rl.paths.alignment_kind import NO_ALIGNMENT, read_scales, split_alignment
from hm3rl.paths.layer_path import LayerPath, LayerRef

STEM_HEAD = "stem"
"""Value of `Candidate.head`: the head comes with the stem."""


@dataclass(frozen=True)
class Candidate:
    """A model to be scored or exported.

    Attributes:
        path: The layers, and the member that lends the stem.
        recipes: Recipes of exactly the merged members the path or head refers to, by name.
        head: "stem", or the member whose output head is used (an untied head then).
        alignment: "none", or kind and calibration batch of the alignment between stitched layers,
            as `MemberSet.alignment` writes it, or one given factor for each stitch point
            (`write_scales`); a path without stitch points has none, and neither has one with
            factors of 1.
    """

    path: LayerPath
    recipes: tuple[MergeRecipe, ...] = ()
    head: str = STEM_HEAD
    alignment: str = NO_ALIGNMENT

    def __post_init__(self) -> None:
        """Sort the recipes and check that they are the ones referred to."""
        split_alignment(self.alignment)
        factors, stitch_points = read_scales(self.alignment), len(self.path.stitch_points)
        if factors and len(factors) != stitch_points:
            raise InputError(
                f"the path {self.path} has {stitch_points} stitch points, "
                f"but {len(factors)} scales are given",
                "give one for each layer that does not follow its original neighbour",
            )
        if not stitch_points or (factors and set(factors) == {1.0}):
            object.__setattr__(self, "alignment", NO_ALIGNMENT)
        recipes = tuple(sorted(set(self.recipes), key=lambda recipe: recipe.name))
        head = STEM_HEAD if self.head == self.path.stem else self.head
        object.__setattr__(self, "recipes", recipes)
        object.__setattr__(self, "head", head)
        given = tuple(recipe.name for recipe in recipes)
        wanted = tuple(sorted(n for n in self.members if n.startswith(MERGED_PREFIX)))
        if given != wanted:
            raise InputError(
                f"the candidate {self.path} refers to the merged members {wanted or 'none'} "
                f"but carries recipes of {given or 'none'}",
                "build it with Candidate.of(path, recipes)",
            )

    @classmethod
    def of(
        cls,
        path: LayerPath,
        recipes: Iterable[MergeRecipe] = (),
        head: str = STEM_HEAD,
        alignment: str = NO_ALIGNMENT,
    ) -> Candidate:
        """Build a candidate, keeping of `recipes` only those that are referred to."""
        used = {*path.members, head}
        kept = tuple(recipe for recipe in recipes if recipe.name in used)
        return cls(path, kept, head, alignment)

    @classmethod
    def whole(cls, member: str | MergeRecipe, num_layers: int) -> Candidate:
        """Build the candidate that is one whole source or one whole merge."""
        if isinstance(member, MergeRecipe):
            return cls(LayerPath.whole(member.name, num_layers), (member,))
        return cls(LayerPath.whole(member, num_layers))

    @property
    def members(self) -> tuple[str, ...]:
        """Every member used, each once, the stem's first."""
        head = () if self.head == STEM_HEAD else (self.head,)
        return tuple(dict.fromkeys((*self.path.members, *head)))

    @property
    def sources(self) -> frozenset[str]:
        """Sources whose weights it has; the base's are in every merge and every blend."""
        merged = [recipe.experts for recipe in self.recipes]
        merged += [tuple(blend_of(name)) for name in self.members if is_blend(name)]
        plain = [name for name in self.members if not names_merge(name)]
        return frozenset(plain).union(*((BASE, *experts) for experts in merged))

    def key(self, hashes: Mapping[str, str]) -> str:
        """Hash the candidate's content: sources, recipes, path, stem, head, alignment.

        Args:
            hashes: Content hash by source name (`ModelPool.hashes`).

        Returns:
            16 hexadecimal digits.

        Raises:
            InputError: The candidate uses a source that `hashes` does not have.
        """
        sources = self.sources
        unknown = sorted(sources - hashes.keys())
        if unknown:
            raise InputError(
                f"the candidate {self.path} uses {unknown[0]!r}, which is no source of the pool",
                f"sources: {', '.join(hashes)}",
            )
        plain = self._spelled_out().to_dict()
        plain["sources"] = {name: hashes[name] for name in sorted(sources)}
        return short_hash(plain)

    def _spelled_out(self) -> Candidate:
        """The same weights with a merged member in each blend's place, so that both have one key.

        An aligned path stays as it is: layers of another merged member would be aligned, too.
        """
        blends = {name: blend_recipe(name) for name in self.members if is_blend(name)}
        if not blends or self.alignment != NO_ALIGNMENT:
            return self
        names = {name: recipe.name for name, recipe in blends.items()}
        path = self.path
        refs = tuple(LayerRef(names.get(member, member), layer) for member, layer in path.refs)
        spelled = LayerPath(refs, names.get(path.stem, path.stem))
        head = names.get(self.head, self.head)
        return Candidate.of(spelled, (*self.recipes, *blends.values()), head)

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as plain data."""
        return {
            "path": str(self.path),
            "recipes": {recipe.name: recipe.to_dict() for recipe in self.recipes},
            "head": self.head,
            "alignment": self.alignment,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Candidate:
        """Rebuild a candidate from `to_dict`.

        Raises:
            InputError: The data are incomplete or contradict themselves.
        """
        if "path" not in plain:
            raise InputError("the candidate has no path", "see recipe.yaml of an exported model")
        given = plain.get("recipes", {})
        if not isinstance(given, Mapping) or not all(
            isinstance(recipe, Mapping) for recipe in given.values()
        ):
            raise InputError(
                f"the candidate's recipes are {given!r}", "write a recipe below each member's name"
            )
        recipes = tuple(MergeRecipe.from_dict(recipe) for recipe in given.values())
        return cls(
            LayerPath.parse(str(plain["path"])),
            recipes,
            str(plain.get("head", STEM_HEAD)),
            str(plain.get("alignment", NO_ALIGNMENT)),
        )
