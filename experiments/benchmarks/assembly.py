"""Time and memory to make one path candidate runnable: views in memory against mergekit.

python -m experiments.benchmarks.assembly [--json FILE]

A candidate is a path of 32 layers drawn from two 30-layer experts of SmolLM2-135M's shape (random
weights, bf16). Ours: from a loaded pool to a model that runs. mergekit: the same layers by
passthrough, `run_merge` to disk, then `from_pretrained`. Not counted on either side: imports, and
on ours the loading of the pool, which a search does once (it is printed). Added bytes are those of
the storages under the candidate's parameters and buffers that no source uses, the most over all
candidates. One path is built by both, and their logits must agree.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from experiments.benchmarks.shapes import SHAPES, make_sources
from hm3rl.interop.mergekit_yaml import to_mergekit
from hm3rl.models.loading import quiet_transformers
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.members import MemberSet

EXPERTS = ("a", "b")
LENGTH = 32
CANDIDATES = 300
MERGEKIT_RUNS = 5


def draw_candidate(generator: random.Random, layers: int) -> Candidate:
    """Draw a path whose ends are of one expert, so that mergekit can say it too.

    Args:
        generator: Source of chance.
        layers: Layers of each expert.

    Returns:
        A path of `LENGTH` layers with repeats, skips and jumps.
    """
    ends = generator.choice(EXPERTS)
    refs = [LayerRef(generator.choice(EXPERTS), generator.randrange(layers)) for _ in range(LENGTH)]
    refs[0], refs[-1] = LayerRef(ends, refs[0].layer), LayerRef(ends, refs[-1].layer)
    return Candidate(LayerPath(tuple(refs), ends))


def storages(model: nn.Module) -> dict[int, int]:
    """List the storages under a model's parameters and buffers: bytes by address."""
    tensors = [*model.parameters(), *model.buffers()]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that an action takes, and its result."""
    begun = time.perf_counter()
    result = action()
    return time.perf_counter() - begun, result


def by_mergekit(candidate: Candidate, pool: ModelPool, to: Path) -> PreTrainedModel:
    """Build a candidate with mergekit, on disk, and load it."""
    from mergekit import config, merge, options

    plain = config.MergeConfiguration.model_validate(to_mergekit(candidate, pool))
    merge.run_merge(plain, str(to), options.MergeOptions(copy_tokenizer=False, quiet=True))
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(to), dtype=pool.dtype)
    return model.eval()


@torch.no_grad()
def measure(shape: str, root: Path) -> dict[str, float]:
    """Run the benchmark.

    Args:
        shape: A key of `SHAPES`.
        root: Folder for sources and mergekit's results.

    Returns:
        Median seconds of either side, their ratio, and the most bytes a candidate added.
    """
    import mergekit.merge  # noqa: F401 -- imported before the clock runs

    # It warns of repeated layers at every run; what it writes is compared below.
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    folders = make_sources(shape, root / "sources")
    loading, pool = timed(
        lambda: ModelPool.load(folders["base"], {e: folders[e] for e in EXPERTS}, torch.bfloat16)
    )
    print(f"pool of {len(pool.names)} models loaded in {loading:.1f} s, once for a search")
    members, generator = MemberSet(pool), random.Random(0)
    shared: dict[int, int] = {}
    for name in pool.names:
        shared |= storages(pool.model(name))
    candidates = [draw_candidate(generator, pool.num_layers) for _ in range(CANDIDATES)]
    ours, added = [], 0
    for candidate in candidates:
        seconds, model = timed(partial(assemble, candidate, members))
        ours.append(seconds)
        own = storages(model)
        added = max(added, sum(own[at] for at in own.keys() - shared.keys()))
    theirs = []
    tokens = torch.arange(3, 35).reshape(2, 16)
    for number, candidate in enumerate(candidates[:MERGEKIT_RUNS]):
        seconds, model = timed(partial(by_mergekit, candidate, pool, root / f"mergekit-{number}"))
        theirs.append(seconds)
        expected = model(tokens).logits.float()
        found = assemble(candidate, members)(tokens).logits.float()
        if not torch.allclose(found, expected, atol=1e-2 * expected.abs().max().item()):
            raise RuntimeError(f"mergekit and we make different models of {candidate.path}")
    fast, slow = statistics.median(ours), statistics.median(theirs)
    return {
        "ratio": slow / fast,
        "seconds_ours": fast,
        "seconds_mergekit": slow,
        "added_bytes": added,
    }


def main() -> None:
    """Print the table and write JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", default="smollm2-135m", choices=sorted(SHAPES))
    parser.add_argument("--json", type=Path, help="file for the figures")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(words.shape, Path(folder))
    print(
        "| candidates | ours, ms | mergekit, s | ratio | added bytes |\n|--:|--:|--:|--:|--:|\n"
        f"| {CANDIDATES} | {1000 * found['seconds_ours']:.2f} | {found['seconds_mergekit']:.2f} "
        f"| {found['ratio']:.0f} | {found['added_bytes']} |"
    )
    if words.json is not None:
        words.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
