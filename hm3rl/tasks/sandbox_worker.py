"""The process in which generated programs run; started by `sandbox.py`, imports nothing of ours.

It locks itself up (see `sandbox_kernel.py`), then answers requests on standard input: for each
program it forks, the child locks itself up further (`Cell`), runs the program, evaluates the
expressions and sends back what they gave. The expected values never come here, so no program can
copy them.

Request and answer are a length (four bytes, big endian) and a body. The request's is JSON:
`[program, [[expression, form], ...]]`, where a form is "repr" or "plain" (see `plain`). The
answer's begins with one byte, the signal that ended the program's process, 0 if none did but its
own limits; then comes the program's own answer, `[text, [plain value] or null, ...]` in JSON,
nothing if the program failed.
"""

from __future__ import annotations

import _imp
import collections.abc
import contextlib
import decimal
import fractions
import functools
import gc
import importlib.util
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import NoReturn

ANSWER_LIMIT = 16 << 20
"""Bytes of all that a program answers: a right answer may be a list of a million numbers."""

EXACT = 1 << 53
"""Numbers below this are their own JSON everywhere."""

READY = b"!"
"""What a child sends when it is locked up, before the program runs."""

# Programs may import these: they are in memory already, as is what is built into the interpreter.
# Files are out of reach, so nothing else is.
MODULES = (
    "abc array bisect cmath collections collections.abc copy dataclasses datetime decimal enum "
    "fractions functools heapq itertools json math numbers operator random re statistics string "
    "struct textwrap time types typing"
).split()

NATIVE = ("ctypes", "_ctypes", "cffi", "_cffi_backend")
"""Modules that call native code of one's own choice."""

_FORBIDDEN = (
    "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "signal.", "resource.", "fcntl.",
    "mmap.", "pty.", "syslog.", "tempfile.", "gc.", "sqlite3.", "open", "_thread.",
)  # fmt: skip


class Cell:
    """What worker and children put on themselves, for good, before a program runs.

    Args:
        cpu_s: CPU seconds.
        memory: Address space in bytes.
        wanted: Of "landlock" and "seccomp", those to use where the kernel has them.
    """

    def __init__(self, cpu_s: float, memory: int, wanted: list[str]) -> None:
        self._before = set(sys.modules), every_class()
        # By its file: the folder has modules named like some of the standard library.
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_kernel.py")
        spec = importlib.util.spec_from_file_location("sandbox_kernel", path)
        assert spec is not None and spec.loader is not None
        kernel = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernel)
        self._kernel = kernel
        self._cpu_s, self._memory = cpu_s, memory
        self._libc = kernel.ctypes.CDLL(None)
        mechanisms = {"landlock": kernel.Files(self._libc), "seccomp": kernel.SystemCalls()}
        self._mechanisms = {name: mechanisms[name] for name in mechanisms if name in wanted}
        self._mechanisms = {name: self._mechanisms[name] for name in self._probe()}

    @property
    def mechanisms(self) -> list[str]:
        """The kernel's mechanisms that `enter` puts in force."""
        return list(self._mechanisms)

    def enter(self) -> None:
        """Give up privileges and resources, then files and system calls; for children.

        Raises:
            OSError: Something failed; the program must not run.
        """
        self._limit()
        for name, mechanism in self._mechanisms.items():
            if not mechanism.restrict(self._libc):
                raise OSError(f"{name} failed")

    def lock_up(self) -> list[str]:
        """Move this process to namespaces of its own; returns what is in force. For the worker."""
        in_force: list[str] = self._kernel.lock_up()
        return in_force

    def hide(self) -> None:
        """Put all that this cell brought in out of reach, ctypes first of all; for the worker.

        Whoever holds a reference can go on using it; nobody can find one. Nothing is left that
        loads a native module either, from a file or one that this process loaded before.

        Raises:
            RuntimeError: This interpreter does not let it be hidden.
        """
        modules, classes = self._before
        del self._before  # or each child would let go of every class, and copy its page for that
        for name in set(sys.modules) - modules:
            del sys.modules[name]
        self._kernel.unlist(every_class() - classes)
        del _imp.create_builtin, _imp.create_dynamic
        if every_class() - classes or not sys.modules.keys().isdisjoint(NATIVE):
            raise RuntimeError("this Python does not let ctypes be put out of the programs' reach")

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
        bits = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if bits < 0:  # not "the kernel has none of them", which it would not have shown
            raise OSError(f"a process was killed by signal {-bits} before it could lock itself up")
        return [name for place, name in enumerate(self._mechanisms) if bits >> place & 1]

    def _limit(self) -> None:
        self._kernel.give_up_privileges(self._libc)
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


def every_class() -> set[type]:
    """All classes that can be found from `object` down."""
    found: set[type] = set()
    left: list[type] = [object]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += type.__subclasses__(one)
    return found


def audit_hook(
    forbidden: tuple[str, ...], native: tuple[str, ...]
) -> Callable[[str, tuple[object, ...]], None]:
    """Make the hook that refuses files, processes, sockets and the like within Python itself.

    What it refuses is its own, not a name of this module: programs can change those.
    """

    def deny(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(forbidden) or (event == "import" and arguments[0] in native):
            raise PermissionError(f"{event} is not allowed here")

    return deny


@functools.lru_cache(maxsize=65536)
def compiled(expression: str) -> types.CodeType | None:
    """Compile an expression of a test, once in the worker; None if it is not Python."""
    try:
        with warnings.catch_warnings():  # on standard error, which is for what goes wrong here
            warnings.simplefilter("ignore")
            return compile(expression, "test", "eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def plain(value: object) -> object:
    """Encode a plain value in JSON; those of a subclass as what they hold.

    None, bool, str, list and ordinary numbers are their own encoding; all others are an object of
    one pair, their kind and what they hold. What Python counts as equal to a value of another type
    (a fraction to a number, the keys of a dictionary to a set) is sent as such a value. Nothing
    depends on a program's leaving this function alone: whatever it sends is read as a plain value,
    outside.

    Raises:
        TypeError: It is none.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        number = int(value)
        return number if -EXACT < number < EXACT else {"int": format(number, "x")}
    if isinstance(value, float):
        real = float(value)
        return real if math.isfinite(real) else {"float": real.hex()}
    if isinstance(value, (fractions.Fraction, decimal.Decimal)):
        if not math.isfinite(value):
            return {"float": float(value).hex()}
        return {"ratio": [format(part, "x") for part in value.as_integer_ratio()]}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [plain(one) for one in value]}
    if isinstance(value, (set, frozenset, collections.abc.KeysView, collections.abc.ItemsView)):
        return {"set": [plain(one) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(one)] for key, one in value.items()]}
    if value is ...:
        return {"ellipsis": ""}
    raise TypeError(f"{type(value).__name__} is no plain value")


FORMS: dict[str, Callable[[object], object]] = {"repr": repr, "plain": lambda v: [plain(v)]}
"""How the value of an expression is sent back."""

Test = tuple[types.CodeType | None, str]
"""A compiled expression and the form of its answer."""


def run_program(program: str, tests: list[Test]) -> list[object]:
    """Execute a program and evaluate the tests' expressions in its name space.

    Returns:
        What each expression gave, in its form, None where it raised; empty if the program itself
        raised.
    """
    space: dict[str, object] = {"__name__": "program"}
    answers: list[object] = []
    try:
        exec(compile(program, "program", "exec"), space)
    except BaseException:  # also SystemExit and KeyboardInterrupt, which a program may raise
        return answers
    for test, form in tests:
        try:
            answers.append(None if test is None else FORMS[form](eval(test, space)))
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
        sys.addaudithook(audit_hook(_FORBIDDEN, NATIVE))
        os.write(out, READY)
    except BaseException:
        os._exit(1)


def answer(out: int, program: str, tests: list[Test]) -> NoReturn:
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


def supervise(pid: int, source: int, cpu_s: float, wall_s: float) -> tuple[int, bytes] | None:
    """Collect what a child sends until it ends, floods or runs out of time; then kill it.

    Returns:
        The signal that ended it, 0 if it ended by itself or by its limits, and its answer, empty if
        there is no complete one; None if it never got ready.
    """
    deadline = time.monotonic() + wall_s
    sent = b""
    complete = ended = False
    while len(sent) <= ANSWER_LIMIT and not complete:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([source], [], [], left)[0]:
            break
        piece = os.read(source, 1 << 16)
        if not piece:
            ended = ends(pid, deadline)
            break
        sent += piece
        complete = len(sent) >= 5 and len(sent) - 5 >= struct.unpack(">I", sent[1:5])[0]
    for kill in (os.killpg, os.kill):  # the group exists once the child has made it
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    _, status, used = os.wait4(pid, 0)
    if sent[:1] != READY:
        return None
    if complete and len(sent) - 5 == struct.unpack(">I", sent[1:5])[0]:
        return 0, sent[5:]
    death = os.WTERMSIG(status) if ended and os.WIFSIGNALED(status) else 0
    limited = death in (signal.SIGPROF, signal.SIGXCPU) or used.ru_utime + used.ru_stime >= cpu_s
    return 0 if limited else death, b""


def ends(pid: int, deadline: float) -> bool:
    """Wait until a child that can send nothing any more has ended of itself; False: out of time."""
    pause = 0.0005
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


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


Job = tuple[int, str, list[Test]]


def serve(cpu_s: float, wall_s: float, memory: int, wanted: list[str]) -> Job:
    """Lock up, say what is in force, then serve requests until the driver goes away.

    Returns:
        In the child only: where its answer goes, the program and the tests. Nothing of the worker
        is left on the stack then that the program could walk up to: no earlier answers, no libc.
    """
    null = os.open(os.devnull, os.O_RDWR)
    cell = Cell(cpu_s, memory, wanted)
    in_force = cell.lock_up() if "namespaces" in wanted else []
    cell.hide()
    gc.collect()
    gc.freeze()
    send(json.dumps([*in_force, *cell.mechanisms]).encode())
    while True:
        program, asked = json.loads(read_exactly(struct.unpack(">I", read_exactly(4))[0]))
        tests = [(compiled(expression), form) for expression, form in asked]
        source, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(source)
            become_child(out, null, cell)
            return out, program, tests
        os.close(out)
        found = supervise(pid, source, cpu_s, wall_s)
        os.close(source)
        if found is None:
            sys.exit("a child could not lock itself up")
        death, body = found
        send(bytes([death]) + body)


def main() -> NoReturn:
    """Serve; in a child, run the program."""
    for module in MODULES:
        __import__(module)
    for module in set(sys.builtin_module_names).difference(NATIVE):
        with contextlib.suppress(ImportError):  # what this interpreter has, it may lack parts of
            __import__(module)
    arguments = sys.argv[1:]
    answer(
        *serve(float(arguments[0]), float(arguments[1]), int(arguments[2]), arguments[3].split(","))
    )


if __name__ == "__main__":
    main()
