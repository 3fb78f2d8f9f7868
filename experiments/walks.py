"""How many files of the package run on four walks through it (docs/architecture.md).

    python -m experiments.walks

Counted are files in which a function is called on the way, imports left out. One search of 16
evaluations with 24 items comes first; a minute on one core.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import hm3rl
from hm3rl import api
from hm3rl.events import NullLogger
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.run.build import build_problem, load_pool
from hm3rl.search.architecture_level import to_candidate

PACKAGE = str(Path(hm3rl.__file__).parent)
TASKS = ("translation", "math", "code")
SMALL = [
    *(f"tasks.{task}.{split}_items=24" for task in TASKS for split in ("search", "test")),
    *("threads=1", "agent.pretrain_steps=20", "agent.distil_steps=20"),
]
PATH = LayerPath.parse("math | math[0:4] + code[4:8]")


def files_of(walk: Callable[[], object]) -> int:
    """Files of the package in which a function runs during a walk."""
    seen: set[str] = set()

    def hear(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name[0] != "<":
            seen.add(code.co_filename)

    threading.setprofile(hear)
    sys.setprofile(hear)
    try:
        walk()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return len(seen)


def main() -> None:
    """Walk, and print the counts."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        api.search(*SMALL, "budget=16", f"output={folder / 'run'}")
        problem = build_problem(
            api.settings(*SMALL, "budget=5"), folder / "evaluations.sqlite", NullLogger()
        )
        problem.prepare()

        def preference() -> None:
            run = api.open_run(folder / "run")
            choice = api.pick(run, {"math": 2, "code": 1})
            api.export(run, choice.candidate, folder / "model", evaluation=choice.evaluation)

        def forward() -> None:
            pool = load_pool(api.settings(*SMALL))
            ids = pool.tokenizer("1", return_tensors="pt")["input_ids"]
            assemble(Candidate.of(PATH, {}), MemberSet(pool))(ids)

        walks: dict[str, Callable[[], object]] = {
            "a preference becomes a checkpoint": preference,
            "an action becomes a stored evaluation": lambda: problem.evaluate(
                [to_candidate(problem, PATH)], "walk"
            ),
            "a configuration key acts": lambda: api.settings("search.parameter.members=8", *SMALL),
            "a safetensors file becomes a forward pass": forward,
        }
        for name, walk in walks.items():
            print(f"{name}: {files_of(walk)} files", flush=True)


if __name__ == "__main__":
    main()
