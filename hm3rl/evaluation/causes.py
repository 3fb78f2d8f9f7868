"""Who caused an exception while a candidate was scored: the only place that decides it.

What the candidate caused is a failure: stored, and served from the store, since it would come out
the same again. What anything else caused (a lost worker, a disk, memory, the device) says nothing
of the candidate: it is tried again, and if it stays, the run stops and can be resumed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Literal

import torch
from safetensors import SafetensorError

from hm3rl.errors import HM3Error, MachineError
from hm3rl.evaluation.memory import is_out_of_memory, too_little_memory

Cause = Literal["candidate", "machine", "device"]

MACHINE = (
    BrokenExecutor,
    EOFError,
    ImportError,
    MemoryError,
    OSError,
    SafetensorError,
    sqlite3.Error,
)
"""Types that no computation raises: files, processes, memory. All others are the candidate's:
invalid logits (`InvalidLogitsError`), layers that do not fit, an answer that a metric cannot parse,
whatever type says so."""

MACHINE_TEXTS = (
    "can't start new thread",
    "no space left",
    "shared memory",
    "unable to mmap",
    "unable to open file",
)
"""Parts of the messages by which torch and Python's threads, which raise plain RuntimeErrors, say
that the machine failed."""

DEVICE_TEXTS = (
    "cuda error",
    "cudnn error",
    "cublas_status",
    "cusolver error",
    "device-side assert",
)
"""The same for a device, after which nothing more can be computed in the process."""


class DeviceError(MachineError):
    """The device failed: this process can compute nothing more, so it does not try again."""


def cause_of(error: BaseException) -> Cause:
    """Who caused an exception.

    Args:
        error: What was raised while a candidate was merged, assembled, run or judged.

    Returns:
        "candidate", "device" (the machine's, and this process is lost), or "machine".
    """
    if isinstance(error, DeviceError):
        return "device"
    if isinstance(error, HM3Error) or is_out_of_memory(error):
        return "machine"
    text = str(error).lower()
    accelerator = getattr(torch, "AcceleratorError", None)  # torch 2.8
    if accelerator is not None and isinstance(error, accelerator):
        return "device"
    if isinstance(error, RuntimeError) and any(part in text for part in DEVICE_TEXTS):
        return "device"
    if isinstance(error, RuntimeError) and any(part in text for part in MACHINE_TEXTS):
        return "machine"
    return "machine" if isinstance(error, MACHINE) else "candidate"


def by_candidate(error: BaseException) -> bool:
    """Whether an exception is the candidate's failure."""
    return cause_of(error) == "candidate"


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Run a block; what no candidate caused leaves it as a `MachineError`.

    Args:
        what: What the block does, for the message: "merge, assemble or judge a candidate".

    Raises:
        HM3Error: The caller's mistake, or the machine's.
        Exception: The candidate's failure, as it was raised.
    """
    try:
        yield
    except HM3Error:
        raise
    except Exception as error:
        cause = cause_of(error)
        if cause == "candidate":
            raise
        if is_out_of_memory(error):
            raise too_little_memory(what) from error
        said = " ".join(str(error).split()) or "no message"
        text = f"the machine failed to {what}: {type(error).__name__}: {said}"
        raise (DeviceError if cause == "device" else MachineError)(text) from error
