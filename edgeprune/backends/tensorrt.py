"""TensorRT: graphs in the board's dialect, and the exact command that builds their engine on the board."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeprune.backends.base import Artifact, Backend, LayerTime
from edgeprune.dialects.base import version_of
from edgeprune.dialects.conform import spoken
from edgeprune.engines.trtexec import ON_BOARD, Trtexec
from edgeprune.errors import Lacking
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel, Runner
from edgeprune.profiles.board import Board

_WORKSPACE_MIB = 512


@dataclass(frozen=True)
class Tensorrt(Backend):
    """Engines of TensorRT 8 to 11; an engine runs only on the kind of board, and with the version, it was built on."""

    name: ClassVar[str] = "tensorrt"

    def elsewhere(self, board: Board) -> str | None:
        """A Jetson is never this machine, and engines on a GPU of this machine's are not run yet."""
        if board.local:
            return "engines of TensorRT are not built or run on this machine's own GPU yet"
        return f"{board.name} is not this machine, and no --board says where it is"

    def emit(self, model: OnnxModel, board: Board, directory: Path) -> Artifact:
        """Write ``model.onnx`` as the board reads it, weakly typed where its TensorRT chooses precisions by flags."""
        content, asked = spoken(model.path, board)
        graph = directory / "model.onnx"
        write_atomic(graph, content)
        command = Trtexec(ON_BOARD, version_of(board)).build(
            graph.name, "model.engine", asked, _WORKSPACE_MIB, "layers.json", "strong" in board.typing
        )
        notes = (
            f"no engine was built: {self.elsewhere(board)}",
            f"on the board, the engine is built by: {shlex.join(command)}",
        )
        return Artifact(graph, model.spec, self.name, {}, notes=notes)

    def open(self, artifact: Artifact, threads: int) -> AbstractContextManager[Runner]:
        """Refuse: nothing here runs an engine."""
        raise Lacking("engines of TensorRT cannot be run here")

    def layer_times(self, artifact: Artifact, threads: int, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return nothing: what a kernel takes shows on the board alone."""
        return ()

    def peak_memory_bytes(self, artifact: Artifact, threads: int) -> int | None:
        """Return None: the process that loads the engine is elsewhere."""
        return None
