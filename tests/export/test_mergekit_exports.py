"""Exported folders against mergekit, run on the very mergekit_config.yml that lies in them."""

from __future__ import annotations

import pytest
import yaml
from safetensors.torch import load_file

from hm3rl.export.checkpoint import export_candidate
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

pytest.importorskip("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = {"a": 0.5, "b": 0.3}
CANDIDATES = {
    "linear": Candidate.whole(MergeRecipe.of("linear", {"a": [0.1, 0.9], "b": 0.4}), 4),
    "slerp": Candidate.whole(MergeRecipe.of("slerp", WEIGHTS), 4),
    "task_arithmetic": Candidate.whole(MergeRecipe.of("task_arithmetic", WEIGHTS, scale=0.8), 4),
    "ties": Candidate.whole(MergeRecipe.of("ties", WEIGHTS, density=0.4), 4),
    "dare_ties": Candidate.whole(MergeRecipe.of("dare_ties", WEIGHTS), 4),
    "breadcrumbs": Candidate.whole(MergeRecipe.of("breadcrumbs", WEIGHTS, density=0.7), 4),
    "path": Candidate(LayerPath.parse("a | a[0] + b[2] + b[2] + a[3]")),
}


@pytest.fixture(scope="module", params=("llama", "gpt2", "qwen2"))
def members(request, tmp_path_factory, save_pool, family_configs) -> MemberSet:
    config = family_configs[request.param]
    if request.param == "qwen2":
        # Windows like every other second layer's are what mergekit does not re-order.
        config = type(config)(
            **{**config.to_dict(), "use_sliding_window": False, "layer_types": None}
        )
    folders = save_pool(tmp_path_factory.mktemp(request.param), config, ("a", "b"))
    return MemberSet(ModelPool.load(folders["base"], {"a": folders["a"], "b": folders["b"]}))


@pytest.mark.parametrize("candidate", CANDIDATES.values(), ids=CANDIDATES)
def test_tensor_for_tensor(candidate, members, tmp_path):
    from mergekit import config, merge, options

    export_candidate(candidate, members, tmp_path / "ours")
    plain = yaml.safe_load((tmp_path / "ours" / "mergekit_config.yml").read_text())
    merge.run_merge(
        config.MergeConfiguration.model_validate(plain),
        str(tmp_path / "theirs"),
        options.MergeOptions(copy_tokenizer=False, quiet=True),
    )
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("ours", "theirs"))
    # A tied head is not written by either.
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        limit = 1e-6 * max(1.0, tensor.abs().max().item())
        assert (ours[name] - tensor).abs().max().item() <= limit, name
