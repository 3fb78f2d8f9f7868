"""Our merges and paths against mergekit's own `run_merge`, tensor for tensor.

Runs where mergekit is installed (it is an oracle, not a dependency).
"""

from __future__ import annotations

from string import Template

import pytest
import yaml

from hm3rl.interop.mergekit_build import build_mergekit
from hm3rl.interop.mergekit_file import read_mergekit
from hm3rl.interop.mergekit_yaml import to_mergekit
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from tests.interop.oracle import assert_equal, run_mergekit

pytest.importorskip("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS = {"a": 0.5, "b": 0.3}
BY_BLOCK = {"attention": [0.2, 0.9], "mlp": 0.7, "rest": [0.5, 0.1, 0.4]}
RECIPES = {
    "linear": MergeRecipe.of("linear", WEIGHTS),
    "linear_sum": MergeRecipe.of("linear", {"a": 0.5, "b": 0.8}, normalise=False),
    "linear_gradient": MergeRecipe.of("linear", {"a": [0.0, 1.0], "b": 0.4}),
    "slerp": MergeRecipe.of("slerp", WEIGHTS),
    "slerp_gradient": MergeRecipe.of("slerp", {"a": [1.0, 0.5, 0.8], "b": [0.0, 0.5, 0.2]}),
    "slerp_uneven": MergeRecipe.of("slerp", {"a": [1.0, 0.5], "b": 0.7}),
    "multi_slerp": MergeRecipe.of("multi_slerp", WEIGHTS),
    "task_arithmetic": MergeRecipe.of("task_arithmetic", WEIGHTS, scale=1.7),
    "task_arithmetic_blocks": MergeRecipe.of("task_arithmetic", {"a": BY_BLOCK, "b": 0.3}),
    "ties": MergeRecipe.of("ties", WEIGHTS, density=0.4, scale=1.3),
    "ties_sum": MergeRecipe.of("ties", WEIGHTS, density=0.4, normalise=False),
    "ties_densities": MergeRecipe.of("ties", WEIGHTS, densities=(("a", 0.3),)),
    "ties_gradients": MergeRecipe.of(
        "ties", {"a": BY_BLOCK, "b": [0.3, 0.6]}, densities={"a": [0.3, 0.9], "b": 0.6}
    ),
    "dare_linear": MergeRecipe.of("dare_linear", WEIGHTS),
    "dare_ties": MergeRecipe.of("dare_ties", WEIGHTS, scale=0.7),
    "della": MergeRecipe.of("della", WEIGHTS, normalise=False),
    "della_linear": MergeRecipe.of("della_linear", WEIGHTS),
    "breadcrumbs": MergeRecipe.of("breadcrumbs", WEIGHTS, density=0.6, gamma=0.1),
    "breadcrumbs_ties": MergeRecipe.of("breadcrumbs_ties", WEIGHTS, density=0.6, gamma=0.05),
    "model_stock": MergeRecipe.of("model_stock", {"a": 1.0, "b": 1.0}),
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
    theirs = run_mergekit(to_mergekit(candidate, pool), folder)
    assert_equal(assemble(candidate, MemberSet(pool)).state_dict(), theirs)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_merges(recipe, pool, tmp_path):
    compare(Candidate.whole(recipe, pool.num_layers), pool, tmp_path)


def test_path_through_sources(pool, tmp_path):
    if len(set(getattr(pool.config, "layer_types", None) or [0])) > 1:
        pytest.skip("refused: mergekit does not re-order layer types")
    compare(Candidate(LayerPath.parse("a | a[0:2] + b[1] + b[1] + a[3]")), pool, tmp_path)


def test_layers_that_are_blended_one_by_one(pool, tmp_path):
    text = "{a: 0.3, b: 0.6} | {a: 0.2, b: 0.9}[0] + a[1] + {b: -0.4}[2] + base[3]"
    compare(Candidate(LayerPath.parse(text)), pool, tmp_path)


# Files as people write them. $BASE, $A and $B stand for folders of 4-layer models.
FILES = {
    "slerp as in mergekit's README": """
        merge_method: slerp
        base_model: $BASE
        slices:
          - sources:
              - {model: $BASE, layer_range: [0, 4]}
              - {model: $A, layer_range: [0, 4]}
        parameters:
          t:
            - filter: $ATTENTION
              value: [0, 0.5, 0.3, 0.7, 1]
            - filter: mlp
              value: [1, 0.5, 0.7, 0.3, 0]
            - value: 0.5
        """,
    "gradients of weight and density": """
        merge_method: ties
        base_model: $BASE
        models:
          - model: $BASE
          - model: $A
            parameters: {weight: [0.1, 0.9], density: 0.4}
          - model: $B
            parameters: {weight: 0.5, density: [0.3, 0.6, 1.0]}
        parameters: {normalize: true, int8_mask: true, lambda: 0.8}
        """,
    "slices of different ranges": """
        merge_method: task_arithmetic
        base_model: $BASE
        slices:
          - sources:
              - {model: $BASE, layer_range: [0, 2]}
              - {model: $A, layer_range: [1, 3], parameters: {weight: [0.2, 0.6]}}
              - {model: $B, layer_range: [2, 4], parameters: {weight: 0.3}}
          - sources:
              - {model: $BASE, layer_range: [1, 4]}
              - {model: $B, layer_range: [0, 3]}
            parameters: {weight: 0.7}
        """,
    "frankenmerge": """
        merge_method: passthrough
        slices:
          - sources: [{model: $A, layer_range: [0, 3]}]
          - sources: [{model: $B, layer_range: [1, 4]}]
          - sources: [{model: $B, layer_range: [3, 4]}]
        """,
    "linear slices of three models": """
        merge_method: linear
        slices:
          - sources:
              - {model: $A, layer_range: [0, 2], parameters: {weight: 1}}
              - {model: $B, layer_range: [0, 2], parameters: {weight: 0.5}}
          - sources:
              - {model: $B, layer_range: [2, 4], parameters: {weight: 0.2}}
              - {model: $BASE, layer_range: [2, 4], parameters: {weight: 0.6}}
        parameters: {normalize: true}
        """,
    "karcher": """
        merge_method: karcher
        models: [{model: $A}, {model: $B}, {model: $BASE}]
        """,
}


RESTACKING = ("slices of different ranges", "frankenmerge")


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, pool, tmp_path):
    if kind in RESTACKING and len(set(getattr(pool.config, "layer_types", None) or [0])) > 1:
        pytest.skip("mergekit does not re-order layer types")
    folders = {name.upper(): pool.paths[name] for name in ("base", "a", "b")}
    attention = ".attn." if pool.config.model_type == "gpt2" else "self_attn"
    plain = yaml.safe_load(Template(FILES[kind]).substitute(folders, ATTENTION=attention))
    file = read_mergekit(plain)
    (_, base), *experts = file.sources.items()
    built = build_mergekit(file, ModelPool.load(base, dict(experts)))
    theirs = run_mergekit(plain, tmp_path)
    if file.method in ("slerp", "karcher"):
        # Biases of a fresh GPT-2 are zero: there, and only there, results differ, and it is said.
        base = assemble(Candidate.whole("base", 4), MemberSet(pool)).state_dict()
        zeros = [name for name in theirs if not base[name].any()]
        assert bool(zeros) == any("zero in one of the models" in note for note in built.notes)
        theirs = {name: tensor for name, tensor in theirs.items() if name not in zeros}
        assert theirs
    # Karcher means are iterated, there until a step is below 1e-5.
    limit = 5e-5 if file.method == "karcher" else 1e-6
    ours = built.model.state_dict()
    assert_equal({name: ours[name] for name in theirs}, theirs, limit)
