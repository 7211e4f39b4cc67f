"""Rules on operators: those a runtime lacks, and those that can be said in others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeprune.dialects.base import DEFAULT, Finding, Graph, Rule, version_of
from edgeprune.profiles.board import Board

_NEVER = (10**9,)
_SINCE: dict[str, dict[str, tuple[int, ...]]] = {
    "tensorrt": {
        "RoiAlign": (8, 5), "NonZero": (8, 5), "HardSwish": (8, 4), "LayerNormalization": (8, 6),
        "GroupNormalization": (8, 6), "Gelu": (10,), "Mish": (10,),
    },
    "tensorrt-rtx": {"NonZero": _NEVER, "NonMaxSuppression": _NEVER, "DeformConv": _NEVER},
}  # fmt: skip
"""From which version on a runtime has an operator, where that is not always. Mainline: ``builtin_op_importers.cpp`` of
onnx-tensorrt's branches 8.2-GA to 10; RTX 1.7: builds that failed, whatever ``supports_operator`` said.
"""
_INTEGER = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


class Operators(Rule):
    """TensorRT has not every operator of ONNX, and none that holds its integers openly: int8 is said by Q/DQ."""

    id: ClassVar[str] = "operator"

    def concerns(self, board: Board) -> bool:
        """Hold for TensorRT alone."""
        return board.backend in _SINCE

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find nodes whose operator the board's runtime lacks."""
        since, version = _SINCE[board.backend], version_of(board)
        for node in (n for n in proto.graph.node if n.domain in DEFAULT):
            if node.op_type in _INTEGER or since.get(node.op_type, ()) > version:
                yield Finding(self.id, node.name, f"{board.backend} {board.version} has no {node.op_type}".rstrip())

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Say LayerNormalization over the last axes and HardSwish in older operators."""
        lacking = {finding.where for finding in self.find(proto, board)}
        nodes: list[onnx.NodeProto] = []
        for node in proto.graph.node:
            if node.name in lacking and node.op_type == "HardSwish":
                nodes += _hard_swish(node)
            elif node.name in lacking and node.op_type == "LayerNormalization" and len(node.output) == 1:
                nodes += _layer_normalization(node, proto)
            else:
                nodes.append(node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)


def _hard_swish(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """x · HardSigmoid(x; 1/6, 1/2), which is how ONNX defines it."""
    x, gate = node.input[0], f"{node.output[0]}_gate"
    return [
        helper.make_node("HardSigmoid", [x], [gate], f"{node.name}_gate", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [x, gate], list(node.output), node.name),
    ]


def _layer_normalization(node: onnx.NodeProto, proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """(x − mean) / √(variance + ε) · scale + bias, over the axes from ``axis`` on."""
    options: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, scale, *bias = (name for name in node.input if name)
    rank = _rank(proto.graph, x)
    if rank is None:
        return [node]
    axis = options.get("axis", -1) % rank
    axes, stem = list(range(axis, rank)), node.output[0]
    names = {part: f"{stem}_{part}" for part in ("mean", "centred", "two", "square", "variance", "epsilon", "shifted",
                                                 "deviation", "normal", "scaled")}  # fmt: skip
    for part, value in (("two", 2.0), ("epsilon", options.get("epsilon", 1e-5))):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), names[part]))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("ReduceMean", [x], "mean", {"axes": axes}),
        ("Sub", [x, names["mean"]], "centred", {}),
        ("Pow", [names["centred"], names["two"]], "square", {}),
        ("ReduceMean", [names["square"]], "variance", {"axes": axes}),
        ("Add", [names["variance"], names["epsilon"]], "shifted", {}),
        ("Sqrt", [names["shifted"]], "deviation", {}),
        ("Div", [names["centred"], names["deviation"]], "normal", {}),
        ("Mul", [names["normal"], scale], "scaled", {}),
    ]
    if bias:
        steps.append(("Add", [names["scaled"], bias[0]], "", {}))
    made = [
        helper.make_node(kind, inputs, [names.get(part, stem)], f"{node.name}_{part or 'shift'}", **more)
        for kind, inputs, part, more in steps
    ]
    made[-1].output[0] = stem
    return made


def _rank(graph: onnx.GraphProto, name: str) -> int | None:
    for one in (*graph.input, *graph.value_info, *graph.output):
        if one.name == name and one.type.tensor_type.HasField("shape"):
            return len(one.type.tensor_type.shape.dim)
    value = Graph(graph).value(name)
    return None if value is None else value.ndim


RULES: tuple[Rule, ...] = (Operators(),)
