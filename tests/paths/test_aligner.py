"""Aligned paths: what the layers are given, what is shared, what is refused."""

from __future__ import annotations

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import decoder_layers
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.members import MemberSet
from hm3rl.paths.statistics import Calibration, Moments

PATH = LayerPath.parse("a | b[0:2] + a[1] + b[2]")
STITCH_POINTS = (0, 2, 3)
KINDS = ("scalar", "diagonal", "full", "full_paper", "mlp")
RECIPE = MergeRecipe.of("ties", {"a": 0.5, "b": 0.5}, density=0.6)
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def batch(rows: int = 12, seed: int = 0) -> Calibration:
    generator = torch.Generator().manual_seed(seed)
    lengths = [7 + row % 4 for row in range(rows)]
    return Calibration.of(
        [tuple(torch.randint(3, 32, (n,), generator=generator).tolist()) for n in lengths]
    )


def aligned(members: MemberSet, kind: str, path: LayerPath = PATH, recipes=()) -> Candidate:
    return Candidate.of(path, recipes, alignment=members.alignment(kind))


@pytest.fixture
def members(tiny_pool) -> MemberSet:
    return MemberSet(tiny_pool, calibration=batch())


@pytest.fixture
def family_members(family_pool) -> MemberSet:
    return MemberSet(family_pool, calibration=batch())


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 32, (2, 15), generator=torch.Generator().manual_seed(2))


def layer_inputs(model, calibration: Calibration, depth: int) -> torch.Tensor:
    """States that a layer works on, after its alignment: what its first norm is given."""
    seen = []
    layer = decoder_layers(model)[depth]
    norm = next(module for name, module in layer.named_children() if name in FIRST_NORMS)
    handle = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        model(
            calibration.input_ids,
            attention_mask=calibration.attention_mask,
            position_ids=calibration.position_ids,
        )
    finally:
        handle.remove()
    return calibration.tokens(seen[0])


FIRST_NORMS = ("input_layernorm", "ln_1")


def test_seams_are_where_layers_are_no_original_neighbours():
    assert PATH.stitch_points == STITCH_POINTS
    assert LayerPath.parse("a | a[0:3]").stitch_points == ()
    assert LayerPath.parse("a | a[1:3] + a[2]").stitch_points == (0, 2)


@pytest.mark.parametrize("kind", ["scalar", "diagonal"])
def test_every_familys_layers_are_given_what_they_are_used_to(family_members, kind):
    model = assemble(aligned(family_members, kind), family_members)
    calibration = family_members.calibration
    for depth in STITCH_POINTS:
        member, layer = PATH.refs[depth]
        home = assemble(Candidate.whole(member, 4), family_members)
        native = Moments.of(layer_inputs(home, calibration, layer))
        given = Moments.of(layer_inputs(model, calibration, depth))
        assert given.mean_square == pytest.approx(native.mean_square, rel=2e-2)
        if kind == "diagonal":
            scale = native.variance.mean().sqrt().item()
            torch.testing.assert_close(given.mean, native.mean, atol=1e-3 * scale, rtol=1e-3)
            torch.testing.assert_close(given.variance, native.variance, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("kind", ["full", "full_paper"])
def test_full_gives_native_covariances(members, kind):
    model = assemble(aligned(members, kind), members)
    for depth in STITCH_POINTS[1:]:
        member, layer = PATH.refs[depth]
        home = assemble(Candidate.whole(member, 3), members)
        native = Moments.of(layer_inputs(home, members.calibration, layer), full=True)
        given = Moments.of(layer_inputs(model, members.calibration, depth), full=True)
        error = (given.covariance - native.covariance).norm() / native.covariance.norm()
        assert error < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_cached_uncached_and_left_padded_decoding_agree(members, tokens, kind):
    model = assemble(aligned(members, kind), members)
    cached = model.generate(tokens, use_cache=True, **GREEDY)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **GREEDY))
    padded, mask = tokens.clone(), torch.ones_like(tokens)
    padded[0, :4] = mask[0, :4] = 0
    together = model.generate(padded, attention_mask=mask, **GREEDY)[0, tokens.shape[1] :]
    alone = model.generate(tokens[:1, 4:], **GREEDY)[0, tokens.shape[1] - 4 :]
    assert torch.equal(together, alone)
    plain = assemble(Candidate(PATH), members)
    assert not torch.allclose(model(tokens).logits, plain(tokens).logits, atol=1e-3)


def test_aligned_families_decode_with_the_cache_as_without(family_members, tokens):
    model = assemble(aligned(family_members, "scalar"), family_members)
    cached = model.generate(tokens, use_cache=True, **GREEDY)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **GREEDY))


def test_views_say_what_they_are(members):
    model = assemble(aligned(members, "diagonal"), members)
    views = decoder_layers(model)
    assert [view.source for view in views] == list(PATH.refs)
    assert [view.alignment is not None for view in views] == [d in STITCH_POINTS for d in range(4)]
    names = set(members.model("a").state_dict())
    assert {n.replace("layers.3.", "layers.0.") for n in model.state_dict()} <= names
    plain = decoder_layers(assemble(Candidate(PATH), members))
    assert [view.source for view in plain] == list(PATH.refs)
    assert {view.alignment for view in plain} == {None}
    assert {type(view) for view in plain} == {type(decoder_layers(members.model("a"))[0])}


def test_common_beginnings_share_maps_and_known_maps_cost_no_pass(members):
    aligner = members.aligner("scalar")
    first = decoder_layers(assemble(aligned(members, "scalar"), members))
    passes = aligner.passes
    again = decoder_layers(assemble(aligned(members, "scalar"), members))
    shorter = LayerPath(PATH.refs[:3], PATH.stem)
    short = decoder_layers(assemble(aligned(members, "scalar", shorter), members))
    assert aligner.passes == passes
    assert all(one.alignment is two.alignment for one, two in zip(first, again, strict=True))
    assert short[2].alignment is first[2].alignment
    other = LayerPath((LayerRef("c", 0), *PATH.refs[1:]), PATH.stem)
    changed = decoder_layers(assemble(aligned(members, "scalar", other), members))
    assert aligner.passes == passes + 2  # the path's, and c's own statistics
    assert changed[2].alignment != first[2].alignment


def test_maps_do_not_depend_on_what_was_fitted_before_or_on_the_memory(members, tiny_pool, tokens):
    longer = LayerPath((*PATH.refs, LayerRef("c", 1)), PATH.stem)
    assemble(aligned(members, "full", PATH), members)
    late = assemble(aligned(members, "full", longer), members)
    fresh = MemberSet(tiny_pool, calibration=batch())
    fresh.aligner("full").limit_bytes = 3000
    early = assemble(aligned(fresh, "full", longer), fresh)
    assert fresh.aligner("full").cached_bytes <= 3000 < members.aligner("full").cached_bytes
    torch.testing.assert_close(late(tokens).logits, early(tokens).logits, atol=1e-4, rtol=1e-4)


def test_padding_does_not_enter_the_statistics(members, tiny_pool):
    plain = members.calibration
    width = (len(plain.input_ids), 5)
    wide = Calibration(
        torch.cat([torch.full(width, 17), plain.input_ids], dim=1),
        torch.cat([torch.zeros(width, dtype=torch.long), plain.attention_mask], dim=1),
    )
    assert wide.key == plain.key
    padded = MemberSet(tiny_pool, calibration=wide)
    one, two = (
        decoder_layers(assemble(aligned(m, "scalar"), m))[3].alignment for m in (members, padded)
    )
    assert one == two
    assert one.factor == pytest.approx(two.factor, rel=1e-5)


def test_merged_members_are_known_by_their_recipe(members, tiny_pool):
    path = LayerPath.parse(f"a | a[0] + {RECIPE.name}[1] + a[2]")
    members.add(MergeRecipe.of("linear", {"c": 1.0}))
    one = decoder_layers(assemble(aligned(members, "scalar", path, [RECIPE]), members))
    other = MemberSet(tiny_pool, calibration=batch())
    two = decoder_layers(assemble(aligned(other, "scalar", path, [RECIPE]), other))
    assert one[1].alignment.key == two[1].alignment.key
    assert one[1].alignment.factor == two[1].alignment.factor
    assert members.content(RECIPE.name) == other.content(RECIPE.name)
    assert members.content("a") == tiny_pool.hashes["a"]


def test_without_or_with_another_calibration_batch_it_is_refused(members, tiny_pool):
    candidate = aligned(members, "scalar")
    with pytest.raises(InputError, match="alignment scalar needs a calibration batch"):
        assemble(candidate, MemberSet(tiny_pool))
    with pytest.raises(InputError, match="alignment diagonal needs a calibration batch"):
        MemberSet(tiny_pool).alignment("diagonal")
    with pytest.raises(InputError, match=r"aligned on calibration batch .*, this is batch"):
        assemble(candidate, MemberSet(tiny_pool, calibration=batch(seed=1)))
    with pytest.raises(InputError, match="unknown alignment 'bent'"):
        members.alignment("bent")
