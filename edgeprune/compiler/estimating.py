"""What a graph would take on a board that is not here: the roofline over its kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx

from edgeprune.dialects.kernels import kernels
from edgeprune.model import OnnxModel
from edgeprune.profiles.board import Board
from edgeprune.profiles.roofline import estimate_ms
from edgeprune.report import Latency, Measurement


def estimates(models: Mapping[str, OnnxModel], board: Board) -> dict[str, Measurement]:
    """Return an estimate for each graph, with its ratio to the first; unavailable where the board tells too little."""
    found: dict[str, Measurement] = {}
    first: float | None = None
    for name, model in models.items():
        ms = estimate_ms(kernels(onnx.load(model.path)), board)
        first = ms if not found else first
        if ms is None:
            found[name] = Measurement(source="unavailable")
            continue
        found[name] = Measurement(
            source="estimated",
            latency_ms=Latency(p50=ms),
            ratio=ms / first if first else None,
            conditions={"method": "roofline", "board": board.name},
        )
    return found


def precisions(model: OnnxModel, board: Board) -> dict[str, int]:
    """Count the convolutions by what the graph asks them to compute in; the board's builder has the last word."""
    made = kernels(onnx.load(model.path))
    counts = Counter(kernel.precision for kernel in made if kernel.operator in ("Conv", "ConvTranspose"))
    return dict(sorted(counts.items()))
