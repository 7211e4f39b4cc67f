"""The contract of a runtime: emit an artifact, open it."""

from __future__ import annotations

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgeprune.engines.base import Engine
from edgeprune.model import ModelSpec, OnnxModel, Runner
from edgeprune.profiles.board import Board


@dataclass(frozen=True)
class Artifact:
    """What a backend wrote for a board: the file it runs, and what really runs inside.

    ``engine`` is what was built of the graph, where the runtime wants that, and ``notes`` what is to be said of it.
    ``precisions`` counts the convolutions by the precision the runtime's optimized graph executes them in, for example
    ``{"int8": 19, "fp32": 1}``; empty when the runtime cannot tell.
    """

    path: Path
    spec: ModelSpec
    runtime: str
    precisions: Mapping[str, int]
    engine: Engine | None = None
    notes: tuple[str, ...] = ()

    def size_bytes(self) -> int:
        """Return the bytes to deploy."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class LayerTime:
    """What one node of the runtime's optimized graph takes: milliseconds a run, and its share of all of them.

    ``nodes`` are those of the ONNX graph that went into it, where the runtime says so.
    """

    name: str
    op: str
    ms: float
    share: float
    nodes: tuple[str, ...] = ()


class Backend(ABC):
    """A runtime. Fields of a subclass are its options."""

    name: ClassVar[str]
    fuses_constants: ClassVar[bool] = False
    """Whether adding a constant becomes part of the layer before it just as adding what another layer gives does."""

    def elsewhere(self, board: Board) -> str | None:
        """Say why what is emitted for ``board`` cannot run on this machine; None if it can."""
        return None if board.local else f"{board.name} is not this machine"

    def fit(self, board: Board) -> Board:
        """Return ``board`` narrowed to what is found on this machine, where the runtime decides more than its file."""
        return board

    def version(self) -> str | None:
        """Return the version of the runtime that is installed here; None if there is none."""
        return None

    @abstractmethod
    def emit(self, model: OnnxModel, board: Board, directory: Path) -> Artifact:
        """Write the artifact for ``board`` into ``directory`` and return it. Raises BadModel if the runtime refuses
        it.
        """

    @abstractmethod
    def open(self, artifact: Artifact, threads: int) -> AbstractContextManager[Runner]:
        """Load the artifact with a fixed thread count; what the runner returns is its caller's own."""

    @abstractmethod
    def layer_times(self, artifact: Artifact, threads: int, runs: int = 50) -> tuple[LayerTime, ...]:
        """Return the time of every node in execution order, by the runtime's own profiler; empty if it has none.

        The profiler slows the nodes down: read the shares, and take the whole from a measurement without it.
        """

    @abstractmethod
    def peak_memory_bytes(self, artifact: Artifact, threads: int) -> int | None:
        """Return the peak resident memory that loading and running costs a fresh process; None if it cannot be told."""


def peak_memory_bytes(runtime: str, floats: str, artifact: Artifact, threads: int) -> int | None:
    """Return what loading and running adds to the resident memory of a fresh process; None where it does not end well.

    ``runtime`` is one that ``edgeprune.backends.peak`` knows, ``floats`` what it computes float layers in.
    """
    file = str(artifact.path.resolve())
    command = [sys.executable, "-m", "edgeprune.backends.peak", runtime, floats, file, str(threads)]
    root = Path(__file__).parents[2]  # where `edgeprune` lies, also for a source tree that is not installed
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=root)
        return int(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
