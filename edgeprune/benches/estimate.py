"""A target that is not here: ONNX Runtime computes what it would, and its times are estimates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune import find
from edgeprune.backends.base import Artifact, LayerTime
from edgeprune.benches.base import Bench, Source
from edgeprune.dialects.kernels import kernels_of
from edgeprune.model import OnnxModel
from edgeprune.profiles.board import Board, load
from edgeprune.profiles.measure import Plan
from edgeprune.profiles.roofline import estimate_ms, kernel_ms
from edgeprune.report import Latency, Measurement


class Estimate(Bench):
    """Scores are ONNX Runtime's on this machine, which computes the same graph; times come from the roofline."""

    source: Source = "estimated"

    def __init__(self, board: Board, threads: int = 1, seed: int = 0) -> None:
        super().__init__(board, threads, seed)
        self.runner = find.find("backends", "onnxruntime")()

    def processor(self) -> Mapping[str, Any]:
        """This machine's, whatever the target is."""
        return load("host-cpu").detected

    def precisions(self, model: OnnxModel) -> Mapping[str, int]:
        """Count the convolutions by what the graph asks them to compute in; the target's builder has the last word."""
        counts = Counter(k.precision for k in kernels_of(model.path) if k.operator in ("Conv", "ConvTranspose"))
        return dict(sorted(counts.items()))

    def measure(self, models: Mapping[str, OnnxModel], plan: Plan | None = None) -> dict[str, Measurement]:
        """Return an estimate for each graph, unavailable where the board's file tells too little."""
        found: dict[str, Measurement] = {}
        first: float | None = None
        for name, model in models.items():
            ms = estimate_ms(kernels_of(model.path), self.board)
            first = ms if not found else first
            if ms is None:
                found[name] = Measurement(source="unavailable")
                continue
            found[name] = Measurement(
                source="estimated",
                latency_ms=Latency(p50=ms),
                ratio=ms / first if first else None,
                conditions={**self.conditions(), "method": "roofline"},
            )
        return found

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return an estimate for each kernel; empty where the board's file tells too little."""
        kernels = kernels_of(model.path)
        each = [kernel_ms(kernel, self.board) for kernel in kernels]
        total = math.fsum(ms for ms in each if ms is not None)
        if None in each or not total:
            return ()
        return tuple(LayerTime(k.name, k.operator, ms, ms / total) for k, ms in zip(kernels, each, strict=True) if ms)

    def deploy(self, model: OnnxModel, directory: Path) -> Artifact | None:
        """Write what the backend can make without the board: a graph in its dialect, sometimes an engine."""
        return self.backend.emit(model, self.board, directory)
