"""Programs are executed, judged and remembered, whatever locks them up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm3rl.tasks import sandbox
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.sandbox import MECHANISMS, WORKER, SandboxError, SandboxPool

ADD_ONE = (("f(1)", "2"), ("f(-5)", "-4"))
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.fixture(scope="module", params=[MECHANISMS, ()], ids=["all mechanisms", "limits only"])
def pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with SandboxPool(timeout_s=0.3, wall_s=1.5, memory_mb=256, mechanisms=request.param) as pool:
        yield pool


def test_a_program_passes_if_all_its_tests_do(pool: SandboxPool) -> None:
    programs = [RIGHT, "def f(x):\n    return abs(x + 1)\n", "def f(x) return x", "g = 1"]
    assert pool.run(programs, [ADD_ONE] * 4) == [1.0, 0.0, 0.0, 0.0]


def test_the_expected_text_is_the_repr(pool: SandboxPool) -> None:
    tests = (("f(2)", "'22'"), ("f(True)", "'TrueTrue'"))
    assert pool.run(["def f(x): return str(x) * 2"], [tests]) == [1.0]
    assert pool.run(["def f(x): return 22"], [(("f(2)", "'22'"),)]) == [0.0]


def test_a_program_without_tests_does_not_pass(pool: SandboxPool) -> None:
    assert pool.run([RIGHT], [()]) == [0.0]


def test_useful_modules_can_be_imported(pool: SandboxPool) -> None:
    program = "import math\nfrom collections import Counter\ndef f(x): return math.gcd(x, 12)"
    assert pool.run([program], [(("f(18)", "6"),)]) == [1.0]


def test_programs_do_not_see_each_other(pool: SandboxPool) -> None:
    vandal = "import builtins\nbuiltins.abs = lambda x: 7\nstate = 1\ndef f(x): return abs(x)"
    honest = "def f(x): return abs(x)"
    curious = "def f(x): return 'state' in globals()"
    tests = [(("f(-3)", "7"),), (("f(-3)", "3"),), (("f(0)", "False"),)]
    assert pool.run([vandal, honest, curious], tests) == [1.0, 1.0, 1.0]


def test_verdicts_are_remembered_by_program_and_tests() -> None:
    with SandboxPool() as pool:
        assert pool.run([RIGHT, RIGHT], [ADD_ONE, ADD_ONE]) == [1.0, 1.0]
        assert (pool.executed, pool.memo_hits) == (1, 1)
        assert pool.run([RIGHT], [(("f(1)", "3"),)]) == [0.0]
        assert pool.run([RIGHT], [ADD_ONE]) == [1.0]
        assert (pool.executed, pool.memo_hits) == (2, 2)


def test_scores_do_not_depend_on_the_number_of_workers() -> None:
    programs = [f"def f(x): return x + {k % 3}" for k in range(30)]
    with SandboxPool(workers=1) as one, SandboxPool(workers=3) as three:
        assert one.run(programs, [ADD_ONE] * 30) == three.run(programs, [ADD_ONE] * 30)


def test_an_answer_forged_on_the_pipe_has_to_know_what_is_expected(pool: SandboxPool) -> None:
    program = textwrap.dedent(
        """
        import posix
        for fd in range(3, 16):
            try: posix.write(fd, bytes([0, 0, 0, 11]) + b'["2", "-4"]')
            except OSError: pass
        posix._exit(0)
        """
    )
    assert pool.run([program], [ADD_ONE]) == [1.0]  # the test is weak, the pipe was reached
    assert pool.run([program], [(("f(1)", "3"), ("f(-5)", "-4"))]) == [0.0]


def test_earlier_answers_are_out_of_reach(pool: SandboxPool) -> None:
    curious = textwrap.dedent(
        """
        import sys
        def f(x):
            frame = sys._getframe()
            secret = str(31000 + 337)
            while frame:
                for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                    if value is not secret and secret in repr(value): return True
                frame = frame.f_back
            return False
        """
    )
    assert pool.run(["def f(x): return 31337"], [(("f(1)", "31337"),)]) == [1.0]
    assert pool.run([curious], [(("f(2)", "False"),)]) == [1.0]
    leaky = "leak = 31337\n" + curious
    assert pool.run([leaky], [(("f(2)", "True"),)]) == [1.0]  # it would find what is there


def test_a_dead_worker_is_replaced(pool: SandboxPool) -> None:
    assert pool.run([RIGHT], [ADD_ONE]) == [1.0]
    (worker,) = pool._alive
    os.killpg(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    assert pool.run(["def f(x): return 1 + x"], [ADD_ONE]) == [1.0]


def test_a_closed_pool_says_so_instead_of_scoring() -> None:
    pool = SandboxPool()
    assert pool.run([RIGHT], [ADD_ONE]) == [1.0]
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        pool.run(["def f(x): return 1 + x"], [ADD_ONE])


def test_workers_end_with_a_killed_driver() -> None:
    script = (
        "import sys, time\n"
        "from hm3rl.tasks.sandbox import SandboxPool\n"
        "pool = SandboxPool()\n"
        "pool.run(['def f(x): return 1'], [(('f(0)', '1'),)])\n"
        "print(pool._alive[0]._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        driver.kill()
    deadline = time.monotonic() + 10
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(worker)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("bad", [{"workers": 0}, {"timeout_s": 0.0}, {"memory_mb": 8}])
def test_senseless_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need workers"):
        SandboxPool(**bad)  # type: ignore[arg-type]


def test_only_other_limits_than_the_defaults_are_part_of_a_version() -> None:
    assert SandboxPool().limits == SandboxPool(workers=3, mechanisms=()).limits == ""
    others = {SandboxPool(timeout_s=2.0).limits, SandboxPool(memory_mb=256).limits}
    assert len(others - {""}) == 2
    assert CodeTask(SandboxPool()).version == CodeTask().version
    assert CodeTask(SandboxPool(timeout_s=2.0)).version != CodeTask().version


def test_a_sandbox_that_cannot_lock_up_is_an_error_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "sandbox_worker.py"
    text = WORKER.read_text().replace("(resource.RLIMIT_CORE, 0)", "(resource.RLIMIT_CORE, 'none')")
    broken.write_text(text)
    shutil.copy(WORKER.with_name("sandbox_kernel.py"), tmp_path)
    monkeypatch.setattr(sandbox, "WORKER", broken)
    with SandboxPool() as pool, pytest.raises(SandboxError, match="could not lock itself up"):
        pool.run([RIGHT], [ADD_ONE])
