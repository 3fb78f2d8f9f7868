"""A pool of locked-up processes that execute generated programs against unit tests.

What it promises. Every program runs in a process of its own, forked from a small worker that is
started once. It is killed with all it started when it has used its CPU seconds or, far later, when
its wall-clock limit has passed. It cannot start processes or threads, write or read files, reach
the network, signal anybody, or take more memory than allowed; its output goes nowhere. Expected
values never enter the sandbox, so no program can answer with them.

How. Each of these is used where the kernel has it, and `SandboxPool.isolation` says what is in
force; below the line is what remains everywhere.

    namespaces  (root, or unprivileged user namespaces) an empty network, a process table of its own
    empty root  with them: an empty, read-only root folder
    landlock    (Linux 5.13) no file; from 6.7 on no TCP port, from 6.12 on no signal to outside
    seccomp     (x86-64, aarch64) only the system calls of computing: nothing that opens, starts,
                signals or connects, and no new executable memory
    ---------
    limits      CPU, address space, processes, file size, open files; no privileges; a Python audit
                hook that refuses files, processes, sockets and native code

What it does not promise. With the last line alone, files that everybody may read and the network
are closed by the audit hook only, which native code smuggled past the interpreter could undo. Bugs
of the kernel are not its business. A program that needs almost exactly its CPU limit, reads the
clock or draws random numbers may pass one day and fail the next; all others give the same score
every time. Programs can import what the worker holds in memory (`sandbox_worker.MODULES` for their
use, and what the worker and the interpreter are made of) and nothing from files.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from hm3rl.errors import HM3Error
from hm3rl.tasks.scratch import ScratchFolder

Tests = tuple[tuple[str, str], ...]

WORKER = Path(__file__).with_name("sandbox_worker.py")
MECHANISMS = ("namespaces", "landlock", "seccomp")
"""What is asked of the kernel."""
PREFIX = "hm3rl-programs-"
"""Names of the workers' folders begin with it."""
NOT_LOCKED = 3
"""A worker ends with this status if it could not lock up a program."""
DEFAULT_SECONDS, DEFAULT_MEMORY_MB = 1.0, 512
MEMO_LIMIT = 200_000
ATTEMPTS = 2
START_SECONDS = 60.0
GRACE_SECONDS = 5.0


class SandboxError(HM3Error):
    """The sandbox itself does not work; never a program's fault and never a score."""


class _WorkerLost(Exception):
    """The worker process ended or stopped answering."""


class _Worker:
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
        try:
            self.isolation: tuple[str, ...] = tuple(json.loads(self._receive(START_SECONDS)))
        except _WorkerLost:
            said = self.kill() or "no message"
            raise SandboxError(f"the program sandbox does not start: {said}") from None

    def ask(self, program: str, expressions: Sequence[str]) -> list[str | None]:
        """Run one program.

        Returns:
            The `repr` of each expression, None where it raised; empty if the program failed.

        Raises:
            _WorkerLost: The worker ended or does not answer.
        """
        body = json.dumps([program, list(expressions)]).encode()
        assert self._process.stdin is not None
        message = memoryview(struct.pack(">I", len(body)) + body)
        try:
            while message:
                message = message[self._process.stdin.write(message) or 0 :]
        except OSError as error:
            raise _WorkerLost from error
        answer = self._receive(self._limit)
        try:
            answers = json.loads(answer)
        except (ValueError, RecursionError):  # empty, or a program wrote on the pipe itself
            return []
        return answers if isinstance(answers, list) else []

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
        """End the worker; return why it gave up of its own accord, empty if it did not."""
        try:
            status = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        said = self.kill()
        return said if status == NOT_LOCKED else ""

    def kill(self) -> str:
        """End the worker with all it started; return what it wrote to standard error."""
        try:
            os.killpg(self._process.pid, 9)
        except ProcessLookupError:
            self._process.poll()  # gone already; only its exit status is left to collect
        _, said = self._process.communicate()
        return said.decode(errors="replace").strip()


def _close(workers: list[_Worker], folder: ScratchFolder) -> None:
    while workers:
        workers.pop().kill()
    folder.cleanup()


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
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_s: float = DEFAULT_SECONDS,
        memory_mb: int = DEFAULT_MEMORY_MB,
        wall_s: float | None = None,
        mechanisms: Collection[str] = MECHANISMS,
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mb < 64:
            raise ValueError(
                f"need workers >= 1, timeout_s > 0 and memory_mb >= 64, got {workers}, {timeout_s} "
                f"and {memory_mb}"
            )
        self.workers = workers
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.wall_s = max(10 * timeout_s, 5.0) if wall_s is None else wall_s
        self.mechanisms = tuple(mechanisms)
        self.memo_hits = 0
        self.executed = 0
        self._memo: OrderedDict[tuple[str, Tests], float] = OrderedDict()
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._folder = ScratchFolder(PREFIX)
        self._alive: list[_Worker] = []
        self._lock = threading.Lock()
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
        """Kernel mechanisms in force beside the limits; starts a worker if none runs."""
        worker = self._idle.get() or self._start()
        self._idle.put(worker)
        return worker.isolation

    def describe(self) -> str:
        """What locks programs up here, for a reader."""
        return ", ".join([*self.isolation, "limits"])

    def run(self, programs: Sequence[str], tests: Sequence[Tests]) -> list[float]:
        """Run each program against its tests.

        Args:
            programs: Python sources.
            tests: Per program, pairs (expression to evaluate, expected `repr`).

        Returns:
            Per program 1.0 if it ran and every expression gave the expected `repr`, else 0.0.

        Raises:
            SandboxError: The sandbox cannot be started, or was closed.
        """
        if not self._finalizer.alive:
            raise SandboxError("the program sandbox was closed")
        jobs = [(p, tuple(t)) for p, t in zip(programs, tests, strict=True)]
        new = [job for job in dict.fromkeys(jobs) if job not in self._memo]
        self.memo_hits += len(jobs) - len(new)
        self.executed += len(new)
        if self.workers == 1 or len(new) == 1:
            verdicts = [self._judge(job) for job in new]
        else:
            with ThreadPoolExecutor(self.workers) as threads:
                verdicts = list(threads.map(self._judge, new))
        fresh = dict(zip(new, verdicts, strict=True))
        scores = [fresh[job] if job in fresh else self._memo[job] for job in jobs]
        self._memo.update(fresh)
        while len(self._memo) > MEMO_LIMIT:
            self._memo.popitem(last=False)
        return scores

    def _judge(self, job: tuple[str, Tests]) -> float:
        program, tests = job
        answers: list[str | None] = []
        failure = ""
        for _ in range(ATTEMPTS):
            worker = self._idle.get()
            try:
                worker = worker or self._start()
                answers = worker.ask(program, [expression for expression, _ in tests])
                break
            except _WorkerLost:
                assert worker is not None
                failure = self._bury(worker)
                worker = None  # a new one takes its place; a program that fells two fails
            finally:
                self._idle.put(worker)
        else:
            if failure:
                raise SandboxError(f"the program sandbox does not work: {failure}")
        return float(answers == [expected for _, expected in tests] and bool(tests))

    def _start(self) -> _Worker:
        worker = _Worker(
            self.timeout_s, self.wall_s, self.memory_mb, self._folder.name, self.mechanisms
        )
        with self._lock:
            self._alive.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> str:
        """Remove a lost worker; return what the sandbox itself, not the program, did wrong."""
        with self._lock:
            self._alive.remove(worker)
        return worker.failure()
