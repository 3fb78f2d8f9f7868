"""Our merges and paths against mergekit's own `run_merge`, tensor for tensor.

Runs where mergekit is installed (it is an oracle, not a dependency).
"""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.paths.mergekit_yaml import to_mergekit

pytest.importorskip("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = {"a": 0.5, "b": 0.3}
RECIPES = {
    "linear": MergeRecipe.of("linear", WEIGHTS),
    "linear_sum": MergeRecipe.of("linear", {"a": 0.5, "b": 0.8}, normalise=False),
    "slerp": MergeRecipe.of("slerp", WEIGHTS),
    "task_arithmetic": MergeRecipe.of("task_arithmetic", WEIGHTS, scale=1.7),
    "ties": MergeRecipe.of("ties", WEIGHTS, density=0.4, scale=1.3),
    "ties_sum": MergeRecipe.of("ties", WEIGHTS, density=0.4, normalise=False),
    "ties_densities": MergeRecipe.of("ties", WEIGHTS, densities=(("a", 0.3),)),
    "dare_linear": MergeRecipe.of("dare_linear", WEIGHTS),
    "dare_ties": MergeRecipe.of("dare_ties", WEIGHTS, scale=0.7),
}
FAMILIES = ("llama", "llama_tied", "gpt2", "qwen2")


@pytest.fixture(scope="module", params=FAMILIES)
def pool(request, tmp_path_factory, save_pool, family_configs) -> ModelPool:
    folders = save_pool(
        tmp_path_factory.mktemp(request.param), family_configs[request.param], ("a", "b")
    )
    return ModelPool.load(folders["base"], {"a": folders["a"], "b": folders["b"]})


def compare(candidate: Candidate, pool: ModelPool, folder) -> None:
    """Run mergekit on the converted candidate and compare every tensor it writes."""
    from mergekit import config, merge, options

    plain = to_mergekit(candidate, pool)
    merge.run_merge(
        config.MergeConfiguration.model_validate(plain),
        str(folder),
        options.MergeOptions(copy_tokenizer=False),
    )
    theirs = load_file(folder / "model.safetensors")
    ours = assemble(candidate, MemberSet(pool)).state_dict()
    assert set(ours) - set(theirs) <= {"lm_head.weight"}
    for name, tensor in theirs.items():
        scale = tensor.abs().max().item()
        assert (ours[name] - tensor).abs().max().item() <= 1e-6 * max(scale, 1.0), name


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_merges(recipe, pool, tmp_path):
    compare(Candidate.whole(recipe, pool.num_layers), pool, tmp_path)


def test_path_through_sources(pool, tmp_path):
    if len(set(getattr(pool.config, "layer_types", None) or [0])) > 1:
        pytest.skip("refused: mergekit does not re-order layer types")
    compare(Candidate(LayerPath.parse("a | a[0:2] + b[1] + b[1] + a[3]")), pool, tmp_path)
