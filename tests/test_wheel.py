"""The wheel works without the checkout: its configs and its zoo travel with it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.small_search import FEW_ITEMS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_wheel_outside_the_checkout_runs_the_demo(tmp_path: Path):
    def run(*command: object, cwd: Path = tmp_path) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path)
    run(sys.executable, *build, cwd=ROOT)
    (wheel,) = tmp_path.glob("hm3rl-*.whl")

    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # The dependencies are borrowed from this environment (a path line, so that its own editable
    # install of the checkout stays invisible); the package itself comes from the wheel alone.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)

    where = run(python, "-c", "import hm3rl; print(hm3rl.__file__)").strip()
    assert Path(where).is_relative_to(site)
    read = "from hm3rl.tasks.jsonl import JsonlTask; JsonlTask('math', 'items:smollm2/math.jsonl')"
    run(python, "-c", read)
    words = ("-m", "hm3rl.cli", "search", "experiment=tiny", *FEW_ITEMS, "budget=8")
    shown = run(python, *words)
    assert "hypervolume" in shown
    assert (tmp_path / "runs" / "tiny-seed0" / "models" / "picked" / "config.json").is_file()
