"""Reading mergekit files: what is understood, and that everything else is named."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_file import read_mergekit
from hm3rl.interop.mergekit_recipe import SliceMerge, slice_merges

NAMES = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(4)
        for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    ),
    "model.norm.weight",
]


def read(text: str) -> list[SliceMerge]:
    file = read_mergekit(yaml.safe_load(text))
    return slice_merges(file, dict.fromkeys(file.sources, 4), NAMES)


TIES = """
merge_method: ties
base_model: org/base
models:
  - model: org/math
    parameters: {weight: 0.7, density: 0.5}
  - model: other/math
    parameters: {weight: [0.1, 0.5]}
parameters: {density: 0.8, normalize: false, lambda: 1.5}
"""


def test_parameters_are_looked_up_at_the_model_then_at_the_file():
    (part,) = read(TIES)
    assert part.recipe is not None
    assert part.recipe.experts == ("math", "math-2")
    assert dict(part.recipe.weights)["math"] == 0.7
    assert dict(part.recipe.weight_profiles)["math-2"].rest == (0.1, 0.5)
    assert (part.recipe.density_of("math"), part.recipe.density_of("math-2")) == (0.5, 0.8)
    assert (part.recipe.normalise, part.recipe.scale) == (False, 1.5)


def test_defaults_are_mergekits():
    text = "{merge_method: %s, base_model: b, models: [{model: x}], parameters: {weight: 1}}"
    normalised = {"ties": True, "dare_ties": False, "della": True, "task_arithmetic": False}
    for method, expected in normalised.items():
        (part,) = read(text % method)
        assert part.recipe is not None and part.recipe.normalise is expected, method


def test_filters_are_sorted_into_blocks_and_gradients_kept():
    (part,) = read("""
        merge_method: slerp
        base_model: b
        models: [{model: b}, {model: x}]
        parameters:
          t:
            - {filter: q_proj, value: [0, 1]}
            - {filter: mlp, value: 0.25}
            - value: 0.5
    """)
    assert part.recipe is not None
    profile = dict(part.recipe.weight_profiles)["x"]
    assert (profile.attention, profile.mlp, profile.rest) == ((0.0, 1.0), (0.25,), (0.5,))


@pytest.mark.parametrize(("t", "only"), [(0, "base"), (1, "x")])
def test_slerp_all_the_way_is_one_model(t, only):
    (part,) = read(
        f"{{merge_method: slerp, base_model: b, models: [{{model: b}}, {{model: x}}], "
        f"parameters: {{t: {t}}}}}"
    )
    assert part.recipe is not None and part.recipe.weights == ((only, 1.0),)


def test_ranges_are_half_open():
    parts = read("""
        merge_method: passthrough
        slices:
          - sources: [{model: b, layer_range: [0, 3]}]
          - sources: [{model: x, layer_range: [2, 4]}]
    """)
    assert [part.layers for part in parts] == [(0, 3), (2, 4)]
    assert [part.base for part in parts] == ["base", "x"]


def test_what_is_ignored_is_said():
    file = read_mergekit(yaml.safe_load(TIES.replace("lambda: 1.5", "int8_mask: true")))
    assert len(file.notes) == 1 and "int8_mask" in file.notes[0]


def test_random_masks_are_said_to_differ():
    (part,) = read(TIES.replace("ties", "dare_ties"))
    assert "in expectation" in part.notes[0]
    whole = TIES.replace("ties", "dare_ties").replace("0.8", "1").replace("density: 0.5", "")
    assert not read(whole)[0].notes


LINEAR = "{merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 1}}"
SLICES = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
      - {model: b, layer_range: [1, 3]}
parameters: {weight: 1}
"""
SLERP = "{merge_method: slerp, base_model: a, models: [{model: a}, {model: b}], parameters: {t: 2}}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LINEAR.replace("linear", "arcee_fusion"), "arcee_fusion"),
        (LINEAR.replace("models:", "modules:"), "modules"),
        (LINEAR.replace("weight: 1", "wieght: 1"), "wieght"),
        (LINEAR.replace("weight: 1", ""), "a|base has no weight"),
        (LINEAR.replace("weight: 1", "weight: heavy"), "heavy"),
        (LINEAR.replace("weight: 1", "weight: []"), "empty"),
        (LINEAR.replace("weight: 1", "weight: [{filter: mlp, value: 1}]"), "no weight for"),
        (
            LINEAR.replace("weight: 1", "weight: [{filter: layers.2, value: 2}, {value: 1}]"),
            "tells layers apart: model.layers.2",
        ),
        (
            LINEAR.replace("weight: 1", "weight: [{filter: embed, value: 0}, {value: 1}]"),
            "all weights are zero",
        ),
        (LINEAR.replace("weight: 1", "weight: 1, normalize: [0, 1]"), "normalize"),
        (LINEAR.replace("linear", "ties"), "base_model"),
        (LINEAR.replace("linear", "passthrough").replace("weight: 1", ""), "one model in each"),
        (LINEAR.replace("{model: b}", "{model: b, lora: c}"), "lora"),
        (LINEAR.replace("{model: b}", "{model: {model: {path: b, revision: c}}}"), "revision"),
        (LINEAR.replace("{model: b}", "{model: {path: b, size: 3}}"), "size"),
        (LINEAR.replace("{model: b}", "{model: {lora: c}}"), "names no model"),
        (LINEAR.replace("{model: b}", "{model: {model: b, override_architecture: c}}"), "override"),
        (LINEAR.replace("{merge", "{dtype: int8, merge"), "int8"),
        (LINEAR.replace("{merge", "{tokenizer_source: c, merge"), "none of the merged"),
        (LINEAR.replace("{merge", "{chat_template: chatml, merge"), "chat_template"),
        (LINEAR.replace("{merge", "{paramters: {}, merge"), "did you mean parameters"),
        (LINEAR.replace("{merge", "{tokenizer: {pad_to_multiple_of: 8}, merge"), "pad_to_multiple"),
        (SLICES.replace("[1, 3]", "[1, 4]"), "different lengths"),
        (SLICES.replace("[1, 3]", "[3, 5]"), "leaves its 4 layers"),
        (SLICES.replace("[1, 3]", "[3, 3]"), "half-open"),
        (SLICES.replace("[1, 3]", "3"), "half-open"),
        (SLICES.replace("model: b", "model: a"), "twice"),
        (SLERP, "outside"),
        (SLERP.replace("{model: b}", "{model: b}, {model: c}"), "two models"),
        (TIES.replace("density: 0.8", "rescale: true"), "rescale"),
        (TIES.replace("ties", "dare_ties").replace("density: 0.8", "rescale: false"), "rescale"),
        (LINEAR.replace("models:", "modules: {default: {models: []}}, models:"), "beside models"),
        (LINEAR.replace("models:", "modules:").replace("[{model: a}, {model: b}]", "{x: {}}"), "x"),
        (TIES.replace("density: 0.8", "density: 0"), "density 0"),
    ],
)
def test_what_is_not_understood_is_named(text: str, named: str):
    with pytest.raises(InputError, match=named) as caught:
        read(text)
    assert caught.value.remedy


def test_every_file_gives_the_first_source_the_name_base():
    plain: dict[str, Any] = yaml.safe_load(SLICES)
    assert read_mergekit(plain).sources == {"base": "a", "b": "b"}
    assert read_mergekit({**plain, "base_model": "b"}).sources == {"base": "b", "a": "a"}


def test_what_nobody_reads_is_ignored_and_said():
    plain = yaml.safe_load("""
        _weights: &same {weight: 0.5}
        name: mine
        merge_method: linear
        models:
          - {model: a, parameters: {<<: *same, density: 0.3}}
          - {model: b, parameters: *same}
        parameters: {int8_mask: true, t: 0.5}
    """)
    file = read_mergekit(plain)
    said = ["key _weights", "linear int8_mask", "linear t", "linear density"]
    assert len(file.notes) == len(said) and all(map(str.__contains__, file.notes, said))
    (part,) = slice_merges(file, {"base": 4, "b": 4}, NAMES)
    assert part.recipe is not None and dict(part.recipe.weights) == {"base": 0.5, "b": 0.5}


def test_models_may_be_mappings_and_adapters():
    for written in (
        "b+c",
        "{model: b, lora: c}",
        "{model: {path: b}, lora: {path: c}}",
        "{model: {path: b, revision: null}, lora: {path: c}, override_architecture: null}",
        "{path: b, lora: {path: c}}",
    ):
        file = read_mergekit(yaml.safe_load(LINEAR.replace("{model: b}", f"{{model: {written}}}")))
        assert list(file.sources.values()) == ["a", "b+c"], written
    file = read_mergekit(yaml.safe_load(LINEAR.replace("{model: b}", "{model: {path: b}}")))
    assert file.sources == {"base": "a", "b": "b"}


def test_a_module_stands_for_the_file_and_its_parameters_go_before_the_files():
    (part,) = read("""
        merge_method: linear
        modules:
          default:
            models: [{model: a}, {model: b, parameters: {weight: 0.7}}]
            parameters: {weight: 0.2}
        parameters: {weight: 1, normalize: false}
    """)
    assert part.recipe is not None and not part.recipe.normalise
    assert dict(part.recipe.weights) == {"base": 0.2, "b": 0.7}


def test_filters_that_cut_through_a_block_give_its_tensors_a_recipe():
    text = LINEAR.replace("weight: 1", "weight: [{filter: layernorm, value: [2, 1]}, {value: 1}]")
    (part,) = read(text.replace("{model: b}", "{model: b, parameters: {weight: 3}}"))
    assert part.recipe is not None and dict(part.recipe.weights) == {"base": 1.0, "b": 3.0}
    ((other, patterns),) = part.others
    assert patterns == {"model.layers.*.input_layernorm.weight"}
    assert dict(other.weight_profiles)["base"].rest == (2.0, 1.0)


def test_a_rescaling_that_changes_nothing_is_read():
    whole = TIES.replace("density: 0.8", "rescale: false").replace("density: 0.5", "density: 1.0")
    (part,) = read(whole.replace("ties", "dare_ties"))
    assert part.recipe is not None and part.recipe.density == 1.0
    (part,) = read(TIES.replace("ties", "task_arithmetic").replace("density: 0.8", "rescale: true"))
    assert part.recipe is not None and part.recipe.operator == "task_arithmetic"
