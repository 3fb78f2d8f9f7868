"""A pool of locked-up processes that execute generated programs against unit tests.

What it promises. Every program runs in a process of its own, forked from a small worker that is
started once. It is killed with all it started when it has used its CPU seconds or, far later, when
its wall-clock limit has passed. It cannot start processes or threads, write or read files, reach
the network, signal anybody, or take more memory than allowed; its output goes nowhere. Expected
values never enter the sandbox, so no program can answer with them, and what comes out is read as
text or plain values only (`program_tests.py`), so no object of a program's has a say.

Harm that comes from elsewhere is nobody's score. A program's process that a signal ended, other
than by its limits, runs once more in a fresh worker and alone; the same end again is its own doing.
A worker that is lost, or cannot fork, is replaced; if that does not help, `SandboxError` ends the
run, which can be resumed.

How. Each of these is used where the kernel has it, and `SandboxPool.isolation` says what is in
force; below the line is what remains everywhere.

    namespaces  (root, or unprivileged user namespaces) an empty network, a process table of its own
    empty root  with them: an empty, read-only root folder
    landlock    (Linux 5.13) no file; from 6.7 on no TCP port, from 6.12 on no signal to outside
    seccomp     (x86-64, aarch64) only the system calls of computing: nothing that opens, starts,
                signals or connects, and no new executable memory
    ---------
    limits      CPU, address space, processes, file size, open files; no privileges; ctypes and
                loading of native modules out of reach; a Python audit hook that refuses files,
                processes and sockets

What it does not promise. With the last line alone, files that everybody may read and the network
are closed by the audit hook only, which native code smuggled past the interpreter (by forged byte
code, say) could undo; so that is refused or warned of (`left_open`, `required`). Bugs
of the kernel are not its business. A program that needs almost exactly its CPU limit, reads the
clock or draws random numbers may pass one day and fail the next; all others give the same score
every time. Programs can import what the worker holds in memory (`sandbox_worker.MODULES` for their
use, and what the worker and the interpreter are made of) and nothing from files.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from hm3rl.errors import InputError, MachineError
from hm3rl.tasks.program_tests import ProgramTest, read_test
from hm3rl.tasks.scratch import ScratchFolder

log = logging.getLogger(__name__)

Tests = tuple[tuple[str, str], ...]
Used = TypeVar("Used")

WORKER = Path(__file__).with_name("sandbox_worker.py")
MECHANISMS = ("namespaces", "landlock", "seccomp")
"""What is asked of the kernel."""
PREFIX = "hm3rl-programs-"
"""Names of the workers' folders begin with it."""
DEFAULT_SECONDS, DEFAULT_MEMORY_MB = 1.0, 512
MEMO_LIMIT = 200_000
PAUSES = (0.2, 2.0)
"""Seconds before each further attempt when the sandbox itself fails; memory may be free again."""
START_SECONDS = 60.0
GRACE_SECONDS = 5.0

_CLOSED_BY = {"files": ("empty root", "landlock", "seccomp"), "network": ("namespaces", "seccomp")}
"""What of the sandbox's mechanisms closes what; landlock closes TCP ports, and those not always."""


class SandboxError(MachineError):
    """The sandbox itself does not work; never a program's fault and never a score."""


class _WorkerLost(Exception):
    """A worker process did not start, ended or stopped answering; says why, if that is known."""


class _Reply(NamedTuple):
    """What came of one program.

    Attributes:
        death: Signal that ended its process, 0 if none did but its own limits.
        answers: What the expressions gave; empty if the program failed.
    """

    death: int
    answers: list[object]


class _SandboxProcess:
    """One worker process and the pipes to it.

    Args:
        cpu_s: CPU seconds per program.
        wall_s: Wall-clock seconds per program.
        memory_mb: Address space per program.
        folder: Empty folder, the worker's working directory and root.
        mechanisms: Of `MECHANISMS`, those to use where the kernel has them.
    """

    def __init__(
        self,
        cpu_s: float,
        wall_s: float,
        memory_mb: int,
        folder: str,
        mechanisms: Collection[str],
    ) -> None:
        self._limit = wall_s + GRACE_SECONDS
        limits = (str(cpu_s), str(wall_s), str(memory_mb << 20), ",".join(mechanisms))
        # No site-packages, no user folder, no environment: the worker stays small and forks fast.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", str(WORKER), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:  # memory, processes or open files have run out
            raise _WorkerLost(f"it does not start: {error}") from error
        try:
            self.isolation: tuple[str, ...] = tuple(json.loads(self._receive(START_SECONDS)))
        except _WorkerLost:
            raise _WorkerLost(f"it does not start: {self.failure()}") from None

    def ask(self, program: str, tests: Sequence[ProgramTest]) -> _Reply:
        """Run one program.

        Raises:
            _WorkerLost: The worker ended or does not answer.
        """
        body = json.dumps([program, [[test.expression, test.form] for test in tests]]).encode()
        assert self._process.stdin is not None
        message = memoryview(struct.pack(">I", len(body)) + body)
        try:
            while message:
                message = message[self._process.stdin.write(message) or 0 :]
        except OSError as error:
            raise _WorkerLost from error
        received = self._receive(self._limit)
        try:
            answers = json.loads(received[1:])
        except (ValueError, RecursionError):  # empty, or a program wrote on the pipe itself
            answers = []
        return _Reply(received[0], answers if isinstance(answers, list) else [])

    def _receive(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        size = struct.unpack(">I", self._read(4, deadline))[0]
        return self._read(size, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        data = b""
        while len(data) < count:
            ready, _, _ = select.select([pipe], [], [], max(deadline - time.monotonic(), 0.0))
            piece = os.read(pipe, count - len(data)) if ready else b""
            if not piece:
                raise _WorkerLost
            data += piece
        return data

    def failure(self) -> str:
        """End the worker; return why it ended before, or that it did not answer."""
        try:
            status = f"status {self._process.wait(GRACE_SECONDS)}"
        except subprocess.TimeoutExpired:
            status = "no answer"
        said = self.kill().splitlines()
        return said[-1] if said else status

    def kill(self) -> str:
        """End the worker with all it started; return what it wrote to standard error."""
        try:
            os.killpg(self._process.pid, 9)
        except ProcessLookupError:
            self._process.poll()  # gone already; only its exit status is left to collect
        _, said = self._process.communicate()
        return said.decode(errors="replace").strip()


def _close(workers: list[_SandboxProcess], folder: ScratchFolder) -> None:
    while workers:
        workers.pop().kill()
    folder.cleanup()


def left_open(isolation: Collection[str]) -> list[str]:
    """What Python alone keeps from programs, of "files" and "network".

    Python can forbid a lot, but native code that a program brings in heeds none of it. So only what
    the kernel closes counts as closed.

    Args:
        isolation: The kernel's mechanisms in force, as `SandboxPool.isolation` names them.
    """
    return [what for what, closing in _CLOSED_BY.items() if not set(closing) & set(isolation)]


class SandboxPool:
    """Executes programs in locked-up processes and remembers every verdict.

    Workers start with the first program. Scores do not depend on their number.

    Args:
        workers: Processes.
        timeout_s: CPU seconds one program may use.
        memory_mb: Address space of one program, the interpreter's own (about 30 MB) included.
        wall_s: Wall-clock seconds one program may take; generous, so that a busy machine changes
            no score. Default: ten times `timeout_s`, at least 5.
        mechanisms: Of `MECHANISMS`, those to use where the kernel has them.
        required: Refuse to run programs where Python alone keeps them from files or the network
            (`left_open`), instead of warning once.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_s: float = DEFAULT_SECONDS,
        memory_mb: int = DEFAULT_MEMORY_MB,
        wall_s: float | None = None,
        mechanisms: Collection[str] = MECHANISMS,
        required: bool = False,
    ) -> None:
        wall_s = max(10 * timeout_s, 5.0) if wall_s is None else wall_s
        finite = 0 < timeout_s < math.inf and 0 < wall_s < math.inf
        if not (workers >= 1 and finite and memory_mb >= 64):
            raise ValueError(
                f"need workers >= 1, finite timeout_s and wall_s > 0 and memory_mb >= 64, got "
                f"{workers}, {timeout_s}, {wall_s} and {memory_mb}"
            )
        self.workers = workers
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.wall_s = wall_s
        self.mechanisms = tuple(mechanisms)
        self.required = required
        self.memo_hits = 0
        self.executed = 0
        self._memo: OrderedDict[tuple[str, Tests], float] = OrderedDict()
        self._idle: SimpleQueue[_SandboxProcess | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)
        try:
            self._folder = ScratchFolder(PREFIX)
        except OSError as error:
            raise SandboxError(f"the program sandbox has no folder to start in: {error}") from error
        self._alive: list[_SandboxProcess] = []
        self._lock = threading.Lock()
        self._one_alone = threading.Lock()
        self._warned = False
        self._finalizer = weakref.finalize(self, _close, self._alive, self._folder)

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; the pool cannot be used afterwards."""
        self._finalizer()

    @property
    def limits(self) -> str:
        """Limits that can decide a score, as a part of a task's version; empty: the defaults."""
        if (self.timeout_s, self.memory_mb) == (DEFAULT_SECONDS, DEFAULT_MEMORY_MB):
            return ""
        return f"+{self.timeout_s:g}s+{self.memory_mb}MB"

    @property
    def isolation(self) -> tuple[str, ...]:
        """Kernel mechanisms in force beside the limits; starts a worker if none runs.

        Raises:
            InputError: More is required.
            SandboxError: The sandbox cannot be started.
        """
        return self._with_worker(lambda worker: worker.isolation)

    def check(self) -> None:
        """Lock up a first process; see `ProgramRunner.check`."""
        self.isolation  # noqa: B018 -- a property that refuses

    def describe(self) -> str:
        """What locks programs up here, for a reader."""
        isolation = self.isolation
        said = ", ".join([*isolation, "limits"])
        open_ = left_open(isolation)
        return f"{said}; Python alone keeps programs from {' and '.join(open_)}" if open_ else said

    def run(self, programs: Sequence[str], tests: Sequence[Tests]) -> list[float]:
        """Run each program against its tests.

        Args:
            programs: Python sources.
            tests: Per program, pairs (expression to evaluate, expected `repr`).

        Returns:
            Per program 1.0 if it ran and every expression gave the expected `repr`, else 0.0.

        Raises:
            InputError: Programs would be locked up worse than required, or a test is no Python.
            SandboxError: The sandbox does not work, or was closed.
        """
        jobs = [(p, tuple(t)) for p, t in zip(programs, tests, strict=True)]
        new = [job for job in dict.fromkeys(jobs) if job not in self._memo]
        self.memo_hits += len(jobs) - len(new)
        self.executed += len(new)
        verdicts = self._judge_all(new)
        fresh = dict(zip(new, verdicts, strict=True))
        scores = [fresh[job] if job in fresh else self._memo[job] for job in jobs]
        self._memo.update(fresh)
        while len(self._memo) > MEMO_LIMIT:
            self._memo.popitem(last=False)
        return scores

    def _judge_all(self, jobs: Sequence[tuple[str, Tests]]) -> list[float]:
        if self.workers == 1 or len(jobs) <= 1:
            return [self._judge(job) for job in jobs]
        with ThreadPoolExecutor(self.workers) as threads:
            try:
                verdicts = [threads.submit(self._judge, job) for job in jobs]
            except RuntimeError as error:  # no thread can be started
                raise SandboxError(f"the program sandbox does not work: {error}") from error
            try:
                return [verdict.result() for verdict in verdicts]
            finally:  # of use only if one raised
                for verdict in verdicts:
                    verdict.cancel()

    def _judge(self, job: tuple[str, Tests]) -> float:
        program, pairs = job
        tests = [read_test(expression, expected) for expression, expected in pairs]
        deaths: set[int] = set()
        while True:
            reply = self._with_worker(lambda worker: worker.ask(program, tests), bool(deaths))
            if reply.death == 0:
                passes = len(reply.answers) == len(tests) and bool(tests)
                every = zip(tests, reply.answers, strict=False)
                return float(passes and all(test.passes(answer) for test, answer in every))
            if reply.death in deaths:
                return 0.0  # twice the same end, the second time with nobody else about
            deaths.add(reply.death)

    def _with_worker(self, use: Callable[[_SandboxProcess], Used], alone: bool = False) -> Used:
        """Use a worker, and another, alone, if one is lost in between.

        Args:
            use: What to do with it; it may be done again.
            alone: In a fresh worker, while no other runs a program.

        Raises:
            InputError: Programs would be locked up worse than required.
            SandboxError: No worker lasts.
        """
        lost = _WorkerLost()
        for attempt, pause in enumerate((0.0, *PAUSES)):
            if not self._finalizer.alive:
                raise SandboxError("the program sandbox was closed")
            if pause:  # sleeping for no time at all still lets everybody else go first
                time.sleep(pause)
            try:
                with self._lent(alone or attempt > 0) as worker:
                    return use(worker)
            except _WorkerLost as error:
                lost = error
        raise SandboxError(
            f"the program sandbox does not work: {len(PAUSES) + 1} times in a row its process was "
            f"lost ({lost}); what was running counts for nothing"
        )

    @contextmanager
    def _lent(self, alone: bool) -> Iterator[_SandboxProcess]:
        """Lend a worker: an idle one, or a fresh one for this use only while all others are idle.

        Raises:
            _WorkerLost: It was; says why.
        """
        with self._one_alone if alone else nullcontext():
            idle = [self._idle.get() for _ in range(self.workers if alone else 1)]
            kept = None  # in a place that stays empty, a later program starts a worker
            try:
                worker = (None if alone else idle.pop()) or self._start()
                try:
                    yield worker
                    kept = None if alone else worker
                except _WorkerLost:
                    raise _WorkerLost(worker.failure()) from None
                finally:
                    if kept is None:  # alone, lost, or interrupted between question and answer
                        self._reap(worker)
            finally:
                for place in idle if alone else [kept]:
                    self._idle.put(place)

    def _start(self) -> _SandboxProcess:
        """Start a worker.

        Raises:
            InputError: It locks programs up worse than required.
            _WorkerLost: It does not start.
        """
        worker = _SandboxProcess(
            self.timeout_s, self.wall_s, self.memory_mb, self._folder.name, self.mechanisms
        )
        with self._lock:
            self._alive.append(worker)
        if free := left_open(worker.isolation):
            said = (
                f"generated programs run on {os.uname().nodename} with {' and '.join(free)} kept "
                f"from them by Python alone (in force: {', '.join((*worker.isolation, 'limits'))})"
            )
            if self.required:
                self._reap(worker)
                raise InputError(
                    said,
                    "run it where the kernel has seccomp or lets users make namespaces; or inside "
                    "a container or virtual machine that may be lost, with "
                    "evaluation.isolation=warn (for a run that began already, in its config.yaml)",
                )
            if not self._warned:
                self._warned = True
                log.warning("%s; see docs/sandbox.md", said)
        return worker

    def _reap(self, worker: _SandboxProcess) -> None:
        with self._lock:
            if worker in self._alive:  # not if the pool was closed meanwhile
                self._alive.remove(worker)
        worker.kill()
