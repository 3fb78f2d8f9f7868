"""Kinds of mergekit file as people write them, on models of two layers, against mergekit itself."""

from __future__ import annotations

from string import Template

import pytest
import torch
import yaml

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_build import build_mergekit
from hm3rl.interop.mergekit_file import read_mergekit
from hm3rl.interop.mergekit_yaml import from_mergekit
from hm3rl.models.pool import ModelPool
from tests.interop.oracle import assert_equal, run_mergekit

needs_mergekit = pytest.mark.usefixtures("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {
    "anchors and keys of one's own": """
        _shared: &half {weight: 0.5}
        note: for Sunday
        name: mine
        merge_method: linear
        models:
          - {model: $A, parameters: *half}
          - model: $B
            parameters: {<<: *half, density: 0.2}
        parameters: {normalize: true, int8_mask: true}
        """,
    "one module": """
        merge_method: task_arithmetic
        base_model: $BASE
        modules:
          default:
            models:
              - {model: $A, parameters: {weight: [0.2, 0.8]}}
              - {model: $B}
            parameters: {weight: 0.4}
        parameters: {weight: 0.9, lambda: 0.7}
        """,
    "one module of slices": """
        merge_method: linear
        modules:
          default:
            slices:
              - sources:
                  - {model: $A, layer_range: [0, 2]}
                  - {model: $B, layer_range: [0, 2], parameters: {weight: 0.3}}
            parameters: {weight: 0.6}
        """,
    "no rescaling of whole task vectors": """
        merge_method: dare_ties
        base_model: $BASE
        models:
          - {model: $A, parameters: {weight: 0.6, density: 1.0}}
          - {model: $B, parameters: {weight: 0.5, density: 1.0}}
        parameters: {rescale: false}
        """,
    "rescaling where nothing is removed": """
        merge_method: task_arithmetic
        base_model: $BASE
        models: [{model: $A, parameters: {weight: 0.6}}]
        parameters: {rescale: true}
        """,
    "passthrough with scales": """
        merge_method: passthrough
        slices:
          - sources: [{model: $A, layer_range: [0, 2]}]
          - sources:
              - model: $B
                layer_range: [1, 2]
                parameters:
                  scale:
                    - {filter: o_proj, value: 0.0}
                    - {filter: down_proj, value: 0.0}
                    - value: 1.0
          - sources: [{model: $B, layer_range: [0, 2]}]
            parameters: {scale: [{filter: mlp, value: [0.5, 2.0]}]}
        """,
    "a scaled model": """
        merge_method: passthrough
        models: [{model: $A}]
        parameters: {scale: [{filter: embed_tokens, value: 1.5}, {filter: lm_head, value: 0.5}]}
        """,
    "embedding and head apart": """
        merge_method: slerp
        base_model: $A
        slices:
          - sources:
              - {model: $A, layer_range: [0, 2]}
              - {model: $B, layer_range: [0, 2]}
        parameters:
          t:
            - {filter: embed_tokens, value: 0.0}
            - {filter: lm_head, value: 1.0}
            - {filter: self_attn, value: [0.2, 0.9]}
            - value: 0.4
        """,
    "norms apart": """
        merge_method: ties
        base_model: $BASE
        models:
          - model: $A
            parameters:
              weight: [{filter: layernorm, value: 0.1}, {value: 0.6}]
              density: [{filter: layernorm, value: 1.0}, {filter: q_proj, value: 0.3}, {value: 0.5}]
          - {model: $B, parameters: {weight: 0.5, density: 0.7}}
        parameters: {normalize: true}
        """,
    "projections apart": """
        merge_method: task_arithmetic
        base_model: $BASE
        slices:
          - sources:
              - {model: $BASE, layer_range: [0, 1]}
              - model: $A
                layer_range: [1, 2]
                parameters: {weight: [{filter: o_proj, value: 0.2}, {value: 0.7}]}
          - sources:
              - {model: $BASE, layer_range: [0, 2]}
              - {model: $B, layer_range: [0, 2], parameters: {weight: 0.3}}
        """,
    "models as mappings": """
        merge_method: linear
        base_model: {model: {path: $A}}
        models:
          - {model: {model: {path: $A}}, parameters: {weight: 0.7}}
          - {model: {model: $B}, parameters: {weight: 0.6}}
        """,
}


@pytest.fixture(scope="module")
def mergekit() -> None:
    pytest.importorskip("mergekit")


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def pool(request, tmp_path_factory, save_pool, tiny_config) -> ModelPool:
    config = tiny_config(num_hidden_layers=2, tie_word_embeddings=request.param)
    folders = save_pool(tmp_path_factory.mktemp("two_layers"), config, ("a", "b"))
    return ModelPool.load(folders["base"], {"a": folders["a"], "b": folders["b"]})


def plain_file(pool: ModelPool, text: str) -> dict:
    folders = {name.upper(): pool.paths[name] for name in ("base", "a", "b")}
    return yaml.safe_load(Template(text).substitute(folders))


def built(plain: dict) -> dict[str, torch.Tensor]:
    file = read_mergekit(plain)
    (_, base), *experts = file.sources.items()
    sources = ModelPool.load(base, dict(experts) or {"itself": base})
    before = {name: sources.model(name).state_dict() for name in sources.names}
    copies = {n: {k: v.clone() for k, v in state.items()} for n, state in before.items()}
    model = build_mergekit(file, sources).model
    assert all(
        torch.equal(before[n][k], v) for n, state in copies.items() for k, v in state.items()
    )
    return model.state_dict()


@needs_mergekit
@pytest.mark.parametrize("kind", KINDS)
def test_tensor_for_tensor(kind, pool, tmp_path):
    plain = plain_file(pool, KINDS[kind])
    theirs = run_mergekit(plain, tmp_path)
    ours = built(plain)
    assert theirs
    assert_equal({name: ours[name] for name in theirs}, theirs)


@needs_mergekit
@pytest.mark.parametrize("source", ["base", "union"])
def test_a_tokenizer_of_equal_vocabularies(source, pool, tmp_path):
    text = KINDS["one module"] + f"\n        tokenizer_source: {source}\n"
    plain = plain_file(pool, text)
    assert_equal(built(plain), run_mergekit(plain, tmp_path))
    plain["tokenizer"] = {"source": plain.pop("tokenizer_source")}
    assert read_mergekit(plain).tokenizer == source


def test_rows_without_a_token_are_kept_and_that_is_said(save_pool, tiny_config, tmp_path):
    folders = save_pool(tmp_path, tiny_config(num_hidden_layers=2, vocab_size=40), ("a", "b"))
    pool = ModelPool.load(folders["base"], {"a": folders["a"], "b": folders["b"]})
    text = KINDS["one module"] + "\n        tokenizer_source: union\n"
    file = read_mergekit(plain_file(pool, text))
    (_, base), *experts = file.sources.items()
    done = build_mergekit(file, ModelPool.load(base, dict(experts)))
    assert done.model.config.vocab_size == 40
    assert any("keeps its 40 rows" in note for note in done.notes)


def test_scales_are_what_they_say(pool):
    ours = built(plain_file(pool, KINDS["passthrough with scales"]))
    b = pool.model("b").state_dict()
    assert not ours["model.layers.2.self_attn.o_proj.weight"].any()
    up = "mlp.up_proj.weight"
    assert torch.equal(ours[f"model.layers.2.{up}"], b[f"model.layers.1.{up}"])
    assert torch.equal(ours[f"model.layers.3.{up}"], 0.5 * b[f"model.layers.0.{up}"])
    assert torch.equal(ours[f"model.layers.4.{up}"], 2.0 * b[f"model.layers.1.{up}"])


@pytest.mark.parametrize(
    ("kind", "named"),
    [("passthrough with scales", "it scales tensors"), ("norms apart", "single out tensors")],
)
def test_what_no_candidate_can_be_is_said(kind, named, pool):
    with pytest.raises(InputError, match=named):
        from_mergekit(plain_file(pool, KINDS[kind]), pool)
