"""Writes a trained model as the checkpoint folder that the package ships."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def publish(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    log: Sequence[Mapping[str, float]],
    card: str,
    folder: Path,
) -> None:
    """Write config, bf16 weights, tokenizer, generation config, model card and training log.

    Args:
        model: Trained model in fp32; it is cast on the way out and left as it is.
        tokenizer: The zoo's tokenizer.
        log: Rows of the training log.
        card: Text of the model card.
        folder: Target folder; an older version of it is replaced as a whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / folder.name
        cast = LlamaForCausalLM(model.config)
        cast.load_state_dict(model.state_dict())
        cast.bfloat16()
        cast.config.use_cache = True
        cast.generation_config = GenerationConfig(
            do_sample=False, pad_token_id=0, bos_token_id=1, eos_token_id=2
        )
        cast.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        for file in fresh.iterdir():
            file.chmod(0o644)
        (fresh / "README.md").write_text(card, encoding="utf-8")
        with (fresh / "training_log.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(log[0]), lineterminator="\n")
            writer.writeheader()
            for row in log:
                writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
