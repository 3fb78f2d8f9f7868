"""Scalar alignments folded into the weights of every family."""

from __future__ import annotations

import copy

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import decoder_layers
from hm3rl.paths.folding import check_foldable, fold_scalar
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.paths.statistics import Calibration

PATH = LayerPath.parse("a | a[0:2] + b[3] + b[3] + a[1:3]")
TOKENS = torch.randint(3, 32, (2, 15), generator=torch.Generator().manual_seed(2))
CALIBRATION = Calibration.of(TOKENS[:, :9].tolist() + TOKENS[:, 3:].tolist())


@pytest.fixture
def nearly_no_eps(family_pool, save_pool, tmp_path) -> MemberSet:
    """The family's pool with norms whose eps is far below fp32's resolution."""
    config = copy.deepcopy(family_pool.config)
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"):
        if hasattr(config, name):
            setattr(config, name, 1e-14)
    folders = save_pool(tmp_path, config, ("a", "b"))
    pool = ModelPool.load(folders["base"], {name: folders[name] for name in ("a", "b")})
    return MemberSet(pool, calibration=CALIBRATION)


def error(found: torch.nn.Module, wanted: torch.nn.Module) -> float:
    ours, theirs = found(TOKENS).logits, wanted(TOKENS).logits
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_every_family_folds_exactly_but_for_the_norms_eps(nearly_no_eps):
    members = nearly_no_eps
    aligned = assemble(Candidate(PATH, alignment=members.alignment("scalar")), members)
    folded = fold_scalar(aligned)
    assert error(folded.model, aligned) < 2e-5
    assert error(folded.model, assemble(Candidate(PATH), members)) > 1e-3
    views = decoder_layers(folded.model)
    assert all(view.alignment is None for view in views)
    assert {type(view) for view in views} == {type(decoder_layers(members.model("a"))[0])}
    steps = [view.alignment.factor for view in decoder_layers(aligned) if view.alignment]
    assert folded.factors[:2] == (1.0, 1.0)
    assert folded.factors[-1] == pytest.approx(torch.tensor(steps).prod().item())
    assert len(steps) == 3 and len(set(folded.factors)) == 4


def test_sources_and_aligned_model_stay_as_they_are(tiny_pool):
    members = MemberSet(tiny_pool, calibration=CALIBRATION)
    path = LayerPath.parse("a | a[0] + b[2] + b[2] + a[1]")
    before = {name: members.model(name)(TOKENS).logits for name in "ab"}
    aligned = assemble(Candidate(path, alignment=members.alignment("scalar")), members)
    logits = aligned(TOKENS).logits
    folded = fold_scalar(aligned).model
    assert torch.equal(aligned(TOKENS).logits, logits)
    assert all(torch.equal(members.model(n)(TOKENS).logits, before[n]) for n in "ab")
    lent = {t.data_ptr() for n in "ab" for t in members.model(n).state_dict().values()}
    new = [name for name, t in folded.state_dict().items() if t.data_ptr() not in lent]
    ends = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
    assert sorted(new) == sorted(f"model.layers.{d}.{end}" for d in (1, 2, 3) for end in ends)


@pytest.mark.parametrize("kind", ["diagonal", "full", "full_paper", "mlp"])
def test_other_kinds_do_not_fold(kind):
    with pytest.raises(InputError, match=f"has {kind} alignments, which do not fold"):
        check_foldable(Candidate(PATH, alignment=f"{kind}@12345678"))


def test_in_front_of_layer_0_it_is_refused():
    path = LayerPath.parse("a | b[0] + a[1]")
    with pytest.raises(InputError, match="aligned in front of layer 0"):
        check_foldable(Candidate(path, alignment="scalar@12345678"))
    check_foldable(Candidate(path))
    check_foldable(Candidate(PATH, alignment="scalar@12345678"))
