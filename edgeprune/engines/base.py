"""The contract of an engine builder, and what it leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgeprune.profiles.board import Board


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine: ``kind`` in the builder's words, ``precision`` what it reads, ``nodes`` the nodes of the
    ONNX graph that went into it. ``ms`` is its mean time a run where that was measured.
    """

    name: str
    kind: str
    precision: str = ""
    nodes: tuple[str, ...] = ()
    ms: float | None = None


@dataclass(frozen=True)
class Engine:
    """An engine on disk, and all it takes to build it again.

    It runs only on the ``compute_capabilities`` and with the ``version`` of the runtime that it was built for.
    ``command`` is the exact command that built it. ``precisions`` counts the convolutions by the precision
    they run in, ``layers`` are its kernels in order; both are empty where the builder does not tell. ``memory`` holds
    bytes by purpose.
    """

    path: Path
    builder: str
    version: str
    compute_capabilities: tuple[str, ...]
    command: tuple[str, ...]
    seconds: float
    layers: tuple[EngineLayer, ...] = ()
    precisions: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)


class EngineBuilder(ABC):
    """One way to turn an ONNX file into an engine."""

    name: ClassVar[str]

    @abstractmethod
    def unavailable(self, board: Board) -> str | None:
        """Say why this builder cannot build for ``board`` here, and how to mend that; None if it can."""

    @abstractmethod
    def build(self, graph: Path, board: Board, directory: Path) -> Engine:
        """Build ``directory/"model.engine"`` from an ONNX file in the board's dialect.

        Raises BadModel with the builder's own reason when it refuses the graph, and Lacking when it is unavailable or
        does not come back.
        """
