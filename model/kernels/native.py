"""SAM, DIN, the head and counts on a CPU: compiled when samstream is installed, where there is a compiler.

Torch makes the product of every attention, reads it to take its sigmoid, and reads it again to sum it up; its sigmoid
takes as long as the product; and the small layers between the passes cost more to call than to compute. `passes.cpp`
keeps a tile of the product in registers for all of it, divides once for four sigmoids, and lays candidates side by side
for the small layers. A weight differs from torch's by some 1e-6.

A candidate has a lane of its own, or a row that is computed as every other, and lanes that are not needed are computed
too: so its result is the same to the bit in every list, and with any number of threads.
"""

import ctypes
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.kernels.builds import built
from model.kernels.signatures import declare

THREADED = 100_000
"""Candidates times behaviours from which a second thread is worth its start."""

_BUILDS = {"AVX512": ("_passes_avx512", "_passes"), "AVX2": ("_passes",)}
"""By what the CPU can do, as torch says it: the builds that run there, best first."""

_LISTED = 1 << 16
"""Matches for which there is room at first."""


class Unit(NamedTuple):
    """Parameters of one attention unit: two layers, and scale, shift and epsilon of the LayerNorm, if there is one."""

    first: Tensor
    bias: Tensor
    second: Tensor
    second_bias: Tensor
    norm: tuple[Tensor, Tensor, float] | None = None


class Enhancement(NamedTuple):
    """The memory enhancement: weight and bias of each step's projection, and the cell."""

    projections: Sequence[tuple[Tensor, Tensor]]
    cell: torch.nn.GRUCell


class Layer(NamedTuple):
    """A dense layer; behind it scale, shift and epsilon of a LayerNorm and the slope of a PReLU, or neither.

    A crossed one, as wide as what goes in, returns x ⊙ (W x + b) + x.
    """

    weight: Tensor
    bias: Tensor
    norm: tuple[Tensor, Tensor, float] | None = None
    slope: Tensor | None = None
    crossed: bool = False


class Result(NamedTuple):
    """Readouts and memories of every pass, (P, C, d), and the enhanced last memory, (C, d)."""

    readouts: Tensor
    memories: Tensor | None
    enhanced: Tensor | None


class UnitPointers(ctypes.Structure):
    """A `Unit` as the kernels take it."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("first", "bias", "second", "second_bias", "scale", "shift")),
                ("epsilon", ctypes.c_float)]  # fmt: skip


class _Gates(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("input", "state", "input_bias", "state_bias")]


class _Layer(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("weight", "bias", "scale", "shift", "slope")),
                ("epsilon", ctypes.c_float), ("rows", ctypes.c_int64), ("crossed", ctypes.c_int64)]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [
        ("units", ctypes.POINTER(UnitPointers)),
        ("cell", ctypes.POINTER(_Gates)),
        ("projections", ctypes.POINTER(ctypes.c_void_p)),
        ("enhancement", ctypes.POINTER(_Gates)),
        *((name, ctypes.c_int64) for name in ("passes", "hidden", "width", "queries", "steps", "feedback")),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel; None where it was not built, cannot run, or `SAMSTREAM_NATIVE` is 0.

    With `SAMSTREAM_NATIVE=avx2` it is the build for AVX2, on a CPU that could do more as well.
    """
    wanted = os.environ.get("SAMSTREAM_NATIVE", "")
    if wanted not in ("", "0", "1", "avx2"):
        warnings.warn(f"SAMSTREAM_NATIVE is 0 (not compiled), avx2, or 1 (the best build), not {wanted}", stacklevel=2)
    builds = _BUILDS.get(torch.backends.cpu.get_cpu_capability(), ())
    for name in builds[-1:] if wanted == "avx2" else builds:
        if (path := built(Path(__file__).parent, name)) is not None:
            found = ctypes.CDLL(str(path))
            if declare(found):
                return found
            warnings.warn(f"{path.name} is an older build: install samstream again", stacklevel=2)
    return None


def usable(keys: Tensor) -> bool:
    """Return whether this kernel can take such keys now; it computes no gradients."""
    ours = keys.device.type == "cpu" and keys.dtype == torch.float32 and not torch.is_grad_enabled()
    return ours and library() is not None


def passes(
    keys: Tensor,
    mask: Tensor,
    targets: Tensor,
    match: Tensor | None,
    units: Sequence[Unit],
    *,
    cell: torch.nn.GRUCell | None = None,
    feedback: bool = False,
    enhancement: Enhancement | None = None,
) -> Result:
    """Compute all passes for one user; only where `usable`.

    Args:
        keys: (L, d).
        mask: (L,) bool.
        targets: (C, d).
        match: (C, L) addition to the attention logits.
        units: one a pass; each has as many queries as its first layer is wide for.
        cell: folds a readout into the memory.
        feedback: whether the memory is the second query, rather than the target once more.
        enhancement: of the last memory.
    """
    kernel = library()
    assert kernel is not None
    (L, d), C, P = keys.shape, len(targets), len(units)
    hidden, columns = units[0].first.shape
    keys, targets, mask = keys.contiguous(), targets.contiguous(), mask.contiguous()
    if match is not None and match.stride(-1) != 1:
        match = match.contiguous()
    projections = [tensor.data_ptr() for pair in enhancement.projections for tensor in pair] if enhancement else []
    model = _Model(
        units=(UnitPointers * P)(*map(unit_pointers, units)),
        cell=None if cell is None else ctypes.pointer(_gates(cell)),
        projections=(ctypes.c_void_p * len(projections))(*projections),
        enhancement=None if enhancement is None else ctypes.pointer(_gates(enhancement.cell)),
        passes=P, hidden=hidden, width=d, queries=columns // (2 * d), steps=len(projections) // 2, feedback=feedback,
    )  # fmt: skip
    result = Result(
        keys.new_empty(P, C, d),
        None if cell is None else keys.new_empty(P, C, d),
        None if enhancement is None else keys.new_empty(C, d),
    )
    threads = torch.get_num_threads() if C * L >= THREADED else 1
    kernel.passes(
        ctypes.byref(model), keys.data_ptr(), mask.data_ptr(), L, targets.data_ptr(), pointer_to(match),
        0 if match is None else match.stride(0), C, *map(pointer_to, result), threads,
    )  # fmt: skip
    return result


def dense(layers: Sequence[Layer], features: Tensor) -> Tensor:
    """Return the (N,) results of (N, width) features, the last layer being one number wide; only where `usable`."""
    kernel = library()
    assert kernel is not None
    features = features.contiguous()
    logits = features.new_empty(len(features))
    kernel.dense((_Layer * len(layers))(*map(_layer, layers)), len(layers), features.data_ptr(), *features.shape,
                 logits.data_ptr())  # fmt: skip
    return logits


def matches(
    pairs: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int], windows: Sequence[int], weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Find which behaviours of B users match which of their candidates; only where `usable`.

    Args:
        pairs: of each of K kinds the (B, C) int64 keys of candidates and the (B, L) of behaviours; 0 matches nothing.
        lengths: B, how many behaviours there are.
        windows: ascending W ages, below which matches are counted.
        weights: (K,) float32, what a match of each kind adds.

    Returns:
        (B, C, K, W + 1) matches among the newest of each window and among all; (B, C, K) one more than the place of the
        newest, or 0; (B, C, L) sums of the weights, when there are weights.
    """
    kernel = library()
    assert kernel is not None
    shown, past = ([keys.contiguous() for keys in side] for side in zip(*pairs, strict=True))
    (B, C), L, K = shown[0].shape, past[0].shape[1], len(pairs)
    within, newest = torch.zeros(B, C, K, len(windows) + 1), torch.zeros(B, C, K)
    bonus = None if weights is None else torch.zeros(B, C, L)
    limits = (ctypes.c_int64 * len(windows))(*windows)
    for user, length in enumerate(lengths):
        history, targets = ((ctypes.c_void_p * K)(*(keys[user].data_ptr() for keys in side)) for side in (past, shown))
        kernel.matches(
            history, targets, length, L, C, K, limits, len(windows), pointer_to(weights),
            None if bonus is None else bonus[user].data_ptr(), within[user].data_ptr(), newest[user].data_ptr(),
        )  # fmt: skip
    return within, newest, bonus


def list_matches(
    history: Tensor, mask: Tensor, targets: Tensor, windows: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find which behaviours of B users match which candidates, by K kinds of keys; only where there is a `library`.

    Args:
        history: (B, K, L) int64; key 0 matches nothing.
        mask: (B, L) bool.
        targets: (B, K, C) int64.
        windows: as in `matches`.

    Returns:
        (B, C, K, W + 1) and (B, C, K) as in `matches`; (M,) int64 places of the matches, as of (B, C, L), and (M,)
        int64 kinds.
    """
    kernel = library()
    assert kernel is not None
    (B, K, L), C = history.shape, targets.shape[2]
    history, mask, targets = history.contiguous(), mask.contiguous(), targets.contiguous()
    capacity = _LISTED
    while True:
        within, newest = torch.zeros(B, C, K, len(windows) + 1), torch.zeros(B, C, K)
        listed = torch.empty(2, capacity, dtype=torch.int64)
        found = kernel.list_matches(
            history.data_ptr(), targets.data_ptr(), mask.data_ptr(), B, L, C, K,
            (ctypes.c_int64 * len(windows))(*windows), len(windows), within.data_ptr(), newest.data_ptr(),
            listed[0].data_ptr(), listed[1].data_ptr(), capacity,
        )  # fmt: skip
        if found <= capacity:
            return within, newest, listed[0, :found], listed[1, :found]
        capacity = found


def match_features(
    within: Tensor, newest: Tensor, buckets: Tensor, lengths: Sequence[int], logarithms: Tensor, never: float
) -> Tensor:
    """Return what a head reads of `matches`; only where `usable`.

    Args:
        within: (B, C, K, W + 1) as `matches` returns them.
        newest: (B, C, K) likewise.
        buckets: (B, L) int64 time gaps of the behaviours.
        lengths: B, how many behaviours there are.
        logarithms: (n,) float32 log(1 + n) of 0 to at least L.
        never: stands for the recency of a match that does not exist.

    Returns:
        (B, C, K * (W + 3) + 1) logarithms and recencies; see `model.match.match_features`.
    """
    kernel = library()
    assert kernel is not None
    B, C, K, columns = within.shape
    features = torch.empty(B, C, K * (columns + 2) + 1)
    within, newest, buckets = within.contiguous(), newest.contiguous(), buckets.contiguous()
    for user, length in enumerate(lengths):
        kernel.match_features(
            within[user].data_ptr(), newest[user].data_ptr(), buckets[user].data_ptr(), length, C, K, columns,
            logarithms.data_ptr(), never, features[user].data_ptr(),
        )  # fmt: skip
    return features


def move_keys(vectors: Tensor, actions: Tensor, gaps: Tensor, of_action: Tensor, of_gap: Tensor) -> Tensor:
    """Return (B, L, d) vectors of behaviours, moved by action and time gap; only where `usable`.

    Args:
        vectors: (B, L, d).
        actions: (B, L) int64 keys; 0 has the first row of its table, all others share the rest.
        gaps: (B, L) int64 rows of theirs.
        of_action: (rows, d).
        of_gap: (rows, d).
    """
    kernel = library()
    assert kernel is not None
    vectors, actions, gaps = vectors.contiguous(), actions.contiguous(), gaps.contiguous()
    keys = torch.empty_like(vectors)
    kernel.move_keys(
        vectors.data_ptr(), actions.data_ptr(), gaps.data_ptr(), of_action.data_ptr(), len(of_action),
        of_gap.data_ptr(), actions.numel(), vectors.shape[-1], keys.data_ptr(),
    )  # fmt: skip
    return keys


def sums_by_key(
    keys: npt.NDArray[np.uint64], history: npt.NDArray[np.uint64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return (C, H) sums of the (L, H) weights of the behaviours that have a candidate's key; where there is a library.

    Args:
        keys: (C,) of the candidates; key 0 has none.
        history: (L,) of the behaviours.
        weights: (L, H), added in this order.
    """
    kernel = library()
    assert kernel is not None
    keys, history, weights = np.ascontiguousarray(keys), np.ascontiguousarray(history), np.ascontiguousarray(weights)
    sums = np.zeros((len(keys), weights.shape[1]))
    kernel.sums_by_key(
        history.ctypes.data, keys.ctypes.data, weights.ctypes.data, len(history), *sums.shape, sums.ctypes.data
    )
    return sums


def count(
    rows: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None,
    column: int,
    rates: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float64],
    newest: npt.NDArray[np.int64],
    touched: npt.NDArray[np.bool_],
) -> None:
    """Add (n,) events to their rows of decayed sums, in place; only where there is a `library`.

    Args:
        rows: (n,); those of −1 are not counted.
        times: (n,).
        weights: (n,); None for 1 each.
        column: to which the events are added.
        rates: (H,) by which exponent of 2 a sum fades in a unit of time.
        sums: (rows, columns, H), contiguous.
        newest: (rows,) times as of which the sums are.
        touched: (rows,) is set where something was added.
    """
    kernel = library()
    assert kernel is not None
    rows, times = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(times, np.int64)
    weights = None if weights is None else np.ascontiguousarray(weights, np.float64)
    kernel.count(
        rows.ctypes.data, times.ctypes.data, None if weights is None else weights.ctypes.data, len(rows), column,
        rates.ctypes.data, *sums.shape[1:], sums.ctypes.data, newest.ctypes.data, touched.ctypes.data,
    )  # fmt: skip


def pointer_to(tensor: Tensor | None) -> int | None:
    """Return where a tensor lies; None for none."""
    return None if tensor is None else tensor.data_ptr()


def unit_pointers(unit: Unit) -> UnitPointers:
    """Return where a unit's parameters lie; valid while they live."""
    scale, shift, epsilon = unit.norm or (None, None, 0.0)
    return UnitPointers(*map(pointer_to, (*unit[:4], scale, shift)), epsilon)


def _layer(layer: Layer) -> _Layer:
    scale, shift, epsilon = layer.norm or (None, None, 0.0)
    tensors = (layer.weight, layer.bias, scale, shift, layer.slope)
    return _Layer(*map(pointer_to, tensors), epsilon, len(layer.bias), layer.crossed)


def _gates(cell: torch.nn.GRUCell) -> _Gates:
    return _Gates(*(each.data_ptr() for each in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)))
