"""Programs are executed, judged and remembered, whatever locks them up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock, Thread

import pytest

from hm3rl.errors import InputError, MachineError
from hm3rl.tasks import sandbox
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.program_tests import ProgramTest, read_test
from hm3rl.tasks.sandbox import MECHANISMS, WORKER, SandboxError, SandboxPool, left_open

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


def test_what_is_built_into_the_interpreter_can_be_imported_and_native_code_cannot(
    pool: SandboxPool,
) -> None:
    program = "import importlib\ndef f(name): return importlib.import_module(name).__name__"
    built_in = sorted(set(sys.builtin_module_names) & {"atexit", "errno", "itertools", "zlib"})
    tests = [((f"f({name!r})", repr(name)),) for name in built_in]
    assert pool.run([program] * len(tests), tests) == [1.0] * len(tests)
    tests = [((f"f({name!r})", repr(name)),) for name in ("ctypes", "_ctypes", "cffi", "numpy")]
    assert pool.run([program] * 4, tests) == [0.0] * 4


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


@pytest.mark.parametrize(
    "bad",
    [
        {"workers": 0},
        {"timeout_s": 0.0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
        {"wall_s": float("inf")},
        {"memory_mb": 8},
    ],
)
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
    monkeypatch.setattr(sandbox, "PAUSES", (0.0, 0.0))
    with SandboxPool() as pool, pytest.raises(SandboxError, match="could not lock itself up"):
        pool.run([RIGHT], [ADD_ONE])


# Harm from outside is nobody's score.

ABORTS = "import posix\nposix.abort()"
SLOW = "import time\ntime.sleep(0.4)\n" + RIGHT


def broken_worker(folder: Path, old: str, new: str) -> Path:
    """A worker with other code in one place."""
    text = WORKER.read_text()
    assert text.count(old) == 1
    path = folder / WORKER.name
    path.write_text(text.replace(old, new))
    shutil.copy(WORKER.with_name("sandbox_kernel.py"), folder)
    return path


def kill_programs(pool: SandboxPool, times: int) -> Thread:
    """Kill the next programs from outside, as the OOM killer does, in the midst of their work."""
    (worker,) = pool._alive
    driver = os.getpid()

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < times:
            for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
                if process not in killed and _is_program(process, driver):
                    time.sleep(0.1)
                    os.kill(process, signal.SIGKILL)
                    killed.add(process)
            time.sleep(0.005)

    assert worker.isolation is not None
    thread = Thread(target=kill, daemon=True)
    thread.start()
    return thread


def _is_program(process: int, driver: int) -> bool:
    """Whether a process is a program's: it waits, has no right to start any, and is ours."""
    try:
        limits = Path(f"/proc/{process}/limits").read_text()
        return "Max processes             0 " in limits and driver in _ancestors(process)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _ancestors(process: int) -> Iterator[int]:
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        yield process


def test_a_program_killed_from_outside_is_run_again(pool: SandboxPool) -> None:
    assert pool.isolation is not None
    killer = kill_programs(pool, 1)
    assert pool.run([SLOW], [ADD_ONE]) == [1.0]
    killer.join()
    assert pool.run([SLOW], [ADD_ONE]) == [1.0]  # and that is what is remembered


def test_a_program_that_ends_itself_runs_twice_and_fails_for_good(pool: SandboxPool) -> None:
    asked: list[str] = []
    ask = sandbox._SandboxProcess.ask

    def counted(
        self: sandbox._SandboxProcess, program: str, tests: Sequence[ProgramTest]
    ) -> object:
        asked.append(program)
        return ask(self, program, tests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox._SandboxProcess, "ask", counted)
        assert pool.run([ABORTS, ABORTS], [ADD_ONE] * 2) == [0.0, 0.0]
        assert pool.run([ABORTS], [ADD_ONE]) == [0.0]
    assert asked == [ABORTS, ABORTS]


def test_the_second_run_is_in_a_fresh_worker_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running = Lock(), [0]
    aborted: list[tuple[int, int]] = []  # programs running then, process id of the worker
    ask = sandbox._SandboxProcess.ask

    def watched(
        self: sandbox._SandboxProcess, program: str, tests: Sequence[ProgramTest]
    ) -> object:
        with lock:
            running[0] += 1
        reply = ask(self, program, tests)
        with lock:
            if program == ABORTS:
                aborted.append((running[0], self._process.pid))
            running[0] -= 1
        return reply

    monkeypatch.setattr(sandbox._SandboxProcess, "ask", watched)
    with SandboxPool(workers=2) as pool:
        busy = [f"import time\ntime.sleep(0.02)\ndef f(x): return x + {k}" for k in range(12)]
        scores = pool.run([*busy[:6], ABORTS, *busy[6:]], [ADD_ONE] * 13)
        (_, first), (others, second) = aborted
        assert (others, scores.count(1.0)) == (1, 1) and first != second
        assert second not in {worker._process.pid for worker in pool._alive}


def test_a_failing_fork_is_no_score_but_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "PAUSES", (0.0, 0.0))
    with SandboxPool() as pool:
        fork = "        pid = os.fork()\n        if pid == 0:\n            os.close(source)"
        failing = broken_worker(tmp_path, fork, "        raise OSError(12, 'no memory')\n" + fork)
        monkeypatch.setattr(sandbox, "WORKER", failing)
        with pytest.raises(MachineError, match=r"3 times in a row.*no memory"):
            pool.run([RIGHT], [ADD_ONE])
        assert pool.isolation is not None  # started with the failing one
        monkeypatch.setattr(sandbox, "WORKER", WORKER)
        assert pool.run([RIGHT], [ADD_ONE]) == [1.0]


def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PAUSES", (0.0, 0.0))
    start = subprocess.Popen
    refused: list[int] = []

    def scarce(*arguments: object, **options: object) -> object:
        if len(refused) < 2:
            refused.append(1)
            raise OSError(11, "Resource temporarily unavailable")
        return start(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(sandbox.subprocess, "Popen", scarce)
    with SandboxPool() as pool:
        assert pool.run([RIGHT], [ADD_ONE]) == [1.0]
    refused.clear()
    monkeypatch.setattr(sandbox, "PAUSES", ())
    with SandboxPool() as pool, pytest.raises(MachineError, match="temporarily unavailable"):
        pool.run([RIGHT], [ADD_ONE])


def test_an_interrupted_worker_gives_its_answer_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(self: sandbox._SandboxProcess, seconds: float) -> bytes:
        raise KeyboardInterrupt

    with SandboxPool() as pool:
        assert pool.isolation is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox._SandboxProcess, "_receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.run([RIGHT], [ADD_ONE])
        assert pool.run(["def f(x): return 7"], [(("f(1)", "7"),)]) == [1.0]


# Isolation.


@pytest.mark.parametrize(
    ("in_force", "free"),
    [
        (("namespaces", "empty root", "landlock", "seccomp"), []),
        (("landlock", "seccomp"), []),
        (("seccomp",), []),
        (("namespaces", "empty root"), []),
        (("namespaces",), ["files"]),
        (("landlock",), ["network"]),
        ((), ["files", "network"]),
    ],
)
def test_only_the_kernel_closes_files_and_network(in_force: tuple[str, ...], free: list[str]):
    assert left_open(in_force) == free


def test_limits_alone_are_refused_where_more_is_required() -> None:
    with SandboxPool(mechanisms=(), required=True) as pool:
        for deed in (pool.check, pool.describe, lambda: pool.run([RIGHT], [ADD_ONE])):
            with pytest.raises(InputError, match=r"files and network .* by Python alone") as caught:
                deed()
            assert "evaluation.isolation=warn" in caught.value.remedy
        assert pool._alive == []


def test_landlock_and_seccomp_are_enough_without_namespaces() -> None:
    with SandboxPool(mechanisms=("landlock", "seccomp")) as pool:
        if pool.isolation != ("landlock", "seccomp"):
            pytest.skip(f"this kernel has only {pool.isolation}")
    with SandboxPool(mechanisms=("landlock", "seccomp"), required=True) as pool:
        assert pool.run([RIGHT], [ADD_ONE]) == [1.0]


def test_limits_alone_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with SandboxPool(workers=2, mechanisms=()) as pool:
        pool.check()
        pool.run([RIGHT, ABORTS], [ADD_ONE] * 2)
        (record,) = caplog.records
        assert record.levelname == "WARNING" and "Python alone" in record.message
        assert pool.describe().startswith("limits; Python alone")


# Tests that compare.


def test_values_are_compared_as_python_would(pool: SandboxPool) -> None:
    program = (
        "from collections import Counter, namedtuple\n"
        "from enum import IntEnum\n"
        "P = namedtuple('P', 'a b')\n"
        "E = IntEnum('E', 'one two')\n"
        "def f(x): return [2.0, True, P(1, [2]), Counter('aab'), {3, 4}, E.two, 10 ** 5000,\n"
        "                  b'y', 1j, None, ..., '\\ud800'][x]"
    )
    literals = [
        "2", "1", "(1, [2])", "{'a': 2, 'b': 1}", "{4, 3}", "2", hex(10**5000),
        "b'y'", "1j", "None", "...", repr("\ud800"),
    ]  # fmt: skip
    right = tuple((f"f({k}) == {literal}", "True") for k, literal in enumerate(literals))
    assert all(read_test(*test).form == "plain" for test in right)
    assert pool.run([program], [right]) == [1.0]
    wrong = [f"f({k}) == {literal}" for k, literal in enumerate([*literals[1:], literals[0]])]
    wrong[4] = "f(4) == {3, 4, 5}"
    assert pool.run([program] * 12, [((test, "True"),) for test in wrong]) == [0.0] * 12


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("Fraction(1, 2)", "0.5"), ("Decimal(3)", "3"), ("Decimal('inf')", "1e999"),
        ("bytearray(b'a')", "b'a'"), ("{1: 2}.keys()", "{1}"), ("{1: 2}.items()", "{(1, 2)}"),
        ("list(range(100_000))", repr(list(range(100_000)))),
        ("[k / 7 for k in range(50_000)]", repr([k / 7 for k in range(50_000)])),
        ("2 ** 60", str(2**60)), ("-0.0", "0"), ("float('inf')", "1e999"),
    ],
)  # fmt: skip
def test_what_python_calls_equal_passes_whatever_its_type_and_size(
    pool: SandboxPool, value: str, literal: str
) -> None:
    program = f"from fractions import Fraction\nfrom decimal import Decimal\nf = lambda: {value}"
    assert read_test(f"f() == {literal}", "True").form == "plain"
    assert pool.run([program], [((f"f() == {literal}", "True"), ("1 + 1", "2"))]) == [1.0]


def test_a_value_that_is_no_plain_one_equals_nothing(pool: SandboxPool) -> None:
    values = ("object()", "lambda: 2", "[object()]", "type('E', (), {'__eq__': lambda *_: True})()")
    for value in values:
        assert pool.run([f"def f(x): return {value}"], [(("f(1) == 2", "True"),)]) == [0.0]
