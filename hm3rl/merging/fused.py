"""Merging in one sweep over memory: kernels for the CPU, compiled by numba (extra `fast`).

Torch takes some thirty passes over the task vectors of a piece, in cache but one after the other;
here a chunk goes through all of them before the next is read, so that memory sets the pace. The
results are those of `operators` bit for bit: the same products and sums in the same order, each
rounded to fp32 (without `fastmath` numba neither reorders nor fuses them), so stored scores do not
depend on whether numba is installed. Without it, and for the operators not listed in `FUSED`, torch
does the work.
"""

from __future__ import annotations

# What is compiled carries no annotations: numba compares the signatures of its parts.
import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload

from hm3rl.merging.survival import Survival

CHUNK = 2048
"""Entries that go through all steps at once; their buffers stay in the first cache."""

DRAWN = 1 << 16
"""Entries for which random numbers are drawn at once."""


def _wide(x):
    """Read a weight as fp32."""


def _narrow(x, like):
    """Round to the nearest weight of the kind of `like`, ties to even."""


@overload(_wide, inline="always")
def _wide_for(x):
    if x == types.uint16:  # bf16 is the upper half of fp32
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(_narrow, inline="always")
def _narrow_for(x, like):
    if like == types.uint16:

        def round_to_bf16(x, like):
            bits = np.float32(x).view(np.uint32)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

        return round_to_bf16
    return lambda x, like: x


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _merge(
    base,
    experts,
    out,
    uniform,
    densities,
    smallest,
    largest,
    factors,
    weights,
    base_factor,
    scale,
    elect,
    normalise,
):
    """Merge one piece; the steps are those of `operators`, on one chunk after the other."""
    count = len(experts)
    b = np.empty(CHUNK, np.float32)
    terms = np.empty((count, CHUNK), np.float32)
    total = np.empty(CHUNK, np.float32)
    merged = np.empty(CHUNK, np.float32)
    agreeing = np.empty(CHUNK, np.float32)
    zero, one = np.float32(0), np.float32(1)
    for start in range(0, base.size, CHUNK):
        n = min(CHUNK, base.size - start)
        source, target = base[start : start + n], out[start : start + n]
        for i in range(n):
            b[i] = _wide(source[i])
            total[i] = zero
            merged[i] = zero
            agreeing[i] = zero
        for k in range(count):
            expert, term = experts[k][start : start + n], terms[k]
            low, high, factor = smallest[k], largest[k], factors[k]
            for i in range(n):
                delta = _wide(expert[i]) - b[i]
                # Negated, so that what is no number is kept and shows; infinity shows as torch's.
                delta = zero if abs(delta) < low else delta
                delta = delta - delta if abs(delta) > high else delta
                term[i] = delta * factor
            if uniform.size:
                drawn, density = uniform[k, start : start + n], densities[k]
                for i in range(n):
                    term[i] *= one if drawn[i] < density else zero
            for i in range(n):
                total[i] += term[i]
        if not elect:
            for i in range(n):
                target[i] = _narrow(b[i] * base_factor + total[i] * scale, source[i])
            continue
        for k in range(count):
            term, weight = terms[k], weights[k]
            for i in range(n):
                same = (term[i] > zero and total[i] > zero) or (term[i] < zero and total[i] < zero)
                merged[i] += term[i] if same else zero
                agreeing[i] += weight if same else zero
        for i in range(n):
            # Where no entry agrees the sum is zero and stays zero.
            share = agreeing[i] if abs(agreeing[i]) >= np.float32(1e-8) else np.float32(1)
            value = merged[i] / share if normalise else merged[i]
            # What is no number has no sign to agree with, and must show.
            value = total[i] if np.isnan(total[i]) else value
            target[i] = _narrow(b[i] + value * scale, source[i])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _count(base, expert, twice):
    """Count codes of magnitudes; see `magnitudes`."""
    for i in range(base.size):
        bits = np.float32(_wide(expert[i]) - _wide(base[i])).view(np.uint32) & np.uint32(0x7FFFFFFF)
        twice[(bits >> np.uint32(16)) + ((bits + np.uint32(0xFFFF)) >> np.uint32(16))] += 1


ELECTING = frozenset({"ties", "breadcrumbs_ties", "dare_ties", "hm3_eq5"})
FUSED = ELECTING | {"linear", "task_arithmetic", "breadcrumbs", "dare_linear"}
"""Operators that the kernel knows."""


def reads(*tensors: torch.Tensor) -> bool:
    """Whether the kernels can read tensors: on the CPU, all fp32 or all bf16."""
    kinds = {tensor.dtype for tensor in tensors}
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    return on_cpu and (kinds == {torch.float32} or kinds == {torch.bfloat16})


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's entries as numbers numpy knows: fp32, or the bits of bf16; memory is shared."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype == torch.bfloat16:
        return flat.view(torch.uint16).numpy()
    return flat.numpy()


def merge(
    operator: str,
    base: torch.Tensor,
    experts: list[torch.Tensor],
    out: torch.Tensor,
    *,
    weights: torch.Tensor,
    densities: torch.Tensor,
    scale: float,
    normalise: bool,
    smallest: list[float] | None = None,
    largest: list[float] | None = None,
    survival: list[Survival] | None = None,
) -> None:
    """Merge one tensor.

    Args:
        operator: One of `FUSED`.
        base: The base's tensor, fp32 or bf16.
        experts: The experts' tensors, K of them, of the same kind.
        out: Where the result goes, contiguous, of the same kind.
        weights: As in `TensorMerge`, and so on.
        densities: Shape (K,).
        scale: Factor on the merged task vector.
        normalise: See `MergeRecipe.normalise`.
        smallest: Trimming's lower bounds.
        largest: Trimming's upper bounds.
        survival: What draws the entries that survive.
    """
    share = weights.numpy().astype(np.float32)
    kept = densities.numpy().astype(np.float32)
    count, total = len(experts), np.float32(weights.sum())
    elect = operator in ELECTING
    factors = share / kept if operator in ("dare_linear", "dare_ties") else share
    with np.errstate(over="ignore"):  # infinity, as in torch; the model's logits will tell
        base_factor, by = np.float32(1), np.float32(scale)
    if operator in ("linear", "hm3_eq5"):
        by = np.float32(1)
    if operator == "linear" and not normalise:
        base_factor = total
    elif normalise and not elect:
        by = by / total
    low = np.array(smallest if smallest else [-1.0] * count, np.float32)
    high = np.array(largest if largest else [np.inf] * count, np.float32)
    drop = survival is not None and any(one.density < 1 for one in survival)
    arrays = tuple(as_array(expert) for expert in experts)
    source, target = as_array(base), as_array(out)
    step = DRAWN if drop else source.size
    nothing = np.empty((count, 0), np.float32)
    for start in range(0, source.size, max(step, 1)):
        stop = min(start + step, source.size)
        drawn = nothing
        if drop and survival is not None:
            drawn = np.stack([one.draw(stop - start).numpy() for one in survival])
        _merge(
            source[start:stop],
            tuple(array[start:stop] for array in arrays),
            target[start:stop],
            drawn,
            kept,
            low,
            high,
            factors,
            share,
            base_factor,
            by,
            elect,
            bool(normalise) and operator != "hm3_eq5",
        )


def count_codes(base: torch.Tensor, expert: torch.Tensor, twice: np.ndarray) -> None:
    """Count the magnitudes of a task vector's tensor by code, for `MagnitudeSketch`."""
    _count(as_array(base), as_array(expert), twice)
