"""The process in which generated programs run; started by `sandbox.py`, imports nothing of ours.

It locks itself up (see `lock_up`), then answers requests on standard input: for each program it
forks, the child limits itself further, runs the program, evaluates the expressions and sends back
their `repr`. The expected values never come here, so no program can copy them.

Request and answer are a length (four bytes, big endian) and JSON: `[program, [expression, ...]]`
one way, `[repr or null, ...]` the other; an answer of length 0 means that the program failed.
"""

from __future__ import annotations

import ctypes
import functools
import gc
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

NOBODY = 65534
ANSWER_LIMIT = 1 << 20

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
    """Cut this process off from network, files and other processes, as far as the kernel allows.

    Returns:
        The mechanisms in force: "namespaces" (own network, mounts, processes), "empty root".
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


def limit_self(libc: ctypes.CDLL, cpu_s: float, memory: int) -> None:
    """Give up privileges and resources; called in the child just before the program runs."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)())
    seconds = int(cpu_s) + 1
    for which, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (value, value))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def deny(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: refuse files, processes, sockets and the like within Python itself."""
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"{event} is not allowed here")


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


def child(
    out: int, null: int, job: tuple[str, list[types.CodeType | None]], limit: Callable[[], None]
) -> None:
    """Run one request in a process of its own and leave; never returns."""
    write, leave, pack, dumps = os.write, os._exit, struct.pack, json.dumps
    try:
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.setsid()
        limit()
        sys.addaudithook(deny)
        body = dumps(run_program(*job)).encode()
        body = pack(">I", len(body)) + body
        while body and len(body) <= ANSWER_LIMIT:
            body = body[write(out, body) :]
    except BaseException:
        leave(1)
    leave(0)


def supervise(pid: int, source: int, wall_s: float) -> bytes:
    """Collect the answer of a child until it ends, floods or runs out of time; then kill it."""
    deadline = time.monotonic() + wall_s
    answer = b""
    while len(answer) <= ANSWER_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([source], [], [], left)[0]:
            break
        piece = os.read(source, 1 << 16)
        if not piece:
            break
        answer += piece
        if len(answer) >= 4 and len(answer) - 4 >= struct.unpack(">I", answer[:4])[0]:
            break
    for kill in (os.killpg, os.kill):  # the group exists once the child has made it
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    os.waitpid(pid, 0)
    complete = len(answer) >= 4 and len(answer) - 4 == struct.unpack(">I", answer[:4])[0]
    return answer[4:] if complete else b""


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


def main() -> None:
    """Lock up, say what is in force, then serve requests until the driver goes away."""
    cpu_s, wall_s, memory = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    for module in MODULES:
        __import__(module)
    null = os.open(os.devnull, os.O_RDWR)
    libc = ctypes.CDLL(None)
    in_force = lock_up() if sys.argv[4] == "1" else []
    gc.collect()
    gc.freeze()
    send(json.dumps(in_force).encode())
    while True:
        program, expressions = json.loads(read_exactly(struct.unpack(">I", read_exactly(4))[0]))
        job = (program, [compiled(expression) for expression in expressions])
        source, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(source)
            child(out, null, job, lambda: limit_self(libc, cpu_s, memory))
        os.close(out)
        answer = supervise(pid, source, wall_s)
        os.close(source)
        send(answer)


if __name__ == "__main__":
    main()
