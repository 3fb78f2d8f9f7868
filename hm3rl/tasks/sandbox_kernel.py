"""What the Linux kernel lets an unprivileged process take from itself: Landlock and seccomp.

Loaded by `sandbox_worker.py` from its file, so it imports nothing of ours. Both mechanisms are
inherited by whatever a process starts and cannot be undone by it, native code included.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file access rights by version of the kernel's Landlock interface."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_NUMBER, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 16 + 2 * 8
_FOREIGN_NUMBERS = 0x40000000
"""On x86-64, system calls from here on are those of the x32 interface."""
_PROT_EXEC = 4

# What an interpreter that has everything in memory needs: memory, clocks, sleeping, reading and
# writing what is open already, leaving. Nothing that opens, starts, signals, connects or asks.
_CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "munmap": 11,
            "brk": 12, "rt_sigreturn": 15, "readv": 19, "writev": 20, "select": 23,
            "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39,
            "exit": 60, "gettimeofday": 96, "getrusage": 98, "times": 100, "getuid": 102,
            "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "gettid": 186,
            "time": 201, "futex": 202, "restart_syscall": 219, "clock_gettime": 228,
            "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "pselect6": 270,
            "ppoll": 271, "getrandom": 318, "mmap": 9, "mprotect": 10,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "munmap": 215,
            "brk": 214, "rt_sigreturn": 139, "readv": 65, "writev": 66, "pselect6": 72,
            "ppoll": 73, "sched_yield": 124, "mremap": 216, "madvise": 233, "nanosleep": 101,
            "getpid": 172, "exit": 93, "gettimeofday": 169, "getrusage": 165, "times": 153,
            "getuid": 174, "getgid": 176, "geteuid": 175, "getegid": 177, "getppid": 173,
            "gettid": 178, "futex": 98, "restart_syscall": 128, "clock_gettime": 113,
            "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "getrandom": 278,
            "mmap": 222, "mprotect": 226,
        },
    ),
}  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class SystemCalls:
    """A seccomp filter: system calls that are not on the list fail with "not permitted".

    Memory cannot be made executable either, so no native code can be brought in.
    """

    def __init__(self) -> None:
        machine = os.uname().machine
        self._text = _filter(*_CALLS[machine]) if machine in _CALLS else b""
        self._program = _Program(len(self._text) // 8, self._text)

    def restrict(self, libc: ctypes.CDLL) -> bool:
        """Put the filter on this process for good; False where the kernel cannot."""
        if not self._text:
            return False
        return not libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(self._program))


def _filter(architecture: int, calls: dict[str, int]) -> bytes:
    """Write the filter as a program of the kernel's packet-filter machine."""
    checked = [calls["mmap"], calls["mprotect"]]
    plain = [number for number in calls.values() if number not in checked]
    # Each line is a code, its operand, and where to go on if a comparison is true or false ("" is
    # the next line). Jumps only lead forwards.
    lines = [
        (_LOAD, _ARCHITECTURE, "", ""),
        (_EQUAL, architecture, "", "kill"),
        (_LOAD, _NUMBER, "", ""),
        (_AT_LEAST, _FOREIGN_NUMBERS, "refuse", ""),
        *((_EQUAL, number, "allow", "") for number in plain),
        (_EQUAL, checked[0], "memory", ""),
        (_EQUAL, checked[1], "memory", "refuse"),
        (_LOAD, _THIRD_ARGUMENT, "", ""),
        (_ANY_BIT, _PROT_EXEC, "refuse", "allow"),
        (_RETURN, _REFUSE, "", ""),
        (_RETURN, _ALLOW, "", ""),
        (_RETURN, _KILL, "", ""),
    ]
    place = {"memory": len(lines) - 5, "refuse": len(lines) - 3}
    place |= {"allow": len(lines) - 2, "kill": len(lines) - 1}

    def jump(line: int, target: str) -> int:
        return place[target] - line - 1 if target else 0

    return b"".join(
        struct.pack("=HBBI", code, jump(line, yes), jump(line, no), operand)
        for line, (code, operand, yes, no) in enumerate(lines)
    )


class Files:
    """A Landlock domain without any exception: no file, no TCP port, no signal to the outside."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        version = libc.syscall(
            _SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION
        )
        self._version = max(int(version), 0)

    def restrict(self, libc: ctypes.CDLL) -> bool:
        """Enter the domain for good; False where the kernel cannot."""
        if not self._version:
            return False
        files = (1 << _FILE_RIGHTS.get(self._version, 16)) - 1
        rules = [files]
        if self._version >= 4:
            rules.append(0b11)  # binding and connecting
        if self._version >= 6:
            rules.append(0b11)  # abstract sockets and signals
        attributes = struct.pack(f"={len(rules)}Q", *rules)
        domain = libc.syscall(
            _SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0
        )
        if domain < 0:
            return False
        entered = not libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, domain, 0)
        os.close(domain)
        return entered
