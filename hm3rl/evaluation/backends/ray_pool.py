"""The backend that computes with Ray: a pool of actors, each holding the sources once.

On this machine a Ray of its own is started and stopped with the search; `evaluation.ray_address`
joins a running cluster instead, whose machines need the same models, data and hm3rl at the same
paths. The driver alone writes the store.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from hm3rl.errors import InputError, MachineError
from hm3rl.evaluation.backends.base import Job, JobResult
from hm3rl.evaluation.backends.dispatch import Dispatcher, Reply, WorkerDied
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.backends.worker import ScoringWorker, identity
from hm3rl.evaluation.causes import blamed
from hm3rl.tasks.base import Split

HEALTH_SECONDS = 5.0
"""After so many seconds without a reply, Ray is asked whether it is still there."""
ANSWER_SECONDS = 20.0
"""If it does not answer within so many, it is not."""
CONNECT_SECONDS = 5.0
"""In so many a machine answers whether anybody listens at an address."""


class RayWorkers:
    """Actors as workers; see `WorkerPool`.

    Args:
        make: Loads what a worker scores with.
        expected: `identity` of the driver's backend.
        size: Number of workers.
        threads: Threads of torch in each worker; 0: an even share of the cores.
        gpu: Whether each worker gets a GPU of its own.
        address: Ray cluster to join; empty: one of its own on this machine.

    Raises:
        InputError: The cluster cannot be joined or is too small.
    """

    def __init__(
        self,
        make: Callable[[], InProcessBackend],
        expected: dict[str, str],
        size: int,
        threads: int,
        gpu: bool,
        address: str,
    ) -> None:
        self.size = size
        self.lost = False
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _start_ray(address, size)
        self._node = ray.get_runtime_context().get_node_id()
        have = ray.cluster_resources()
        for what, needed in (("CPU", size), ("GPU", size if gpu else 0)):
            if have.get(what, 0) < needed:
                self.close()
                raise InputError(
                    f"evaluation.workers={size} need {needed} {what}s, the Ray cluster has "
                    f"{have.get(what, 0):g}",
                    "use fewer workers, or a larger cluster",
                )
        cores = len(os.sched_getaffinity(0)) if self._owns_ray and not address else have["CPU"]
        self._arguments = (make, expected, threads or max(int(cores // size), 1), os.getcwd())
        self._actor = ray.remote(ScoringWorker).options(
            num_cpus=1, num_gpus=int(gpu), max_restarts=0, scheduling_strategy="SPREAD"
        )

    def start(self) -> Any:
        """Start an actor."""
        return self._actor.remote(*self._arguments)

    def load(self, worker: Any) -> Hashable:
        """Let it load the sources."""
        return worker.load.remote()

    def stop(self, worker: Any) -> None:
        """End an actor and its process."""
        ray.kill(worker)

    def submit(self, worker: Any, jobs: Sequence[Job]) -> Hashable:
        """Give it jobs."""
        return worker.score.remote(list(jobs))

    def wait(self, futures: Sequence[Hashable]) -> Hashable:
        """Wait for one reply.

        Raises:
            MachineError: Ray itself does not run any more.
        """
        while True:
            ready, _ = ray.wait(list(futures), num_returns=1, timeout=HEALTH_SECONDS)
            if ready:
                return ready[0]
            self._check_health()

    def _check_health(self) -> None:
        """Ask whether Ray still runs here: where it does not, no reply will ever come.

        Raises:
            MachineError: It does not, or does not answer.
        """
        answers: list[bool] = []
        # Ray answers for as long as it likes to where its head is gone, hence the thread.
        asking = threading.Thread(target=lambda: answers.append(self._node_lives()), daemon=True)
        asking.start()
        asking.join(ANSWER_SECONDS)
        if answers == [True]:
            return
        self.lost = True
        raise MachineError(
            f"Ray has died under the search ({'its node is gone' if answers else 'no answer'})"
        )

    def _node_lives(self) -> bool:
        """Whether the node that this process belongs to counts as alive."""
        return any(node["Alive"] and node["NodeID"] == self._node for node in ray.nodes())

    def redeem(self, future: Any) -> Reply:
        """Fetch a reply; see `WorkerPool.redeem`."""
        try:
            return ray.get(future)
        except RayTaskError:  # what a worker raised: a fault of the program, not a death
            raise
        except OutOfMemoryError as error:  # Ray ended the worker
            raise WorkerDied(
                "its machine is out of memory (use fewer workers, evaluation.workers, or "
                f"pool.dtype=bfloat16): {error}"
            ) from None
        except RayError as error:
            raise WorkerDied(str(error).strip()) from None

    def close(self) -> None:
        """Stop Ray if it was started here, else only the actors, which go with their handles."""
        if self._owns_ray:
            # Where it has died already it may not answer; its processes end with this one.
            stopping = threading.Thread(target=ray.shutdown, daemon=True)
            stopping.start()
            stopping.join(ANSWER_SECONDS if self.lost else None)


def check_address(address: str) -> None:
    """Refuse a Ray cluster at whose address nobody listens; Ray itself would ask for minutes.

    Args:
        address: As `evaluation.ray_address` has it: `host:port`, `ray://host:port`, or a word that
            Ray knows, such as `auto`, which is not looked at here.

    Raises:
        InputError: Nobody does, within `CONNECT_SECONDS`.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"evaluation.ray_address={address}: nobody listens there ({error})",
            "give the address that `ray start --head` printed, or auto; empty starts a Ray on this "
            "machine",
        ) from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, in the place of which Ray puts one that aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set one, and Ray does not either in others
        return
    mine = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM and callable(mine):  # Ray's handler was called meanwhile
            mine(signal.SIGTERM, None)
        raise
    finally:
        if mine is not None:  # None: not set from Python
            signal.signal(signal.SIGTERM, mine)


def _start_ray(address: str, size: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    check_address(address)
    with _own_signals():
        _init_ray(address, size)


def _init_ray(address: str, size: int) -> None:
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(
                address="local",
                num_cpus=size,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster {address}" if address else "Ray on this machine"
        raise InputError(
            f"cannot start {where}: {error}",
            "check evaluation.ray_address (host:port, or auto); evaluation/backend=in_process "
            "needs no Ray",
        ) from error


class RayBackend:
    """Scores candidates with a pool of Ray actors; same scores as the backend it is given.

    Ray starts with the first job, so what is in the store costs no start.

    Args:
        local: Backend of the driver, for checking items and telling what workers must agree with.
        make: Loads the same in a worker.
        workers: Number of actors; with a GPU device each has one of its own.
        threads: Threads of torch in each; 0: an even share of the cores.
        address: Ray cluster to join; empty: one of its own on this machine.
    """

    def __init__(
        self,
        local: InProcessBackend,
        make: Callable[[], InProcessBackend],
        workers: int,
        threads: int = 0,
        address: str = "",
    ) -> None:
        self.name = local.name
        self._local = local
        self._make = make
        self._workers = workers
        self._threads = threads
        self._address = address
        self._crew: RayWorkers | None = None
        self._dispatcher: Dispatcher | None = None

    def prepare(self, split: Split) -> None:
        """Encode all items here, without starting Ray; see `Backend.prepare`."""
        self._local.prepare(split)

    def score(self, jobs: Sequence[Job]) -> Generator[JobResult, None, None]:
        """Score candidates; see `Backend.score`."""
        if not jobs:
            return
        if self._dispatcher is None:
            gpu = str(self._local.pool.device).startswith("cuda")
            self._crew = RayWorkers(
                self._make,
                identity(self._local),
                self._workers,
                self._threads,
                gpu,
                self._address,
            )
            self._dispatcher = Dispatcher(self._crew)
        with blamed("score with Ray"):
            yield from self._dispatcher.score(jobs)

    def close(self) -> None:
        """Stop the workers; a later job starts them again."""
        self._dispatcher = None
        if self._crew is not None:
            self._crew.close()
            self._crew = None
