"""Converts an exported checkpoint with llama.cpp's own script and compares what comes out.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz    # carries llama.cpp's sources
    python -m experiments.smollm2.to_gguf exported \
        --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp

The GGUF file holds the weights in bf16. transformers reads it back; the logits of both models for
the first search items are compared, and the tokens of their prompts. llama.cpp itself is not built.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.smollm2.data import FOLDER, GENERATORS
from hm3rl.config.tasks import ZOO_SPLIT
from hm3rl.errors import InputError
from hm3rl.tasks.jsonl import JsonlTask

SCRIPT = "convert_hf_to_gguf.py"


def convert(checkpoint: Path, llama_cpp: Path, target: Path) -> None:
    """Run llama.cpp's converter.

    Args:
        checkpoint: Folder of a plain checkpoint.
        llama_cpp: Folder of llama.cpp's sources.
        target: GGUF file to write.

    Raises:
        InputError: There is no converter, or it refuses the checkpoint.
    """
    script = llama_cpp / SCRIPT
    if not script.is_file():
        raise InputError(f"there is no {script}", "see python -m experiments.smollm2.to_gguf -h")
    command = [sys.executable, str(script), str(checkpoint), "--outfile", str(target)]
    done = subprocess.run(
        [*command, "--outtype", "bf16"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not target.is_file():
        said = "\n".join(done.stderr.splitlines()[-8:])
        raise InputError(f"{SCRIPT} refuses {checkpoint}:\n{said}", "see its message")


@torch.inference_mode()
def compare(checkpoint: Path, gguf: Path, prompts: Sequence[str]) -> tuple[float, bool]:
    """Compare a checkpoint with a GGUF file, both loaded in float32.

    Args:
        checkpoint: Folder of the checkpoint.
        gguf: GGUF file.
        prompts: Texts.

    Returns:
        Largest difference of a logit over all prompts, and whether both tokenise all alike.
    """
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    mine = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    theirs = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    tokenizers = [
        AutoTokenizer.from_pretrained(str(checkpoint)),
        AutoTokenizer.from_pretrained(**where),
    ]
    off, alike = 0.0, True
    for prompt in prompts:
        ids, other = (tokenizer(prompt).input_ids for tokenizer in tokenizers)
        alike = alike and ids == other
        tokens = torch.tensor([ids])
        off = max(off, float((mine(tokens).logits - theirs(tokens).logits).abs().max()))
    return off, alike


def main(words: Sequence[str] | None = None) -> None:
    """Convert, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.to_gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--to", type=Path, help="keep the GGUF file there")
    args = parser.parse_args(words)
    prompts = [
        item.prompt
        for task in GENERATORS
        for item in JsonlTask(
            task, FOLDER / f"{task}.jsonl", limits={"search": 4}, shares=ZOO_SPLIT
        ).items("search")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        target = args.to or Path(temporary) / "model.gguf"
        convert(args.checkpoint, args.llama_cpp, target)
        off, alike = compare(args.checkpoint, target, prompts)
        size = target.stat().st_size
    print(
        f"{args.checkpoint} converted: {size / 1e6:.0f} MB; largest difference of a logit over "
        f"{len(prompts)} prompts {off:.2g}, tokens {'alike' if alike else 'DIFFER'}"
    )


if __name__ == "__main__":
    main()
