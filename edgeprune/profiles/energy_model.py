"""Energy of a run from the graph alone: an estimate that goes by arithmetic and traffic, and is always called one.

    theoretical             E = sum over kernels of MACs · (e_multiply + e_add) + words moved · e_DRAM
    theoretical-published   E = sum over kernels of MACs · 2.3 pJ + bytes of parameters · e_DRAM

Picojoules are Horowitz's for 45 nm ("Computing's energy problem", ISSCC 2014, fig. 1.1.9): no board's own, so that
ratios mean more than millijoules. The second form is DepGraphRL's as printed (eqs. 3.4 to 3.9), kept to reproduce it:
its 640 pJ are those of a 32-bit word and are multiplied by bytes, which makes memory four times as dear; its 2.3 pJ is
the mean of a multiplication and an addition where a MAC is both; activations move for free. Its (3.8) adds the total of
the model once a layer, which its own figures do not; it is read as the sum over layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from edgeprune.profiles.board import Precision
from edgeprune.profiles.roofline import Kernel

Formula = Literal["theoretical", "theoretical-published"]
FORMULAS: tuple[Formula, ...] = get_args(Formula)

DRAM_PJ = 640.0
"""Reading or writing a 32-bit word in DRAM."""
MAC_PJ: dict[Precision, float] = {"fp32": 3.7 + 0.9, "fp16": 1.1 + 0.4, "bf16": 1.1 + 0.4, "int8": 0.2 + 0.1}
"""A multiplication and an addition; 8-bit products are added up in 32 bits."""
_PUBLISHED_MAC_PJ = 2.3
_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_MJ = 1e-9
"""Millijoules in a picojoule."""


def kernel_mj(kernel: Kernel, formula: Formula) -> float:
    """Return the millijoules of one kernel by a formula."""
    size = _BYTES[kernel.precision]
    if formula == "theoretical-published":
        return _MJ * (kernel.macs * _PUBLISHED_MAC_PJ + kernel.weights * size * DRAM_PJ)
    words = (kernel.read + kernel.written + kernel.weights) * size / 4
    return _MJ * (kernel.macs * MAC_PJ[kernel.precision] + words * DRAM_PJ)


def run_mj(kernels: Sequence[Kernel], formula: Formula) -> float:
    """Return the millijoules of one run of all kernels."""
    return math.fsum(kernel_mj(kernel, formula) for kernel in kernels)
