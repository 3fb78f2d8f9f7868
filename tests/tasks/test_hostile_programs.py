"""Hostile programs harm nobody and score 0; honest ones are scored right after each of them."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm3rl.tasks.sandbox import MECHANISMS, SandboxPool
from tests.tasks.hostile_programs import CHEATS, DEEDS, HONEST, NEEDS_KERNEL, PROGRAMS

TESTS = (("f(1)", "2"), ("f(-5)", "-4"))
WALL_SECONDS = 1.0


class Host:
    """What a hostile program would like to harm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.victim = folder / "victim"
        self.victim.write_text("alive")
        self.victim.chmod(0o666)
        (folder / "planted.py").write_text("")
        self.before = self._state()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)

    def aim(self, program: str) -> str:
        """Fill in the targets of a hostile program."""
        for name, value in {
            "VICTIM": repr(str(self.victim)),
            "NEW": repr(str(self.folder / "new")),
            "FOLDER": repr(str(self.folder)),
            "PORT": str(self.listener.getsockname()[1]),
            "DRIVER": str(os.getpid()),
        }.items():
            program = program.replace(name, value)
        return program

    def _state(self) -> list[object]:
        status = self.victim.stat()
        names = sorted(path.name for path in self.folder.iterdir())
        return [names, self.victim.read_text(), status.st_mode, status.st_uid, status.st_mtime_ns]

    def assert_unharmed(self) -> None:
        assert self._state() == self.before
        assert not Path("/dev/shm/hm3rl-hostile").exists()
        with pytest.raises(BlockingIOError):
            self.listener.accept()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    # Not pytest's own folder, which is closed to other users: only the sandbox keeps programs out.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        host = Host(folder)
        yield host
        host.listener.close()


def children(process: int) -> list[int]:
    """Processes below one, itself not counted."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    below = [int(number) for number in text.split()]
    return below + [deeper for child in below for deeper in children(child)]


def run_all(pool: SandboxPool, host: Host, programs: dict[str, str]) -> None:
    (worker,) = pool._alive
    at_rest = children(worker._process.pid)
    for number, (name, program) in enumerate(programs.items()):
        begin = time.monotonic()
        assert pool.run([host.aim(program)], [TESTS]) == [0.0], name
        assert time.monotonic() - begin < 10 * WALL_SECONDS, name
        host.assert_unharmed()
        question = ((f"f({number})", repr(number + 1)),)
        assert pool.run([HONEST], [question]) == [1.0], f"an honest program after: {name}"
    assert pool._alive == [worker], "a hostile program felled the worker"
    assert children(worker._process.pid) == at_rest


def test_there_are_a_hundred_of_them() -> None:
    assert len(set(PROGRAMS.values())) == len(PROGRAMS) >= 100
    page = Path(__file__).parents[2] / "docs" / "sandbox.md"
    assert f"{len(PROGRAMS)} hostile programs" in page.read_text()


def test_they_are_harmless_with_all_the_kernel_offers(host: Host) -> None:
    with SandboxPool(timeout_s=0.05, wall_s=WALL_SECONDS, memory_mb=128) as pool:
        if not pool.isolation:
            pytest.skip("this kernel offers nothing; the next test has the rest")
        run_all(pool, host, PROGRAMS)


@pytest.mark.slow
def test_they_are_harmless_with_limits_alone(host: Host) -> None:
    programs = {name: text for name, text in PROGRAMS.items() if name not in NEEDS_KERNEL}
    with SandboxPool(timeout_s=0.05, wall_s=WALL_SECONDS, memory_mb=128, mechanisms=()) as pool:
        assert pool.isolation == ()
        run_all(pool, host, programs)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_mechanism_alone_stops_every_deed(host: Host, mechanism: str) -> None:
    with SandboxPool(wall_s=WALL_SECONDS, memory_mb=256, mechanisms=[mechanism]) as pool:
        if mechanism not in pool.isolation:
            pytest.skip(f"this kernel has no {mechanism}")
        run_all(pool, host, {name: PROGRAMS[name] for name in DEEDS})


@pytest.mark.parametrize("mechanisms", [MECHANISMS, ()], ids=["all mechanisms", "limits only"])
def test_tests_that_compare_are_not_faked(mechanisms: tuple[str, ...]) -> None:
    compared = (("f(1) == 2", "True"), ("-4 == f(-5)", "True"))
    with SandboxPool(timeout_s=0.1, wall_s=WALL_SECONDS, mechanisms=mechanisms) as pool:
        for name in CHEATS:
            assert pool.run([PROGRAMS[name]], [compared]) == [0.0], name
        assert pool.run([HONEST], [compared]) == [1.0]


def test_the_driver_hears_no_signal(host: Host) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with SandboxPool(memory_mb=256) as pool:
            program = "import posix\nposix.kill(DRIVER, 10)\nposix.kill(posix.getppid(), 10)"
            assert pool.run([host.aim(program)], [TESTS]) == [0.0]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == []
