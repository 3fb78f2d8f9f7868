"""Programs are executed, judged and remembered; hostile ones harm nobody and score 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm3rl.tasks.sandbox import SandboxError, SandboxPool

ADD_ONE = (("f(1)", "2"), ("f(-5)", "-4"))
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "fall-back"])
def pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    limits = {"timeout_s": 0.3, "wall_s": 1.5, "memory_mb": 256}
    with SandboxPool(**limits, namespaces=request.param) as pool:
        if request.param and not pool.isolation:
            pytest.skip("this kernel gives no namespaces")
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


HOSTILE = {
    "endless loop": "while True: pass",
    "endless loop that ignores its timer": """
        import sys
        signal = sys.modules.get("signal") or __import__("signal")
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        while True: pass
        """,
    "sleep": "import time\ntime.sleep(60)",
    "10 GB": "x = bytearray(10 << 30)",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "recursion": "def g(x): return g(x) + 1\ng(0)",
    "deep syntax": "x = " + "(" * 5000 + ")" * 5000,
    "output flood": "while True: print('x' * 100000, flush=True)",
    "answer flood": "def f(x): return 'x' * (100 << 20)",
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "no such module": "import subprocess",
    "fork bomb": "import posix\nwhile True:\n    try: posix.fork()\n    except OSError: pass",
    "threads": """
        import _thread, time
        while True:
            try: _thread.start_new_thread(time.sleep, (9,))
            except RuntimeError: pass
        """,
    "kills its parent": "import posix\nposix.kill(posix.getppid(), 9)",
    "kills everybody": "import posix\nposix.kill(-1, 9)",
    "kills its group": "import posix\nposix.killpg(0, 9)",
    "own repr": "class R:\n    def __repr__(self): raise SystemExit\ndef f(x): return R()",
    "exception that cannot be printed": """
        class E(BaseException):
            def __str__(self): raise self
        raise E
        """,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_score_zero_within_their_limits(pool: SandboxPool, name: str) -> None:
    program = textwrap.dedent(HOSTILE[name])
    begin = time.monotonic()
    assert pool.run([program], [ADD_ONE]) == [0.0]
    assert time.monotonic() - begin < 10
    after = len(name)
    assert pool.run([RIGHT], [((f"f({after})", repr(after + 1)),)]) == [1.0]


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


ESCAPES = {
    "read /etc/passwd": "def f(x): return len(open('/etc/passwd').read()) > 0",
    "read by descriptor": "import posix\ndef f(x): return posix.open('/etc/passwd', 0) > 0",
    "list a folder": "import posix\ndef f(x): return 'etc' in posix.listdir('/')",
    "write": "def f(x):\n    with open(PATH, 'w') as file: file.write('x')\n    return True",
    "write by descriptor": "import posix\ndef f(x): return posix.open(PATH, 65, 511) > 0",
    "remove": "import posix\ndef f(x):\n    posix.unlink(VICTIM)\n    return True",
    "network": """
        import _socket
        def f(x):
            s = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            s.connect(('127.0.0.1', PORT))
            return True
        """,
    "run a command": "import posix\ndef f(x): return posix.system('true') == 0",
    "native code": "import ctypes\ndef f(x): return ctypes.CDLL(None).getpid() > 0",
    "frames of the worker": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                if 'expected' in frame.f_locals: return True
                frame = frame.f_back
            return False
        """,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_outside_can_be_reached(pool: SandboxPool, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("alive")
    tmp_path.chmod(0o777)
    program = textwrap.dedent(ESCAPES[name])
    program = program.replace("PATH", repr(str(tmp_path / "new")))
    program = program.replace("VICTIM", repr(str(victim))).replace("PORT", "9")
    assert pool.run([program], [(("f(0)", "True"),)]) == [0.0]
    assert victim.read_text() == "alive"
    assert list(tmp_path.iterdir()) == [victim]


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
