"""TensorRT: engines on this machine's GPU, or graphs in a board's dialect and the command that builds them there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.stats import trim_mean

from edgeprune.backends.base import Artifact, Backend, LayerTime
from edgeprune.dialects.base import version_of
from edgeprune.dialects.conform import spoken
from edgeprune.engines.execution import executing
from edgeprune.engines.local import Found, Local, look
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
        """A Jetson is never this machine; on a GPU of this machine's engines run if TensorRT and a driver are here."""
        if board.local:
            return Local().unavailable(board)
        return f"{board.name} is not this machine, and no --board says where it is"

    def fit(self, board: Board) -> Board:
        """Narrow a board that is this machine to its GPU and to what the installed TensorRT reads."""
        found = look() if board.local else ""
        return found.fit(board) if isinstance(found, Found) else board

    def version(self) -> str | None:
        """Return TensorRT's, where it can be used here."""
        found = look()
        return found.version if isinstance(found, Found) else None

    def emit(self, model: OnnxModel, board: Board, directory: Path) -> Artifact:
        """Write ``model.onnx`` as the board reads it, weakly typed where its TensorRT chooses precisions by flags, and
        where that is this machine build its ``model.engine``.
        """
        board = self.fit(board)
        content, asked = spoken(model.path, board)
        graph = directory / "model.onnx"
        write_atomic(graph, content)
        if reason := self.elsewhere(board):
            command = Trtexec(ON_BOARD, version_of(board)).build(
                graph.name, "model.engine", asked, _WORKSPACE_MIB, "layers.json", "strong" in board.typing
            )
            where = "where TensorRT and its GPU are" if board.local else "on the board"
            told = f"no engine was built: {reason}", f"{where}, the engine is built by: {shlex.join(command)}"
            return Artifact(graph, model.spec, self.name, {}, notes=told)
        engine = Local(asked).build(graph, board, directory)
        notes = (
            f"the engine runs on {board.detected['cpu']}, compute capability {engine.compute_capabilities[0]}, with "
            f"TensorRT {engine.version} alone; layers in fp32 may be computed in TF32, as is TensorRT's default",
            "its times here are the host's, the copies of input and output to and from the GPU included",
            f"on another GPU or version, build it again by: {shlex.join(engine.command)}",
        )
        return Artifact(engine.path, model.spec, self.name, engine.precisions, engine, notes)

    def open(self, artifact: Artifact, threads: int) -> AbstractContextManager[Runner]:
        """Load an engine onto the GPU; a run copies its input there and its output back. The host's ``threads`` are of
        no matter.

        Raises Lacking for what is only a graph: no engine of it could be built here.
        """
        if artifact.engine is None:
            raise Lacking("engines of TensorRT cannot be run here: " + "; ".join(artifact.notes[:1]))
        return _running(artifact.engine.path)

    def layer_times(self, artifact: Artifact, threads: int, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return the interquartile mean of ``runs`` runs of each layer, by TensorRT's profiler; none without one."""
        if artifact.engine is None:
            return ()
        kinds = {layer.name: layer.kind for layer in artifact.engine.layers}
        image = np.random.default_rng(0).standard_normal(artifact.spec.input_shape, np.float32)
        with executing(artifact.engine.path) as execution:
            spans = execution.layer_times({"input": image}, runs)
        means = {name: float(trim_mean(times, 0.25)) for name, times in spans.items()}
        total = sum(means.values()) or 1.0
        return tuple(LayerTime(name, kinds.get(name, ""), ms, ms / total) for name, ms in means.items())

    def peak_memory_bytes(self, artifact: Artifact, threads: int) -> int | None:
        """Return None: what counts is the GPU's memory, which the engine's own report tells."""
        return None


@contextmanager
def _running(engine: Path) -> Iterator[Runner]:
    with executing(engine) as execution:
        yield execution.run
