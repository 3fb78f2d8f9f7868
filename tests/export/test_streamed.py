"""Merging from files to files: the result of a resident merge, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.benchmarks.shapes import make_sources
from hm3rl.errors import InputError, IntegrityError
from hm3rl.export import streamed
from hm3rl.export.merge import merge_file
from hm3rl.export.record import verify_record

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


def test_weights_that_are_not_finite_leave_nothing_behind(tiny_pool_dir, tmp_path):
    file = tmp_path / "file.yml"
    plain = ties_file(tiny_pool_dir)
    plain["models"][0]["parameters"]["weight"] = 1e38
    plain["parameters"] = {"lambda": 1e38, "normalize": False}
    file.write_text(yaml.safe_dump(plain))
    with pytest.raises(InputError, match="holds NaN or infinite weights"):
        merge_file(file, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == [file]


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
