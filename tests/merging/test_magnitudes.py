"""Order statistics from the sketch against a plain sort."""

from __future__ import annotations

import pytest
import torch

from hm3rl.merging.magnitudes import MagnitudeSketch


def bf16_differences(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(count, generator=generator)).bfloat16().float()
    expert = (base + 1e-3 * torch.randn(count, generator=generator)).bfloat16().float()
    return expert - base


ENTRIES = {
    "fp32": torch.randn(3000, generator=torch.Generator().manual_seed(1)),
    "bf16": bf16_differences(20_000),
    "ties": torch.tensor([0.0, 1.0, -1.0, 1.0, 0.5, -0.5, 2.0**-140, -0.0]),
    "one code": 1.0 + torch.arange(50) * 2.0**-23,
    "zeros": torch.zeros(7),
    "single": torch.tensor([-3.14159]),
}


@pytest.mark.parametrize("entries", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("kept", [True, False])
def test_every_rank_is_that_of_a_sort(entries, kept):
    pieces = entries.split(1000)
    sketch = MagnitudeSketch(pieces, lambda _: kept)
    ranked = entries.abs().sort(descending=True).values.tolist()
    for rank in range(1, len(ranked) + 1, max(1, len(ranked) // 300)):
        assert sketch.magnitude(rank, pieces) == ranked[rank - 1]


def test_a_magnitude_that_the_counts_tell_needs_no_second_pass():
    entries = ENTRIES["bf16"]
    ranked = entries.abs().sort(descending=True).values
    exact = (ranked.view(torch.int32) & 0xFFFF == 0).nonzero().flatten()
    assert len(exact) > 0.8 * len(ranked)
    sketch = MagnitudeSketch([entries])
    for place in exact[::500].tolist():
        assert sketch.magnitude(place + 1, []) == ranked[place].item()


def test_counts_are_small():
    entries = torch.randn(1 << 18, generator=torch.Generator().manual_seed(2))
    assert MagnitudeSketch([entries]).nbytes < 0.1 * entries.nbytes
