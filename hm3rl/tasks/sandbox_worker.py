"""The process in which generated programs run; started by `sandbox.py`, imports nothing of ours.

It locks itself up (see `lock_up`), then answers requests on standard input: for each program it
forks, the child locks itself up further (`Cell`), runs the program, evaluates the expressions and
sends back their `repr`. The expected values never come here, so no program can copy them.

Request and answer are a length (four bytes, big endian) and JSON: `[program, [expression, ...]]`
one way, `[repr or null, ...]` the other; an answer of length 0 means that the program failed.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib.util
import json
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import NoReturn

NOBODY = 65534
ANSWER_LIMIT = 1 << 20
READY = b"!"
"""What a child sends when it is locked up, before the program runs."""
NOT_LOCKED = 3
"""Exit status of a worker whose child could not lock itself up."""

# Programs may import these: they are in memory already. Files are out of reach, so nothing else is.
MODULES = (
    "abc array bisect cmath collections collections.abc copy dataclasses datetime decimal enum "
    "fractions functools heapq itertools json math numbers operator random re statistics string "
    "struct textwrap time types typing"
).split()

_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_REC_PRIVATE = 16384 | (1 << 18)
_SYS_MOUNT_SETATTR = 442
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

_FORBIDDEN = (
    "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "signal.", "resource.", "fcntl.",
    "mmap.", "pty.", "syslog.", "tempfile.", "gc.", "sqlite3.", "open", "_thread.",
)  # fmt: skip


def lock_up() -> list[str]:
    """Move this process to namespaces of its own, if the kernel allows.

    Returns:
        What is in force: "namespaces" (own network, mounts, processes), "empty root".
    """
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _NEW_MOUNTS | _NEW_NET | _NEW_PIDS | _NEW_IPC
    uid, gid = os.getuid(), os.getgid()
    if uid != 0:
        flags |= _NEW_USER
    if libc.unshare(flags) != 0:
        return []
    if uid != 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {uid} 1"),
            ("gid_map", f"{NOBODY} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    done = ["namespaces"]
    libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
    read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # struct mount_attr: set MOUNT_ATTR_RDONLY
    libc.syscall(_SYS_MOUNT_SETATTR, -100, b"/", 0x8000, read_only, ctypes.sizeof(read_only))
    if libc.chroot(b".") == 0:
        os.chdir("/")
        done.append("empty root")
    inner = os.fork()  # the first child becomes process 1 of the new namespace
    if inner:
        os.close(0)
        os.close(1)
        _, status = os.waitpid(inner, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    return done


class Cell:
    """What a child puts on itself, for good, before it runs a program.

    Args:
        cpu_s: CPU seconds.
        memory: Address space in bytes.
        wanted: Of "landlock" and "seccomp", those to use where the kernel has them.
    """

    def __init__(self, cpu_s: float, memory: int, wanted: list[str]) -> None:
        # By its file: the folder has modules named like some of the standard library.
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_kernel.py")
        spec = importlib.util.spec_from_file_location("sandbox_kernel", path)
        assert spec is not None and spec.loader is not None
        kernel = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernel)
        self._cpu_s, self._memory = cpu_s, memory
        self._libc = ctypes.CDLL(None)
        mechanisms = {"landlock": kernel.Files(self._libc), "seccomp": kernel.SystemCalls()}
        self._mechanisms = {name: mechanisms[name] for name in mechanisms if name in wanted}
        self._mechanisms = {name: self._mechanisms[name] for name in self._probe()}

    @property
    def mechanisms(self) -> list[str]:
        """The kernel's mechanisms that `enter` puts in force."""
        return list(self._mechanisms)

    def enter(self) -> None:
        """Give up privileges and resources, then files and system calls.

        Raises:
            OSError: Something failed; the program must not run.
        """
        self._limit()
        for name, mechanism in self._mechanisms.items():
            if not mechanism.restrict(self._libc):
                raise OSError(f"{name} failed")

    def _probe(self) -> list[str]:
        """Try every mechanism in a process that ends with it."""
        pid = os.fork()
        if pid == 0:
            bits = 0
            try:
                self._limit()
                for place, mechanism in enumerate(self._mechanisms.values()):
                    bits |= mechanism.restrict(self._libc) << place
            finally:
                os._exit(bits)
        held_bits = max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        return [name for place, name in enumerate(self._mechanisms) if held_bits >> place & 1]

    def _limit(self) -> None:
        libc = self._libc
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        else:
            header = (ctypes.c_uint32 * 2)(0x20080522, 0)
            libc.capset(header, (ctypes.c_uint32 * 6)())
        seconds = int(self._cpu_s) + 1
        for which, value in (
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_AS, self._memory),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, 16),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(which, (value, value))
        signal.setitimer(signal.ITIMER_PROF, self._cpu_s)


def audit_hook(forbidden: tuple[str, ...]) -> Callable[[str, tuple[object, ...]], None]:
    """Make the hook that refuses files, processes, sockets and the like within Python itself.

    What it refuses is its own, not a name of this module: programs can change those.
    """

    def deny(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(forbidden):
            raise PermissionError(f"{event} is not allowed here")

    return deny


@functools.lru_cache(maxsize=65536)
def compiled(expression: str) -> types.CodeType | None:
    """Compile an expression of a test, once in the worker; None if it is not Python."""
    try:
        return compile(expression, "test", "eval")
    except (SyntaxError, ValueError):
        return None


def run_program(program: str, tests: list[types.CodeType | None]) -> list[str | None]:
    """Execute a program and evaluate the tests' expressions in its name space.

    Returns:
        The `repr` of each expression, None where it raised; empty if the program itself raised.
    """
    space: dict[str, object] = {"__name__": "program"}
    answers: list[str | None] = []
    try:
        exec(compile(program, "program", "exec"), space)
    except BaseException:  # also SystemExit and KeyboardInterrupt, which a program may raise
        return answers
    for test in tests:
        try:
            answers.append(None if test is None else repr(eval(test, space)))
        except BaseException:
            answers.append(None)
    return answers


def become_child(out: int, null: int, cell: Cell) -> None:
    """Turn a fresh fork into the process of one program: standard streams, group, cell."""
    try:
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.setsid()
        cell.enter()
        sys.addaudithook(audit_hook(_FORBIDDEN))
        os.write(out, READY)
    except BaseException:
        os._exit(1)


def answer(out: int, program: str, tests: list[types.CodeType | None]) -> NoReturn:
    """Run the program, send what it answers, and leave."""
    write, leave, pack, dumps = os.write, os._exit, struct.pack, json.dumps
    try:
        body = dumps(run_program(program, tests)).encode()
        body = pack(">I", len(body)) + body
        while body and len(body) <= ANSWER_LIMIT:
            body = body[write(out, body) :]
    except BaseException:
        leave(1)
    leave(0)


def supervise(pid: int, source: int, wall_s: float) -> bytes | None:
    """Collect what a child sends until it ends, floods or runs out of time; then kill it.

    Returns:
        Its answer, empty if there is no complete one; None if it never got ready.
    """
    deadline = time.monotonic() + wall_s
    sent = b""
    while len(sent) <= ANSWER_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([source], [], [], left)[0]:
            break
        piece = os.read(source, 1 << 16)
        if not piece:
            break
        sent += piece
        if len(sent) >= 5 and len(sent) - 5 >= struct.unpack(">I", sent[1:5])[0]:
            break
    for kill in (os.killpg, os.kill):  # the group exists once the child has made it
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    os.waitpid(pid, 0)
    if sent[:1] != READY:
        return None
    complete = len(sent) >= 5 and len(sent) - 5 == struct.unpack(">I", sent[1:5])[0]
    return sent[5:] if complete else b""


def read_exactly(count: int) -> bytes:
    """Read from standard input; the driver has gone if it ends, and so does this process."""
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


def send(body: bytes) -> None:
    """Send one message to the driver."""
    message = struct.pack(">I", len(body)) + body
    while message:
        message = message[os.write(1, message) :]


Job = tuple[int, str, list[types.CodeType | None]]


def serve(cpu_s: float, wall_s: float, memory: int, wanted: list[str]) -> Job:
    """Lock up, say what is in force, then serve requests until the driver goes away.

    Returns:
        In the child only: where its answer goes, the program and the tests. Nothing of the worker
        is left on the stack then that the program could walk up to: no earlier answers, no libc.
    """
    null = os.open(os.devnull, os.O_RDWR)
    cell = Cell(cpu_s, memory, wanted)
    in_force = lock_up() if "namespaces" in wanted else []
    gc.collect()
    gc.freeze()
    send(json.dumps([*in_force, *cell.mechanisms]).encode())
    while True:
        program, expressions = json.loads(read_exactly(struct.unpack(">I", read_exactly(4))[0]))
        tests = [compiled(expression) for expression in expressions]
        source, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(source)
            become_child(out, null, cell)
            return out, program, tests
        os.close(out)
        sent = supervise(pid, source, wall_s)
        os.close(source)
        if sent is None:
            sys.stderr.write("a child could not lock itself up\n")
            sys.exit(NOT_LOCKED)
        send(sent)


def main() -> NoReturn:
    """Serve; in a child, run the program."""
    for module in MODULES:
        __import__(module)
    arguments = sys.argv[1:]
    answer(
        *serve(float(arguments[0]), float(arguments[1]), int(arguments[2]), arguments[3].split(","))
    )


if __name__ == "__main__":
    main()
