"""Landlock and seccomp by themselves, without the audit hook that goes before them."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest

from hm3rl.tasks.sandbox import WORKER

SCRIPT = """
import importlib.util, json, mmap, os, signal, socket, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
deeds = {
    "open": lambda: open("/etc/passwd"),
    "list": lambda: os.listdir("/"),
    "stat": lambda: os.stat("/etc/passwd"),
    "signal": lambda: os.kill(os.getppid(), 0),
    "fork": os.fork,
    "socket": socket.socket,
    "connect": lambda: connect(),
    "native": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "memory": lambda: mmap.mmap(-1, 4096),
    "timer": lambda: signal.setitimer(signal.ITIMER_PROF, 0),
    "handler": lambda: signal.signal(signal.SIGPROF, signal.SIG_IGN),
    "clock": lambda: __import__("time").sleep(0.001),
    "random": lambda: os.urandom(8),
}
ready = socket.socket()
def connect():
    ready.connect(("127.0.0.1", 1))
cell = worker.Cell(1.0, 512 << 20, sys.argv[2].split())
cell.enter()
results = {}
for name, deed in deeds.items():
    try:
        deed()
        results[name] = 0
    except OSError as error:
        results[name] = error.errno
print(json.dumps([cell.mechanisms, results]))
"""


def attempts(*mechanisms: str) -> dict[str, int]:
    """Error number of each deed, 0 if it succeeded."""
    command = [sys.executable, "-c", SCRIPT, str(WORKER), " ".join(mechanisms)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    in_force, results = json.loads(done.stdout)
    if in_force != list(mechanisms):
        pytest.skip(f"this kernel has only {in_force} of {mechanisms}")
    return dict(results)


def test_landlock_closes_files_and_ports() -> None:
    found = attempts("landlock")
    assert found["open"] == found["list"] == errno.EACCES
    assert found["connect"] in (errno.EACCES, errno.ECONNREFUSED)  # ports since Linux 6.7
    assert found["memory"] == found["native"] == found["random"] == 0


def test_seccomp_leaves_computing_only() -> None:
    found = attempts("seccomp")
    computing = {"memory", "clock", "random"}
    assert {name for name, number in found.items() if number == 0} == computing
    assert {found[name] for name in found if name not in computing} == {errno.EPERM}


def test_without_them_the_limits_remain() -> None:
    found = attempts()
    assert found["open"] == found["native"] == found["handler"] == 0
    assert found["fork"] == errno.EAGAIN
