"""What the Linux kernel lets a process take from itself: namespaces, privileges, files, calls.

Loaded by `sandbox_worker.py` from its file, so it imports nothing of ours. All of it is inherited
by whatever a process starts and cannot be undone by it, native code included.

It needs ctypes, which would undo everything that Python alone forbids. So nothing else of the
worker does, and `Cell.hide` puts this module and ctypes out of reach before any program runs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import weakref
from collections.abc import Iterable

NOBODY = 65534
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


def give_up_privileges(libc: ctypes.CDLL) -> None:
    """Die with the parent, and become nobody who can never become anybody again."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)())


def unlist(classes: Iterable[type]) -> None:
    """Take classes out of what their bases' `__subclasses__()` say; whoever has them keeps them."""
    # The list is one of weak references, and an emptied one is passed over.
    clear = ctypes.pythonapi._PyWeakref_ClearRef
    clear.argtypes, clear.restype = [ctypes.py_object], None
    for one in classes:
        clear(weakref.ref(one))
