"""Latency by roofline where nothing was measured: each kernel takes what its arithmetic or its traffic takes.

t = max(2 · MACs / (peak · EFFICIENCY), bytes / (bandwidth · EFFICIENCY)) + launch (Williams et al., CACM 2009), with
channels rounded up to the multiples that the board computes in. It is an estimate and is always called one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.profiles.board import Board, Precision

EFFICIENCY = 0.5
"""Share of a peak that well-shaped layers reach at batch 1. It cancels out of ratios between models of one kind."""
_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Kernel:
    """What one kernel of a runtime does for one image: fused operators are one kernel.

    ``outputs`` and ``inputs`` are the channels of its multiplications, ``conv_groups`` how many groups they fall into;
    ``macs`` is 0 for a kernel that only moves or compares. ``read``, ``written`` and ``weights`` count values.
    """

    name: str
    operator: str
    precision: Precision
    read: int
    written: int
    weights: int = 0
    macs: float = 0.0
    outputs: int = 1
    inputs: int = 1
    conv_groups: int = 1


def kernel_ms(kernel: Kernel, board: Board) -> float | None:
    """Return the milliseconds of one kernel; None where the board's file gives no peak or no bandwidth."""
    peak, bandwidth = board.tera_ops.get(kernel.precision), board.bandwidth_gb_s
    if peak is None or bandwidth is None:
        return None
    multiple = board.channel_multiples.get(kernel.precision, 1)
    dense = kernel.conv_groups == 1
    padding = _padding(kernel.outputs, multiple) * (_padding(kernel.inputs, multiple) if dense else 1.0)
    arithmetic = 2.0 * kernel.macs * padding / (peak * 1e12 * EFFICIENCY)
    moved = _BYTES[kernel.precision] * (kernel.read + kernel.written + kernel.weights)
    return 1e3 * max(arithmetic, moved / (bandwidth * 1e9 * EFFICIENCY)) + board.launch_us / 1e3


def estimate_ms(kernels: Sequence[Kernel], board: Board) -> float | None:
    """Return the milliseconds of one run of all kernels, one after the other; None where one cannot be told."""
    each = [kernel_ms(kernel, board) for kernel in kernels]
    known = [ms for ms in each if ms is not None]
    return math.fsum(known) if len(known) == len(each) else None


def _padding(channels: int, multiple: int) -> float:
    """Return by how much rounding up to the multiple makes the arithmetic longer."""
    return multiple * math.ceil(channels / multiple) / channels
