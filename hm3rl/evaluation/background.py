"""One thread beside the caller, for work that mostly waits for other processes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Does pieces of work one after the other, in the order given, while the caller goes on.

    The thread lives while there is work, so there is nothing to close; it keeps no process from
    ending.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Let work be done; what it returns or raises is in the future, which can be cancelled."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.append((future, work))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="hm3rl-background", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                future, work = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # whoever asks for the result gets it
                future.set_exception(error)
            else:
                future.set_result(result)
