"""Keep ONNX Runtime from lowering by itself what was left in float.

Its ``WeightBiasQuantization`` rounds the weights of every float layer that stands between a DequantizeLinear and a
QuantizeLinear, with one scale for all of them: such a layer is then less exact than in an int8 of a scale a channel,
and what was measured as "this layer in float" was not. It passes by layers whose input has more scales than one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeprune.dialects.base import Graph
from edgeprune.dialects.quantization import drop_unused

_LOWERED = ("Conv", "ConvTranspose", "Gemm")
_PASSED = ("Relu", "Clip")
"""What may stand between such a layer and the QuantizeLinear."""


def guard(graph: onnx.GraphProto) -> None:
    """Let each float layer that ONNX Runtime would lower read its input through a DequantizeLinear of its own, with the
    same scale written once for every channel. In place; what is computed stays the same to the bit.

    A layer with a single input channel cannot be told apart so, and stays as it is.
    """
    view, nodes = Graph(graph), list[onnx.NodeProto]()
    outputs = {one.name for one in graph.output}
    for node in graph.node:
        shared = view.producer(node.input[0], "DequantizeLinear") if node.op_type in _LOWERED else None
        weight = view.constants.get(node.input[1]) if shared is not None else None
        if shared is not None and weight is not None and _is_rounded_next(view, node, outputs):
            channels = _channels(node, weight)
            if channels > 1:
                own = [f"{node.name}_{what}" for what in ("input_scale", "input_zero_point", "input")]
                for name, given in zip(own, shared.input[1:], strict=False):
                    graph.initializer.append(numpy_helper.from_array(_repeated(view, given, channels), name))
                rounded = [shared.input[0], *own[: len(shared.input) - 1]]
                nodes.append(helper.make_node("DequantizeLinear", rounded, own[2:], f"{node.name}_dequantize", axis=1))
                node.input[0] = own[2]
        nodes.append(node)
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
        drop_unused(graph)


def _is_rounded_next(view: Graph, node: onnx.NodeProto, outputs: set[str]) -> bool:
    """Return whether a QuantizeLinear alone reads what ``node`` makes."""
    while True:
        readers = view.readers.get(node.output[0], [])
        if len(readers) != 1 or node.output[0] in outputs:
            return False
        node = readers[0]
        if node.op_type not in _PASSED:
            return node.op_type == "QuantizeLinear"


def _channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """Return how many channels a layer reads."""
    told = {a.name: int(a.i) for a in node.attribute}
    sizes = [int(one) for one in weight.dims]
    if node.op_type == "Gemm":
        return sizes[1 if told.get("transB") else 0]
    return sizes[1] * told.get("group", 1) if node.op_type == "Conv" else sizes[0]


def _repeated(view: Graph, name: str, times: int) -> NDArray[Any]:
    """Return a constant of one number as many equal ones."""
    value = view.value(name)
    assert value is not None and value.size == 1
    return np.repeat(value.ravel(), times)
