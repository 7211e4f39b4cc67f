"""TensorRT-RTX: a strongly typed graph and the engine built of it ahead of time, with no GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeprune.backends.base import Artifact, Backend, LayerTime
from edgeprune.dialects.conform import spoken
from edgeprune.engines.rtx import Rtx
from edgeprune.errors import Lacking
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel, Runner
from edgeprune.profiles.board import Board


@dataclass(frozen=True)
class TensorrtRtx(Backend):
    """Engines for GeForce RTX GPUs, built without one; their kernels are compiled on the GPU that loads them."""

    name: ClassVar[str] = "tensorrt-rtx"

    def elsewhere(self, board: Board) -> str | None:
        """Engines of this kind run on an RTX GPU, which nothing here looks for."""
        return "engines of TensorRT-RTX run on an RTX GPU and are only built here"

    def emit(self, model: OnnxModel, board: Board, directory: Path) -> Artifact:
        """Write ``model.onnx`` and, where TensorRT-RTX is installed, ``model.engine``."""
        graph = directory / "model.onnx"
        write_atomic(graph, spoken(model.path, board)[0])
        builder = Rtx()
        if reason := builder.unavailable(board):
            return Artifact(graph, model.spec, self.name, {}, notes=(f"no engine was built: {reason}",))
        engine = builder.build(graph, board, directory)
        return Artifact(engine.path, model.spec, self.name, engine.precisions, engine)

    def open(self, artifact: Artifact, threads: int) -> AbstractContextManager[Runner]:
        """Refuse: there is no RTX GPU to run on."""
        raise Lacking("engines of TensorRT-RTX cannot be run here")

    def layer_times(self, artifact: Artifact, threads: int, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return nothing: what a kernel takes shows on the GPU alone."""
        return ()

    def peak_memory_bytes(self, artifact: Artifact, threads: int) -> int | None:
        """Return None: the process that loads the engine is elsewhere."""
        return None
