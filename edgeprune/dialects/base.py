"""A rule of a dialect, what it finds, and a graph as rules look at it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeprune.profiles.board import Board

DEFAULT = ("", "ai.onnx")
"""The names of the domain of ONNX's own operators."""


@dataclass(frozen=True)
class Finding:
    """One place where a graph breaks a rule: ``where`` names the node or tensor, ``what`` says what is wrong there."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.what}"


class Rule(ABC):
    """One thing that a board's runtime asks of a graph."""

    id: ClassVar[str]

    def concerns(self, board: Board) -> bool:
        """Return whether the rule holds for ``board``; by default for every one."""
        return True

    @abstractmethod
    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Yield every place that breaks the rule."""

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:  # noqa: B027 (most rules mend nothing)
        """Change, in place, as much of what ``find`` finds as can be changed without changing what is computed."""


class Graph:
    """Who makes and who reads each tensor of a graph; not kept up when the graph changes.

    ``constants`` are initializers and the outputs of Constant nodes, ``producers`` and ``readers`` the nodes.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants: dict[str, onnx.TensorProto] = {i.name: i for i in graph.initializer}
        self.producers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            self.producers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                self.constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")

    def value(self, name: str) -> NDArray[Any] | None:
        """Return the constant called ``name``, or None if it is not one."""
        found = self.constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def producer(self, name: str, operator: str) -> onnx.NodeProto | None:
        """Return the node that makes ``name``, if it is one of ``operator``."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == operator else None


def version_of(board: Board) -> tuple[int, ...]:
    """Return the version of a board's runtime as numbers; one that the board leaves open is taken to be the newest."""
    return tuple(map(int, board.version.split("."))) if board.version else (10**6,)
