"""Many candidates at a time: prefix sharing and one decoding loop against one model at a time.

    python -m experiments.benchmarks.evaluation [--json FILE]

Two batches of 64 candidates of the tiny zoo (`workloads/evaluation.json`): rollouts of a
half-trained policy, and neighbours of one path. Ours against plain Hugging Face, one candidate
after the other, with the same assembled models, items, batches of items and threads:

- teacher-forced: logits of all references, likelihoods, and which items greedy decoding answers
  with the reference. Theirs is `model(...)` on every batch of items. Without any overhead the ratio
  could reach `count_ratio`: the layer forwards of one-by-one evaluation over the number of distinct
  prefixes, which is what ours needs (checked).
- generation: the answers of the code task, whose texts are all needed, to all 200 items and to 32.
  Theirs is `model.generate(...)`. Ours includes the teacher-forced pass. The answers must be equal.

Both sides are timed in turns and a ratio is that of the medians; `cpu_ratio` is the same of the
process's CPU seconds, which other processes on the machine disturb less. Then a search of 300
evaluations says what an evaluation costs outside of models, generated programs and the agent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.benchmarks.workloads.build import WORKLOAD
from hm3rl.evaluation.answers import Answers, answer_together, end_tokens
from hm3rl.evaluation.requests import Batch, Request
from hm3rl.evaluation.scoring import ForcedBatch, compare
from hm3rl.evaluation.sharing import Arrived, Sharing, Walk
from hm3rl.evaluation.stack import Stack
from hm3rl.evaluation.trie import distinct_prefixes
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Task
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.translation import TranslationTask

EXPERTS = ("translation", "math", "code")

GENERATED = (200, 32)
"""Numbers of items in the generation part."""

WIDTHS = (-10, 14, 5, 7, 13, 13, 13)
HEADER = ("", "layer forwards", "count", "diff", "forced", "200 items", "32 items")
"""Of ratios the table gives that of wall-clock seconds, and that of CPU seconds in brackets."""


class Bench:
    """One batch of candidates, assembled, and the items they answer.

    Args:
        members: The zoo with the workload's merged members.
        texts: Paths of the candidates.
        tasks: Tasks of the teacher-forced part.
    """

    def __init__(
        self, members: MemberSet, texts: Sequence[str], tasks: Sequence[Task] | None = None
    ) -> None:
        if tasks is None:
            tasks = (TranslationTask(), MathTask(), CodeTask())
        candidates = [Candidate.of(LayerPath.parse(text), members.recipes) for text in texts]
        self.stacks = [Stack.of_candidate(c, assemble(c, members)) for c in candidates]
        self.tokenizer = members.pool.tokenizer
        self.requests = [Request.build(task, "search", self.tokenizer, 256) for task in tasks]
        self.code = self.requests[-1]

    # --- teacher-forced --------------------------------------------------------------------

    def forced_ours(self) -> Sharing:
        """All candidates on all items, together."""
        sharing = Sharing()
        for request in self.requests:
            answer_together(
                self.stacks, request, self.tokenizer, False, decode=False, sharing=sharing
            )
        return sharing

    def forced_plain(self) -> list[ForcedBatch]:
        """All candidates on all items, one model and batch of items after the other."""
        return [
            compare(
                plain_logits(stack, batch),
                batch,
                end_tokens(stack.model, self.tokenizer),
                stack.dtype,
            )
            for stack in self.stacks
            for request in self.requests
            for batch in request.batches
        ]

    @torch.inference_mode()
    def difference(self) -> float:
        """Greatest difference between the logits of both ways, relative to the greatest logit."""
        worst = 0.0
        for batch in (batch for request in self.requests for batch in request.batches):
            for found in Walk(self.stacks, batch, False, Sharing()).run(range(len(self.stacks))):
                assert isinstance(found, Arrived)
                stack = self.stacks[found.stack]
                ours = stack.logits(found.hidden[:, batch.predicting])
                plain = plain_logits(stack, batch)
                real = batch.targets >= 0
                error = (ours - plain)[real].abs().max() / plain[real].abs().max()
                worst = max(worst, float(error))
        return worst

    # --- generation ------------------------------------------------------------------------

    def generate_ours(self) -> list[list[list[int]]]:
        """Answers of all candidates to the code items, together."""
        return self._answers(self.stacks)

    def generate_ours_apart(self) -> list[list[list[int]]]:
        """The same, one candidate after the other."""
        return [self._answers([stack])[0] for stack in self.stacks]

    def _answers(self, stacks: Sequence[Stack]) -> list[list[list[int]]]:
        found = answer_together(stacks, self.code, self.tokenizer, all_texts=True)
        rows = []
        for answers in found:
            assert isinstance(answers, Answers), answers
            rows.append([ids for ids in answers.tokens if ids is not None])
        return rows

    def generate_plain(self) -> list[list[list[int]]]:
        """The same by `generate`."""
        return [
            plain_answers(stack, self.code, self.tokenizer.eos_token_id) for stack in self.stacks
        ]


@torch.inference_mode()
def plain_logits(stack: Stack, batch: Batch) -> torch.Tensor:
    """Logits that predict the answers, by an ordinary forward; shape (B, R, vocabulary)."""
    return stack.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=batch.predicting,
    ).logits


@torch.inference_mode()
def plain_answers(stack: Stack, request: Request, end: int) -> list[list[int]]:
    """Greedy answers to all items by `generate`, in the batches of the request."""
    answers: list[list[int]] = [[] for _ in request.items]
    for batch in request.batches:
        prompts = slice(0, batch.prompt_columns)
        tokens = stack.model.generate(  # type: ignore[operator]
            batch.input_ids[:, prompts],
            attention_mask=batch.attention_mask[:, prompts],
            max_new_tokens=request.task.max_new_tokens,
            max_length=None,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=end,
        )[:, batch.prompt_columns :].tolist()
        for item, row in zip(batch.rows, tokens, strict=True):
            answers[item] = row[: row.index(end)] if end in row else row
    return answers


class Times(NamedTuple):
    """Median seconds of some works that were timed in turns."""

    wall: list[float]
    cpu: list[float]

    def ratios(self) -> dict[str, float]:
        """First work over the second."""
        return {"ratio": self.wall[0] / self.wall[1], "cpu_ratio": self.cpu[0] / self.cpu[1]}


def in_turns(repeats: int, *works: Callable[[], object]) -> Times:
    """Time several works in turns."""
    wall: list[list[float]] = [[] for _ in works]
    cpu: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for number, work in enumerate(works):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            work()
            wall[number].append(time.perf_counter() - begin)
            cpu[number].append(time.process_time() - begin_cpu)
    return Times([statistics.median(t) for t in wall], [statistics.median(t) for t in cpu])


def measure(bench: Bench, repeats: int, generated: Sequence[int] = GENERATED) -> dict[str, Any]:
    """Measure one batch of candidates; see the module."""
    batches = sum(len(request.batches) for request in bench.requests)
    apart = sum(len(stack.keys) for stack in bench.stacks) * batches
    work = bench.forced_ours().work  # warms up as well
    least = distinct_prefixes(bench.stacks) * batches
    if work.prefixes != least:
        raise RuntimeError(f"{work.prefixes} layer forwards where {least} suffice")
    forced = in_turns(repeats, bench.forced_plain, bench.forced_ours)
    return {
        **forced.ratios(),
        "layer_forwards_ours": work.prefixes,
        "layer_forwards_one_by_one": apart,
        "max_relative_diff": bench.difference(),
        "count_ratio": apart / least,
        "seconds": {"plain": forced.wall[0], "ours": forced.wall[1]},
        "generation": {items: measure_generation(bench, items, repeats) for items in generated},
    }


def measure_generation(bench: Bench, items: int, repeats: int) -> dict[str, Any]:
    """Measure the answers to some items of the code task."""
    bench.code = Request.build(CodeTask(n_search=items), "search", bench.tokenizer, 256)
    found: dict[str, object] = {}
    times = in_turns(
        repeats,
        lambda: found.update(plain=bench.generate_plain()),
        lambda: found.update(ours=bench.generate_ours()),
        lambda: found.update(apart=bench.generate_ours_apart()),
    )
    if not found["plain"] == found["ours"] == found["apart"]:
        raise RuntimeError("the answers differ from those of plain generation")
    names = ("plain", "ours", "ours_one_by_one")
    return {**times.ratios(), "seconds": dict(zip(names, times.wall, strict=True))}


def overhead(budget: int) -> dict[str, float]:
    """Seconds of a search by part; what an evaluation costs outside models, programs and agent."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = ["threads=1", f"budget={budget}", f"output={run}", "seed=0"]
        command = [sys.executable, "-m", "hm3rl.cli", "search", *words, "logging.progress=false"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return dict(summary["seconds"])


def main() -> None:
    """Print the tables; write the JSON, keeping what a part not run left there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", nargs="+", choices=("batches", "overhead"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=64, help="the first so many of a batch")
    parser.add_argument("--budget", type=int, default=300, help="evaluations of the search")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    if args.json and args.json.is_file():
        rows = json.loads(args.json.read_text(encoding="utf-8"))
    if not args.parts or "batches" in args.parts:
        rows.update(batches(args.candidates, args.repeats))
    if not args.parts or "overhead" in args.parts:
        rows["search_seconds"] = overhead(args.budget)
        rows["overhead_ms_per_evaluation"] = rows["search_seconds"]["other_ms_per_evaluation"]
        print(f"overhead: {rows['overhead_ms_per_evaluation']:.1f} ms per evaluation")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def line(cells: Iterable[str]) -> str:
    """One line of the table."""
    return "  ".join(
        cell.rjust(width) if width > 0 else cell.ljust(-width)
        for cell, width in zip(cells, WIDTHS, strict=True)
    )


def batches(candidates: int, repeats: int) -> dict[str, Any]:
    """Measure both batches of candidates and print their table."""
    workload = json.loads(WORKLOAD.read_text(encoding="utf-8"))
    members = MemberSet(ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in EXPERTS}))
    for recipe in workload["recipes"].values():
        members.add(MergeRecipe.from_dict(recipe))
    rows = {}
    print(line(HEADER))
    for name in ("rollouts", "neighbours"):
        row = rows[name] = measure(Bench(members, workload[name][:candidates]), repeats)
        forwards = f"{row['layer_forwards_ours']} / {row['layer_forwards_one_by_one']}"
        two = ((part["ratio"], part["cpu_ratio"]) for part in (row, *row["generation"].values()))
        ratios = (f"{wall:.2f} ({cpu:.2f})" for wall, cpu in two)
        diff = f"{row['max_relative_diff']:.0e}"
        print(line((name, forwards, f"{row['count_ratio']:.2f}", diff, *ratios)), flush=True)
    return rows


if __name__ == "__main__":
    main()
