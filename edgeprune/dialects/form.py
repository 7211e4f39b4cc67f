"""Rules on the form of a graph: versions, domains, shapes and names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import onnx

from edgeprune.dialects.base import DEFAULT, Finding, Graph, Rule
from edgeprune.profiles.board import Board

_SAFE = re.compile(r"[A-Za-z0-9_./:-]+")


class Opset(Rule):
    """No parser of TensorRT's refuses an opset it does not know: it goes on and may misread it."""

    id: ClassVar[str] = "opset"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find an opset above the board's."""
        for one in proto.opset_import:
            if one.domain in DEFAULT and one.version > board.opset:
                yield Finding(self.id, "graph", f"opset {one.version}, but {board.name} reads up to {board.opset}")


class IrVersion(Rule):
    """The version of the file's format; what it holds is the same in all that are in use."""

    id: ClassVar[str] = "ir-version"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find a version above the board's."""
        if proto.ir_version > board.ir_version:
            what = f"IR version {proto.ir_version}, but {board.name} reads up to {board.ir_version}"
            yield Finding(self.id, "graph", what)

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Declare the board's version."""
        proto.ir_version = min(proto.ir_version, board.ir_version)


class Domain(Rule):
    """TensorRT knows the operators of ONNX itself and its own plug-ins, none of ONNX Runtime's."""

    id: ClassVar[str] = "domain"

    def concerns(self, board: Board) -> bool:
        """Hold for TensorRT alone."""
        return board.backend != "onnxruntime"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find nodes of other domains, and imports that nothing needs."""
        used = {node.domain for node in proto.graph.node}
        for node in proto.graph.node:
            if node.domain not in DEFAULT:
                yield Finding(self.id, node.name, f"{node.op_type} of the domain {node.domain}")
        for one in proto.opset_import:
            if one.domain not in DEFAULT and one.domain not in used:
                yield Finding(self.id, "graph", f"imports the domain {one.domain}, which no node is of")

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Drop the imports that nothing needs."""
        used = {node.domain for node in proto.graph.node}
        for one in [o for o in proto.opset_import if o.domain not in DEFAULT and o.domain not in used]:
            proto.opset_import.remove(one)


class StaticShape(Rule):
    """A dynamic dimension needs a profile, and costs ONNX Runtime's int8 a factor of 3.5."""

    id: ClassVar[str] = "static-shape"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find inputs and outputs with a dimension that is not a number above zero."""
        for one in (*proto.graph.input, *proto.graph.output):
            sizes = [d.dim_value for d in one.type.tensor_type.shape.dim]
            if 0 in sizes:
                shown = "x".join(d.dim_param or str(d.dim_value or "?") for d in one.type.tensor_type.shape.dim)
                yield Finding(self.id, one.name, f"its shape {shown} is not fixed")


class EmptyLayer(Rule):
    """TensorRT builds a convolution without output channels, with no more than a warning."""

    id: ClassVar[str] = "empty-layer"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find weights with a dimension of size 0."""
        view = Graph(proto.graph)
        for node in proto.graph.node:
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(node.input) > 1:
                weight = view.constants.get(node.input[1])
                if weight is not None and 0 in weight.dims:
                    yield Finding(self.id, node.name, f"its weight is empty ({'x'.join(map(str, weight.dims))})")


class Names(Rule):
    """trtexec writes names into its JSON without escaping them: a quotation mark breaks the file."""

    id: ClassVar[str] = "names"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find unsafe names of nodes and tensors, and names that several nodes have."""
        taken: set[str] = set()
        for node in proto.graph.node:
            if not _SAFE.fullmatch(node.name) or node.name in taken:
                yield Finding(self.id, node.name or node.op_type, "the node's name is not unique and plain")
            taken.add(node.name)
        for name in _tensors(proto.graph):
            if not _SAFE.fullmatch(name):
                yield Finding(self.id, name, "the tensor's name holds more than letters, digits and _./:-")

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Rename: other characters become an underscore, and what is then taken gets a number."""
        _rename(proto.graph)
        taken: set[str] = set()
        for node in proto.graph.node:
            node.name = _free(_plain(node.name) or node.op_type, taken)


def _tensors(graph: onnx.GraphProto) -> list[str]:
    """Return the names of all tensors, in order of appearance."""
    found = [one.name for one in (*graph.input, *graph.initializer)]
    found += [name for node in graph.node for name in (*node.input, *node.output) if name]
    return list(dict.fromkeys(found))


def _rename(graph: onnx.GraphProto) -> None:
    old = _tensors(graph)
    taken = {name for name in old if _SAFE.fullmatch(name)}
    new = {name: name if name in taken else _free(_plain(name), taken) for name in old}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        one.name = new.get(one.name, one.name)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./:-]", "_", name)


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, with a number after it if it is taken, and take it."""
    free, count = name, 0
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


RULES: tuple[Rule, ...] = (Opset(), IrVersion(), Domain(), StaticShape(), EmptyLayer(), Names())
