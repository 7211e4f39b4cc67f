"""All of the study's artifacts timed in one session, in turns.

Each was timed beside the dense model when it was built, but hours lie between the first and the last, and what else the
machine did then is in the ratios. Those of one session can be compared with each other.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from results import Row

from edgeprune import OnnxModel
from edgeprune.backends.onnxruntime import OnnxRuntime
from edgeprune.profiles.board import load
from edgeprune.profiles.measure import interleave


def together(rows: Sequence[Row], artifacts: Mapping[Row, Path]) -> list[Row]:
    """Return the rows with p50 and ratio to the dense float model, the first of them, of one session; one thread."""
    backend, board, calls = OnnxRuntime(), load("host-cpu"), {}
    with ExitStack() as stack:
        for at, row in enumerate(rows):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model = OnnxModel.read(artifacts[row])
            runner = stack.enter_context(backend.open(backend.emit(model, board, folder), 1))
            image = np.random.default_rng(0).standard_normal(model.spec.input_shape, np.float32)
            calls[str(at)] = lambda runner=runner, image=image: runner({"input": image})
        found = list(interleave(calls).values())
    return [
        dataclasses.replace(row, p50_ms=one.latency_ms.p50, ratio=one.ratio or 1.0) if one.latency_ms else row
        for row, one in zip(rows, found, strict=True)
    ]
