from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from hm3rl.run.finished import FinishedRun

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "tour.ipynb"


@pytest.mark.filterwarnings("default")
def test_the_tour_opens_a_finished_run_and_picks_a_model(finished: FinishedRun, monkeypatch):
    monkeypatch.setenv("HM3RL_RUN", str(finished.folder.path.resolve()))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    shown = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "20 evaluations of translation, math, code" in shown
    assert "utility" in shown and " | " in shown
    assert "model.safetensors" in shown
    assert shown.count("picked ") == 3


def test_the_committed_tour_shows_its_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
