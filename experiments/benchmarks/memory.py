"""Peak anonymous memory of this process: what it allocated, without the files it has mapped."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_ANONYMOUS = re.compile(r"RssAnon:\s+(\d+) kB")


def anonymous_bytes() -> int:
    """Return the process's anonymous resident memory now (Linux)."""
    found = _ANONYMOUS.search(_STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{_STATUS} does not state RssAnon; this needs Linux 4.5 or later")
    return 1024 * int(found[1])


class PeakMemory:
    """Samples anonymous memory while a block runs.

    Args:
        seconds: Time between samples.

    Attributes:
        before: Bytes when the block was entered.
        peak: Most bytes seen since.
    """

    def __init__(self, seconds: float = 0.005) -> None:
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = 0

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = anonymous_bytes()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous_bytes())

    def _watch(self) -> None:
        while not self._done.wait(self._seconds):
            self.peak = max(self.peak, anonymous_bytes())
