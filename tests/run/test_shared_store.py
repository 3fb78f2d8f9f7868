"""Two processes that run the same search on one store find the same, and do the work once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hm3rl.evaluation.store import EvaluationStore
from tests.run.test_resume import decisions
from tests.small_search import FEW_ITEMS

SCRIPT = """
import sys
from hm3rl import api
print("ready", flush=True)
sys.stdin.readline()
totals = api.search(*sys.argv[1:]).problem.evaluator.totals
print(totals.computed, totals.hits)
"""


def test_nothing_is_computed_twice_and_both_end_alike(tmp_path: Path):
    store = tmp_path / "shared.sqlite"
    words = [*FEW_ITEMS, "search=parameter_only", "budget=10", "seed=3", "threads=1"]
    words.append(f"evaluation.store={store}")
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *words, f"output={folder}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    (computed, hits), (computed_too, hits_too) = (map(int, words) for words in said)
    with EvaluationStore(store, read_only=True) as opened:
        assert computed + computed_too == len(opened)
    assert hits > 0 and hits_too > 0
    assert decisions(folders[0]) == decisions(folders[1])
    fronts = [(folder / "front.csv").read_text() for folder in folders]
    assert fronts[0] == fronts[1]
    assert list(tmp_path.glob("shared.sqlite-owner-*")) == []
