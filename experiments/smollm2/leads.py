"""How far leads in bfloat16 depend on the batch, and how many answers they leave in doubt.

    python -m experiments.smollm2.leads                          # the base, 24 search items a task
    python -m experiments.smollm2.leads --source smollm2:code

The teacher-forced logits of the answers are computed in one padded batch and for each item alone.
`error` is the largest difference of a lead (best token over second) between the two, `logits` that
of any logit, both relative to the largest logit of the position; `narrow` is the share of
positions, `doubtful` that of items, whose lead is below `hm3rl.evaluation.scoring.MARGIN`. The last
two columns are the seconds that scoring these items takes, teacher-forced alone and with decoding.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from experiments.smollm2.data import FOLDER, GENERATORS
from experiments.smollm2.train import ADAPTERS
from hm3rl.config.tasks import ZOO_SPLIT
from hm3rl.evaluation.answers import answer_together
from hm3rl.evaluation.requests import Request, make_batch
from hm3rl.evaluation.scoring import MARGIN
from hm3rl.evaluation.stack import Stack
from hm3rl.models.pool import ModelPool
from hm3rl.tasks.jsonl import JsonlTask

BASE, ASKED = "smollm2:base", "asked"
DTYPE = torch.bfloat16
BATCH = 32
MAX_TOKENS = {"translation": 32, "math": 48, "code": 48}
"""As in configs/tasks/smollm2.yaml."""


@torch.inference_mode()
def leads(model: PreTrainedModel, request: Request) -> tuple[torch.Tensor, list[int]]:
    """Compare every item in the batch of all with itself alone.

    Args:
        model: Who is asked.
        request: The items.

    Returns:
        Differences of logits, of leads, and leads, all relative, shape (answer tokens, 3); and the
        number of answer tokens of each item.
    """
    encoded = request.encoded
    batch = make_batch(encoded, tuple(range(len(encoded))), 0, "cpu")
    together = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    ).logits[:, batch.predicting]
    found = []
    for row, ids in enumerate(encoded):
        inputs = torch.tensor([ids.prompt + ids.answer[:-1]])
        alone = model(input_ids=inputs).logits[0, len(ids.prompt) - 1 :].float()
        beside = together[row, : len(ids.answer)].float()
        two = beside.topk(2, dim=-1)
        largest = torch.maximum(two.values[:, 0], -beside.amin(dim=-1))
        lead = two.values[:, 0] - two.values[:, 1]
        other = alone.gather(1, two.indices)
        columns = ((alone - beside).abs().amax(-1), (other[:, 0] - other[:, 1] - lead).abs(), lead)
        found.append(torch.stack([column / largest for column in columns], dim=1))
    return torch.cat(found), [len(ids.answer) for ids in encoded]


def seconds(model: PreTrainedModel, request: Request, pool: ModelPool) -> list[float]:
    """Time the scorer, teacher-forced alone and with decoding."""
    taken = []
    for decode in (False, True):
        begin = time.perf_counter()
        (said,) = answer_together(
            [Stack.of_model(model)], request, pool.tokenizer, all_texts=False, decode=decode
        )
        if isinstance(said, str):
            raise RuntimeError(said)
        taken.append(time.perf_counter() - begin)
    return taken


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.leads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", default=BASE, help="a model as the pool names it")
    parser.add_argument("--items", type=int, default=24)
    args = parser.parse_args(words)
    pool = ModelPool.load(BASE, {ASKED: args.source}, dtype=DTYPE, adapters=ADAPTERS)
    margin = MARGIN[DTYPE]
    print(
        f"| task | answer tokens | logits | error | narrow (< {margin:g}) | doubtful "
        "| forced, s | decoded, s |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in GENERATORS:
        task = JsonlTask(
            name,
            FOLDER / f"{name}.jsonl",
            metric="pass_at_1" if name == "code" else "exact_match",
            max_new_tokens=MAX_TOKENS[name],
            limits={"search": args.items},
            shares=ZOO_SPLIT,
        )
        values, lengths = leads(
            pool.model(ASKED), Request.build(task, "search", pool.tokenizer, args.items)
        )
        forced, decoded = seconds(
            pool.model(ASKED), Request.build(task, "search", pool.tokenizer, BATCH), pool
        )
        narrow = values[:, 2] < margin
        doubtful = sum(bool(part.any()) for part in narrow.split(lengths)) / len(lengths)
        print(
            f"| {name} | {len(values)} | {float(values[:, 0].max()):.3f} "
            f"| {float(values[:, 1].max()):.3f} | {float(narrow.float().mean()):.0%} "
            f"| {doubtful:.0%} | {forced:.1f} | {decoded:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
