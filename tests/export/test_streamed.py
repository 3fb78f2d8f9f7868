"""Merging from files to files: the result of a resident merge, in bounded memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from experiments.benchmarks.shapes import make_sources
from hm3rl.errors import InputError, IntegrityError
from hm3rl.export import streamed
from hm3rl.export.merge import load_sources, merge_file, read_recipe
from hm3rl.export.record import verify_record
from hm3rl.export.streamed import merge_streamed
from hm3rl.merging.merge import merge_state
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.loading import quiet_transformers
from hm3rl.models.shallow import named_tensors
from hm3rl.models.streaming import StreamedSources


@pytest.fixture
def sources(tiny_pool_dir) -> StreamedSources:
    return StreamedSources.open(tiny_pool_dir["base"], {n: tiny_pool_dir[n] for n in "abc"})


@pytest.mark.parametrize("operator", ["ties", "della", "slerp", "dare_ties"])
@pytest.mark.parametrize("shard_bytes", [10_000, 10**9])
def test_result_is_that_of_a_resident_merge(operator, shard_bytes, sources, tiny_pool, tmp_path):
    recipe = MergeRecipe.of(operator, {"a": 0.6, "b": [0.2, 0.5]}, density=0.4, seed=1)
    total = merge_streamed(sources, recipe, tmp_path / "merged", shard_bytes=shard_bytes)
    assert (len(list((tmp_path / "merged").glob("*.safetensors"))) > 1) == (shard_bytes < total)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    resident = merge_state(TaskVectors(tiny_pool), recipe)
    written = named_tensors(model)
    assert written.keys() == resident.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in resident.items())
    assert (tmp_path / "merged" / "tokenizer.json").is_file()


def test_names_and_head_are_those_of_such_checkpoints(save_pool, family_configs, tmp_path):
    folders = save_pool(tmp_path / "neox", family_configs["gpt_neox"], ("a",))
    sources = StreamedSources.open(folders["base"], {"a": folders["a"]})
    merge_streamed(sources, MergeRecipe.of("linear", {"a": 1.0}), tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert written.keys() == load_file(folders["a"] / "model.safetensors").keys()
    assert "embed_out.weight" in written


def test_a_head_that_the_configs_call_tied_is_written_untied(tiny_pool_dir, tmp_path):
    folders = {n: shutil.copytree(tiny_pool_dir[n], tmp_path / n) for n in ("base", "a")}
    for seed, folder in enumerate(folders.values()):
        tensors = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(seed)
        tensors["lm_head.weight"] = torch.randn(32, 16, generator=generator)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    sources = StreamedSources.open(folders["base"], {"a": folders["a"]})
    assert len(sources.notes) == 2
    merge_streamed(sources, MergeRecipe.of("task_arithmetic", {"a": 1.0}), tmp_path / "merged")
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.config.tie_word_embeddings is False
    torch.testing.assert_close(model.lm_head.weight.data, tensors["lm_head.weight"])


def test_its_recipe_file_is_one_that_can_be_merged_again(sources, tmp_path):
    recipe = MergeRecipe.of("ties", {"a": 0.6, "b": [0.2, 0.5]}, density=0.4)
    merge_streamed(sources, recipe, tmp_path / "merged")
    again = read_recipe(tmp_path / "merged" / "recipe.yaml")
    assert again.candidate is not None
    assert again.candidate.recipes == (recipe,)
    assert load_sources(again).names == ("a", "b", "c", "base")


def test_nothing_is_left_behind_by_what_is_refused(sources, tiny_pool_dir, tmp_path):
    recipe = MergeRecipe.of("task_arithmetic", {"a": 1e38}, scale=1e38)
    with pytest.raises(InputError, match="holds NaN or infinite weights"):
        merge_streamed(sources, recipe, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="exists already"):
        merge_streamed(sources, recipe, tiny_pool_dir["a"])


MEASURE = """
import json, sys
from pathlib import Path
import torch
from experiments.benchmarks.memory import PeakMemory
from hm3rl.export.streamed import merge_streamed
from hm3rl.merging.merge import merge_tensor
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.streaming import StreamedSources
torch.set_num_threads(1)
root, limit, shard = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folders = {name: root / name for name in ("base", "a", "b", "c")}
sources = StreamedSources.open(folders["base"], {n: folders[n] for n in "abc"})
recipe = MergeRecipe.of("ties", {"a": 0.5, "b": 0.3, "c": 0.2}, density=0.4)
# What libraries allocate when they are first used is no matter of the merge.
merge_tensor(TaskVectors(sources, 0), recipe, "model.layers.0.self_attn.q_proj.weight")
with PeakMemory(0.001) as memory:
    total = merge_streamed(sources, recipe, root / "out", limit_bytes=limit, shard_bytes=shard)
print(json.dumps([total, memory.peak - memory.before]))
"""


def test_peak_memory_is_below_the_limit_and_one_shard(tmp_path):
    """A checkpoint of four times the limit; only anonymous memory counts."""
    limit, shard = 13 * 2**20, 9 * 2**20
    make_sources("memory", tmp_path)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(limit), str(shard)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    total, peak = json.loads(done.stdout.splitlines()[-1])
    assert total > 4 * limit
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    assert peak < limit + shard


MERGE_FILE = """
import sys
from pathlib import Path
import torch
from experiments.benchmarks.memory import PeakMemory
from hm3rl.export.merge import merge_file
torch.set_num_threads(1)
root, shard = Path(sys.argv[1]), int(sys.argv[2])
merge_file(root / "small.yml", root / "first")  # what libraries allocate at first use
with PeakMemory(0.001) as memory:
    merge_file(root / "file.yml", root / "out", shard_bytes=shard)
print(memory.peak - memory.before)
"""


def test_hm3rl_merge_holds_neither_its_sources_nor_its_result(tiny_pool_dir, tmp_path):
    """Only anonymous memory counts; pages of mapped files are the system's to drop."""
    shard = 9 * 2**20
    make_sources("memory", tmp_path)
    for name, folders in (("small", tiny_pool_dir), ("file", {n: tmp_path / n for n in SOURCES})):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(ties_file(folders)))
    command = [sys.executable, "-c", MERGE_FILE, str(tmp_path), str(shard)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert written > 50 * 2**20
    # A shard, the statistics and work of the merge, and the pass of the reload check: 40 MiB here,
    # 86 where the result is held.
    assert int(done.stdout.splitlines()[-1]) < 1.2 * written
    assert verify_record(tmp_path / "out")["dtype"] == "bfloat16"


SOURCES = ("base", "a", "b", "c")


def ties_file(folders):
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    return {
        "merge_method": "ties",
        "base_model": str(folders["base"]),
        "models": [
            {"model": str(folders[n]), "parameters": {"weight": w, "density": 0.4}}
            for n, w in weights.items()
        ],
    }


def test_a_merge_written_as_it_is_made_is_the_one_made_in_memory(
    tiny_pool_dir, tmp_path, monkeypatch
):
    file = tmp_path / "file.yml"
    file.write_text(yaml.safe_dump(ties_file(tiny_pool_dir)))
    merge_file(file, tmp_path / "streamed", shard_bytes=10_000)
    monkeypatch.setattr(streamed.WholeMerge, "possible", False)
    merge_file(file, tmp_path / "resident", shard_bytes=10_000)
    files = {f.name: f.read_bytes() for f in (tmp_path / "resident").glob("*.safetensors")}
    assert len(files) > 1
    found = {f.name: f.read_bytes() for f in (tmp_path / "streamed").glob("*.safetensors")}
    assert found == files
    config = (tmp_path / "streamed" / "config.json").read_text()
    assert config == (tmp_path / "resident" / "config.json").read_text()
    again, _ = merge_file(tmp_path / "streamed" / "recipe.yaml", tmp_path / "again")
    assert again.check.logit_error == 0


def test_a_file_that_does_not_hold_what_was_merged_is_found_out(
    tiny_pool_dir, tmp_path, monkeypatch
):
    file = tmp_path / "file.yml"
    file.write_text(yaml.safe_dump(ties_file(tiny_pool_dir)))
    write = streamed.write_shards

    def damaged(sizes, produce, folder, shard_bytes, names):
        def other(names):
            made = dict(produce(names))
            last = list(made)[-1]
            made[last] = made[last].clone()
            made[last].view(-1)[-1] += 1
            return made

        return write(sizes, other, folder, shard_bytes, names)

    monkeypatch.setattr(streamed, "write_shards", damaged)
    with pytest.raises(IntegrityError, match="does not hold the"):
        merge_file(file, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
