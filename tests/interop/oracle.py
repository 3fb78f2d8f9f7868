"""mergekit as an oracle: what it writes for a configuration."""

from __future__ import annotations

import torch
from safetensors.torch import load_file


def run_mergekit(plain: dict, folder) -> dict[str, torch.Tensor]:
    """The tensors that mergekit writes for a configuration."""
    from mergekit import config, merge, options

    merge.run_merge(
        config.MergeConfiguration.model_validate(plain),
        str(folder),
        options.MergeOptions(copy_tokenizer=False, quiet=True),
    )
    return load_file(folder / "model.safetensors")


def assert_equal(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], limit: float = 1e-6
) -> None:
    assert set(ours) - set(theirs) <= {"lm_head.weight"}
    for name, tensor in theirs.items():
        scale = tensor.abs().max().item()
        assert (ours[name] - tensor).abs().max().item() <= limit * max(scale, 1.0), name
