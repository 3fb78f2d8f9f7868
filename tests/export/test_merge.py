"""`hm3rl merge`: recipe files, ours and mergekit's, become checked folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig

from hm3rl.errors import InputError
from hm3rl.export.checkpoint import export_candidate
from hm3rl.export.merge import merge_file
from hm3rl.export.record import verify_record
from hm3rl.export.sources import find_source, stored_dtype, widest
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.run.recipe_check import recipe_report
from tests.models.test_adapter import factors, write_adapter
from tests.models.test_vocabulary import swap_and_replace

TOKENS = torch.randint(3, 32, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def write(tmp_path):
    def write(plain: Any) -> Path:
        file = tmp_path / "file.yml"
        file.write_text(plain if isinstance(plain, str) else yaml.safe_dump(plain))
        return file

    return write


@pytest.fixture
def slices(tiny_pool_dir) -> dict[str, Any]:
    """A file that merges two slices of different ranges and ends with a third model's layer."""
    a, b, c = (str(tiny_pool_dir[name]) for name in "abc")
    first = [{"model": a, "layer_range": [0, 2]}, {"model": b, "layer_range": [1, 3]}]
    return {
        "merge_method": "linear",
        "slices": [
            {"sources": first, "parameters": {"weight": [1.0, 0.5]}},
            {"sources": [{"model": c, "layer_range": [0, 1], "parameters": {"weight": 1}}]},
        ],
        "parameters": {"normalize": True},
    }


def test_slices_become_a_checked_folder(write, slices, tiny_pool_dir, tmp_path):
    report, notes = merge_file(write(slices), tmp_path / "model", command="hm3rl merge f d")
    assert notes == ()
    assert verify_record(tmp_path / "model")["logit_error"] <= 1e-5
    written = load_file(tmp_path / "model" / "model.safetensors")
    a, b, c = (load_file(tiny_pool_dir[n] / "model.safetensors") for n in "abc")
    name = "model.layers.{}.mlp.up_proj.weight"
    expected = [(a[name.format(i)] + b[name.format(i + 1)]) / 2 for i in range(2)]
    expected.append(c[name.format(0)])
    for depth, tensor in enumerate(expected):
        assert torch.allclose(written[name.format(depth)], tensor, atol=1e-6)
    # Embedding of the first slice, final norm of the last.
    embedding = "model.embed_tokens.weight"
    assert torch.allclose(written[embedding], (a[embedding] + b[embedding]) / 2, atol=1e-6)
    assert torch.equal(written["model.norm.weight"], c["model.norm.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.num_hidden_layers == 3
    card = (tmp_path / "model" / "README.md").read_text()
    assert "layer_range" in card and "hm3rl merge f d" in card and "Not scored." in card
    assert report.mergekit.startswith("mergekit_config.yml is the file")


def test_a_merged_folder_can_be_made_again_from_its_recipe(write, slices, tmp_path):
    first, _ = merge_file(write(slices), tmp_path / "model")
    again, _ = merge_file(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    assert again.key == first.key
    files = [tmp_path / name / "model.safetensors" for name in ("model", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_untied_heads_come_from_the_last_slice(save_pool, family_configs, write, tmp_path):
    folders = save_pool(tmp_path / "pool", family_configs["llama"], ("a", "b"))
    plain = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": str(folders["a"]), "layer_range": [0, 2]}]},
            {"sources": [{"model": str(folders["b"]), "layer_range": [2, 4]}]},
        ],
    }
    merge_file(write(plain), tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    a, b = (load_file(folders[name] / "model.safetensors") for name in "ab")
    assert torch.equal(written["lm_head.weight"], b["lm_head.weight"])
    assert torch.equal(written["model.norm.weight"], b["model.norm.weight"])
    assert torch.equal(written["model.embed_tokens.weight"], a["model.embed_tokens.weight"])


def test_our_recipe_is_made_from_the_folders_it_names(tiny_pool, tmp_path):
    recipe = MergeRecipe.of("dare_ties", {"a": 0.6, "b": [0.4, 0.1]}, density=0.7, seed=3)
    path = LayerPath.parse(f"a | a[0:2] + {recipe.name}[2] + b[1] + b[1] + c[0]")
    candidate = Candidate.of(path, [recipe])
    export_candidate(candidate, MemberSet(tiny_pool), tmp_path / "model")
    report, _ = merge_file(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    assert report.key == candidate.key(tiny_pool.hashes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    expected = assemble(candidate, MemberSet(tiny_pool))(TOKENS).logits
    assert (model(TOKENS).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_our_recipe_finds_its_folders_from_any_working_directory(
    tiny_pool_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tiny_pool_dir["a"].parent)
    members = MemberSet(ModelPool.load("base", {"a": "a"}))
    candidate = Candidate.whole("a", 3)
    export_candidate(candidate, members, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    report, _ = merge_file(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    assert report.key == candidate.key(members.pool.hashes)


def test_a_recipe_knows_its_sources(tiny_pool, tiny_pool_dir, write, tmp_path):
    export_candidate(Candidate.whole("a", 3), MemberSet(tiny_pool), tmp_path / "model")
    plain = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    plain["sources"]["a"]["origin"] = str(tiny_pool_dir["b"])
    with pytest.raises(InputError, match="is not the one this recipe was made of"):
        merge_file(write(plain), tmp_path / "other")
    del plain["sources"]["a"]["hash"]
    merge_file(write(plain), tmp_path / "other")
    ours, theirs = (
        load_file(f / "model.safetensors") for f in (tmp_path / "other", tiny_pool_dir["b"])
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_nothing_is_rounded_twice(save_pool, tiny_config, write, tmp_path):
    folders = save_pool(tmp_path / "pool", tiny_config(dtype="bfloat16"), ("a", "b"))
    for folder in folders.values():
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    models = [
        {"model": str(folders[n]), "parameters": {"weight": w}}
        for n, w in {"a": 0.3, "b": 0.7}.items()
    ]
    plain = {"merge_method": "linear", "models": models}
    a, b = (load_file(folders[name] / "model.safetensors") for name in "ab")
    name = "model.layers.0.mlp.up_proj.weight"
    exact = 0.3 * a[name].double() + 0.7 * b[name].double()
    for dtype, asked in ((torch.bfloat16, None), (torch.float32, "float32")):
        target = tmp_path / str(asked)
        merge_file(write(plain | ({"dtype": asked} if asked else {})), target)
        written = load_file(target / "model.safetensors")[name]
        assert written.dtype == dtype
        step = torch.finfo(dtype).eps * (a[name].abs() + b[name].abs()).double()
        assert ((written.double() - exact).abs() <= step).all()
    merge_file(write(plain), tmp_path / "half", dtype=torch.float16)
    assert stored_dtype(tmp_path / "half") == torch.float16


def test_the_declared_donor_and_chat_template(
    tiny_pool_dir, save_pool, tiny_config, write, tmp_path
):
    folders = save_pool(tmp_path / "pool", tiny_config(), ("a", "b"))
    (folders["b"] / "chat_template.jinja").write_text("{{ 'from b' }}")
    plain = {
        "merge_method": "linear",
        "models": [{"model": str(folders[n])} for n in "ab"],
        "parameters": {"weight": 1.0},
        "tokenizer_source": str(folders["b"]),
    }
    merge_file(write(plain), tmp_path / "donor")
    assert AutoTokenizer.from_pretrained(tmp_path / "donor").chat_template == "{{ 'from b' }}"
    assert yaml.safe_load((tmp_path / "donor" / "recipe.yaml").read_text())["donor"] == "b"
    # The one that most have: here one has a template, and the tokenizer's donor has none.
    (folders["a"] / "chat_template.jinja").unlink(missing_ok=True)
    usual = plain | {"chat_template": "auto", "tokenizer_source": str(folders["a"])}
    merge_file(write(usual), tmp_path / "auto")
    assert AutoTokenizer.from_pretrained(tmp_path / "auto").chat_template == "{{ 'from b' }}"
    merge_file(write(plain | {"chat_template": "{{ 'own' }}"}), tmp_path / "own")
    assert AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == "{{ 'own' }}"


def test_documents_take_each_others_results(tiny_pool_dir, write, tmp_path):
    first = {
        "name": "ab",
        "merge_method": "linear",
        "models": [{"model": str(tiny_pool_dir[n])} for n in "ab"],
        "parameters": {"weight": 1.0},
    }
    last = {
        "merge_method": "task_arithmetic",
        "base_model": str(tiny_pool_dir["base"]),
        "models": [{"model": "ab"}, {"model": str(tiny_pool_dir["c"])}],
        "parameters": {"weight": 0.5},
    }
    # Whatever their order, and as two documents of one file.
    file = write(yaml.safe_dump_all([last, first]))
    _, notes = merge_file(file, tmp_path / "model")
    assert not notes
    a, b, c = (load_file(tiny_pool_dir[name] / "model.safetensors") for name in "abc")
    written = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in written.items():
        expected = 0.5 * ((a[name] + b[name]) / 2 + c[name])
        assert torch.allclose(tensor, expected, atol=1e-6), name
    assert {path.name for path in tmp_path.iterdir()} == {"file.yml", "model"}  # no result is left
    recipe = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    assert recipe["merge"] == [last, first] and recipe["sources"]["ab"]["origin"] == "ab"
    text = (tmp_path / "model" / "mergekit_config.yml").read_text()
    assert list(yaml.safe_load_all(text)) == [last, first]
    merge_file(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items())
    with pytest.raises(InputError, match="several documents"):
        recipe_report(file)


@pytest.mark.parametrize(
    ("names", "models", "named"),
    [
        (("x", "x"), ("a", "x"), "several documents are called 'x'"),
        ((None, None), ("a", "b"), "several documents have no name"),
        (("x", "y"), ("y", "x"), "in a circle"),
        (("x", "y"), ("a", "b"), "no document takes the results of x, y"),
        (("x/y", None), ("a", "x"), "name: 'x/y'"),
        (("x", None), (None, "x"), "document 0 is no mergekit file"),
    ],
)
def test_documents_that_make_no_one_model_are_refused(write, tmp_path, names, models, named):
    documents = [
        {"name": name, "merge_method": "passthrough", "models": [{"model": model}]}
        if model is not None
        else {"name": name}
        for name, model in zip(names, models, strict=True)
    ]
    documents = [{k: v for k, v in one.items() if v is not None} for one in documents]
    with pytest.raises(InputError, match=named):
        merge_file(write(yaml.safe_dump_all(documents)), tmp_path / "model")


def test_unequal_vocabularies_are_not_united(save_pool, tiny_config, write, tmp_path):
    folders = save_pool(tmp_path / "pool", tiny_config(), ("a", "b"))
    swap_and_replace(folders["b"])
    plain = {
        "merge_method": "linear",
        "models": [{"model": str(folders[n])} for n in "ab"],
        "parameters": {"weight": 1.0},
        "tokenizer_source": "union",
    }
    for refuse in (merge_file, recipe_report):
        with pytest.raises(InputError, match="union of unequal ones is not supported"):
            refuse(write(plain), tmp_path / "model", vocabulary="map")


def test_layers_of_other_kinds_cannot_be_merged(save_pool, family_configs, write, tmp_path):
    folders = save_pool(tmp_path / "pool", family_configs["qwen2"], ("a", "b"))
    sources = [
        {"model": str(folders["a"]), "layer_range": [0, 2]},
        {"model": str(folders["b"]), "layer_range": [1, 3]},
    ]
    plain = {
        "merge_method": "linear",
        "slices": [{"sources": sources}],
        "parameters": {"weight": 1.0},
    }
    with pytest.raises(InputError, match="layer_types"):
        merge_file(write(plain), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[1, 2", "no YAML"),
        ("just text", "no recipe"),
        ({"operator": "ties"}, "no recipe"),
        ({"path": "a | a[0]"}, "names no sources"),
        ({"path": "a | a[0]", "sources": {"b": "zoo:math"}}, "the source a is used"),
        ({"path": "a | a[0]", "sources": {"a": 3}}, "cannot read the source a"),
        ({"path": "a | a[0]", "sources": {"a": "zoo:math"}, "dtype": "int3"}, "int3"),
        ({"path": "a | a[0]", "sources": {"a": "zoo:math"}, "merged_in": "int3"}, "int3"),
        ({"path": "a | a[0]", "recipes": 3}, "recipes are 3"),
        ({"path": "a | a[0] + b[2]", "alignment": "scalar@12345678"}, "the path is aligned"),
        ({"path": "a | a[0]", "sources": {"a": "nowhere"}}, "'nowhere' is neither"),
        ({"path": "a | a[0]", "sources": {"a": "org/model"}}, "hf download org/model"),
        ({"merge_method": "linear", "models": [{"model": "no/where"}]}, "no/where"),
    ],
)
def test_what_is_no_recipe_is_named(write, tmp_path, content, named):
    with pytest.raises(InputError, match=named):
        merge_file(write(content), tmp_path / "model")


def test_an_existing_folder_and_a_missing_file_are_refused_first(write, slices, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        merge_file(write(slices), tmp_path / "there")
    with pytest.raises(InputError, match=r"absent\.yml"):
        merge_file(tmp_path / "absent.yml", tmp_path / "model")


def test_sources_in_the_hub_cache_are_found_offline(tiny_pool_dir, tmp_path, monkeypatch):
    from huggingface_hub import constants

    folder = tmp_path / "models--org--model" / "snapshots" / "0123abc"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny_pool_dir["a"])
    (tmp_path / "models--org--model" / "refs").mkdir()
    (tmp_path / "models--org--model" / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert Path(find_source("org/model")).resolve() == tiny_pool_dir["a"].resolve()


def test_widest_precision():
    half = {torch.float16, torch.bfloat16}
    assert widest(half) == widest(set()) == torch.float32
    assert widest({torch.bfloat16}) == torch.bfloat16
    assert widest({torch.bfloat16, torch.float32}) == torch.float32


def test_pools_of_one_model_are_possible(tiny_pool_dir, write, tmp_path):
    source = {"model": str(tiny_pool_dir["a"]), "layer_range": [0, 2]}
    plain = {"merge_method": "passthrough", "slices": [{"sources": [source]}] * 2}
    merge_file(write(plain), tmp_path / "model")
    assert ModelPool.load(tmp_path / "model", {"x": tmp_path / "model"}).num_layers == 4


def test_adapters_are_written_as_in_mergekit(save_pool, tiny_config, write, tmp_path):
    folders = save_pool(tmp_path / "pool", tiny_config(), ("a",))
    pytest.importorskip("peft")
    adapter, name = tmp_path / "lora", "model.layers.1.mlp.up_proj"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": name}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {
        f"base_model.model.{name}.lora_A.weight": torch.randn(2, 16),
        f"base_model.model.{name}.lora_B.weight": torch.randn(32, 2),
    }
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    models = [f"{folders['base']}+{adapter}", str(folders["a"])]
    plain = {
        "merge_method": "task_arithmetic",
        "base_model": str(folders["base"]),
        "models": [{"model": model, "parameters": {"weight": 0.5}} for model in models],
    }
    merge_file(write(plain), tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")[f"{name}.weight"]
    base, a = (load_file(folders[n] / "model.safetensors")[f"{name}.weight"] for n in ("base", "a"))
    low_rank, high = tensors.values()
    expected = base + 0.5 * (2.0 * high @ low_rank + a - base)
    assert torch.allclose(written, expected, atol=1e-5)
    assert recipe_report(tmp_path / "file.yml")["layers"] == 3
    # Alone, as mergekit puts an adapter into its model; written as a mapping, which means the same.
    alone = {"model": {"path": str(folders["base"])}, "lora": {"path": str(adapter)}}
    merge_file(
        write({"merge_method": "passthrough", "models": [{"model": alone}]}), tmp_path / "alone"
    )
    written = load_file(tmp_path / "alone" / "model.safetensors")[f"{name}.weight"]
    assert torch.allclose(written, base + 2.0 * high @ low_rank, atol=1e-5)
    plain["models"][0]["model"] = f"{folders['a']}+{adapter}"
    with pytest.raises(InputError, match=r"adapter over .*a, the base is"):
        merge_file(write(plain), tmp_path / "other")


def test_check_refuses_what_merge_refuses(save_pool, tiny_config, write, tiny_pool_dir, tmp_path):
    other = save_pool(tmp_path / "pool", tiny_config(intermediate_size=48), ("a", "b"))
    swap_and_replace(other["b"])
    a, wide = str(tiny_pool_dir["a"]), str(other["a"])
    whole = [{"sources": [{"model": m, "layer_range": [0, 2]}]} for m in (a, wide)]
    recipe = MergeRecipe.of("linear", {"x": 1.0})
    files = [
        ({"merge_method": "linear", "models": [{"model": a}, {"model": wide}]}, "cannot be merged"),
        ({"merge_method": "passthrough", "slices": whole}, "no plain checkpoint"),
        (
            {"merge_method": "linear", "models": [{"model": m} for m in (wide, str(other["b"]))]},
            "w5",
        ),
        (
            {
                "path": f"{recipe.name} | {recipe.name}[0]",
                "recipes": {recipe.name: recipe.to_dict()},
                "sources": {"base": a, "x": wide},
            },
            "expert 'x' and base differ in intermediate_size: 48 against 32",
        ),
    ]
    for plain, named in files:
        if "merge_method" in plain and plain["merge_method"] == "linear":
            plain["parameters"] = {"weight": 1.0}
        for refuse in (recipe_report, lambda file: merge_file(file, tmp_path / "model")):
            with pytest.raises(InputError, match=named):
                refuse(write(plain))
    report = recipe_report(write(files[2][0]), vocabulary="map")
    assert "rows arranged by token" in report["note 1"]


TROUBLES = {
    "compiled": "saved from a compiled model",
    "mixture": "'mixtral' cannot be written",
    "no tensors": "holds no tensors",
    "kind": "lora_magnitude_vector",
    "untied": "no lm_head.weight is stored",
    "list": "holds a list",
    "positions": None,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_check_and_merge_say_the_same_of_a_folder(
    tiny_pool_dir, save_pool, write, tmp_path, trouble
):
    base, expert = tiny_pool_dir["base"], tmp_path / "x"
    if trouble == "mixture":
        shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
        config = MixtralConfig(**shape, **heads, num_local_experts=2, eos_token_id=2)
        base, expert = save_pool(tmp_path / "pool", config, ("a",)).values()
    elif trouble in ("no tensors", "kind"):
        settings = {"use_dora": True} if trouble == "kind" else {}
        write_adapter(expert, factors() if trouble == "kind" else {}, **settings)
    else:
        shutil.copytree(tiny_pool_dir["a"], expert)
        file = expert / "config.json"
        plain = json.loads(file.read_text())
        if trouble == "compiled":
            tensors = load_file(expert / "model.safetensors")
            wrapped = {f"_orig_mod.{n}": t for n, t in tensors.items()}
            save_file(wrapped, expert / "model.safetensors", metadata={"format": "pt"})
        elif trouble == "list":
            (expert / "model.safetensors").unlink()
            (expert / "model.safetensors.index.json").write_text("[]")
        elif trouble == "untied":
            file.write_text(json.dumps({**plain, "tie_word_embeddings": False}))
        elif trouble == "positions":
            file.write_text(json.dumps({**plain, "max_position_embeddings": 64}))
    model = {"model": str(expert), "parameters": {"weight": 1.0}}
    file = write({"merge_method": "task_arithmetic", "base_model": str(base), "models": [model]})
    acts = (recipe_report, lambda f: merge_file(f, tmp_path / "model"))
    if TROUBLES[trouble] is None:
        report, (_, notes) = (act(file) for act in acts)
        assert any("longest input" in note for note in notes)
        assert report["note 1"] in notes
        return
    said = []
    for act in acts:
        with pytest.raises(InputError, match=TROUBLES[trouble]) as caught:
            act(file)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not (tmp_path / "model").exists()


def test_paths_through_adapters_name_their_base_and_can_be_made_again(tiny_pool_dir, tmp_path):
    folder = write_adapter(tmp_path / "lora", factors())
    pool = ModelPool.load(tiny_pool_dir["base"], {"x": folder})
    export_candidate(Candidate.whole("x", 3), MemberSet(pool), tmp_path / "model")
    assert "- base\n" in (tmp_path / "model" / "README.md").read_text().split("---")[1]
    again, _ = merge_file(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    assert again.key == Candidate.whole("x", 3).key(pool.hashes)
    files = [tmp_path / name / "model.safetensors" for name in ("model", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_model_made_again_has_the_same_donor_and_the_same_rounding(
    save_pool, tiny_config, tmp_path
):
    folders = save_pool(tmp_path / "pool", tiny_config(), ("a", "b"))
    for name, folder in folders.items():
        (folder / "chat_template.jinja").write_text(f"{{{{ 'from {name}' }}}}")
    members = MemberSet(ModelPool.load(folders["base"], {n: folders[n] for n in ("a", "b")}))
    recipe = MergeRecipe.of("task_arithmetic", {"a": 0.5, "b": 0.4})
    candidates = {"path": Candidate.whole("a", 3), "merge": Candidate.whole(recipe, 3)}
    for name, candidate in candidates.items():
        first, again = tmp_path / name, tmp_path / f"{name}-again"
        export_candidate(candidate, members, first, dtype=torch.bfloat16)
        merge_file(first / "recipe.yaml", again)
        for file in ("model.safetensors", "chat_template.jinja", "config.json"):
            assert (first / file).read_bytes() == (again / file).read_bytes(), file
    merge_file(tmp_path / "merge" / "mergekit_config.yml", tmp_path / "as-mergekit")
    assert stored_dtype(tmp_path / "as-mergekit") == torch.bfloat16
