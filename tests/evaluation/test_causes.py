"""Who caused an exception: decided by its type, in one place."""

from __future__ import annotations

import pickle
import re
import sqlite3
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from safetensors import SafetensorError

from hm3rl.errors import InputError, MachineError
from hm3rl.evaluation.causes import DeviceError, blamed, by_candidate, cause_of
from hm3rl.evaluation.scoring import InvalidLogitsError


@pytest.mark.parametrize(
    "error",
    [
        InvalidLogitsError(),
        IndexError("layer fell off"),
        ValueError("scores outside [0, 1]"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu!"),
        ZeroDivisionError(),
        SyntaxError("an answer that does not parse"),
        re.error("an answer that is no pattern"),
        type("OwnError", (Exception,), {})("a metric's own"),
    ],
)
def test_what_computing_raises_is_the_candidates(error: Exception) -> None:
    assert by_candidate(error)
    with pytest.raises(type(error)), blamed("run it"):
        raise error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(28, "No space left on device"), "machine"),
        (MemoryError(), "machine"),
        (torch.OutOfMemoryError("CUDA out of memory"), "machine"),
        (RuntimeError("can't start new thread"), "machine"),
        (BrokenProcessPool("a child died"), "machine"),
        (SafetensorError("device error"), "machine"),
        (sqlite3.OperationalError("database is locked"), "machine"),
        (MachineError("a worker was lost"), "machine"),
        (InputError("no such thing", "name another"), "machine"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "device"),
    ],
)
def test_everything_else_is_not(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
    with pytest.raises((MachineError, InputError)) as caught, blamed("run it"):
        raise error
    assert isinstance(caught.value, DeviceError) == (cause == "device")
    assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)
