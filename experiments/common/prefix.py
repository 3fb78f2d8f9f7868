"""The test hypervolume of a search as it stood after fewer evaluations than it made."""

from __future__ import annotations

import json
from pathlib import Path

from hm3rl.files import write_text
from hm3rl.objectives.archive import Archive
from hm3rl.run.conclusion import experts, experts_on_test
from hm3rl.run.finished import FinishedRun


def hypervolume_on_test(folder: Path, budget: int) -> float:
    """Score the front of a prefix on the test split, as a search does with its last front.

    The result is kept in the run folder (`prefix-BUDGET.json`), because scoring takes seconds.

    Args:
        folder: Run folder of a finished search.
        budget: Evaluations of the prefix.

    Returns:
        Hypervolume of f / z*, reference 0, test split, the experts' own points included.
    """
    note = folder / f"prefix-{budget}.json"
    if note.is_file():
        return float(json.loads(note.read_text())["hypervolume_test"])
    run = FinishedRun(folder)
    known = Archive(run.objectives, run.archive.z_star)
    for line in run.folder.read_archive():
        if not line["failed"] and line["evaluations"] <= budget:
            known.add(line["key"], [line["scores"][name] for name in run.objectives])
    problem = run.problem
    test = Archive(run.objectives, experts_on_test(problem))
    front = [run.candidate(key) for key in known.front_keys()]
    for evaluation in problem.rescore([*experts(problem), *front], "test", secondary=False):
        if evaluation.ok:
            test.add(evaluation.key, evaluation.vector)
    problem.evaluator.close()
    write_text(note, json.dumps({"hypervolume_test": test.hypervolume()}) + "\n")
    return test.hypervolume()
