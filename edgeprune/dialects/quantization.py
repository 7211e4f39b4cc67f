"""Rules on Q/DQ nodes: how TensorRT wants int8 to be said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeprune.dialects.base import Finding, Graph, Rule, version_of
from edgeprune.profiles.board import Board

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_CHANNEL = {"Conv": 0, "ConvTranspose": 1}
"""The axis of a weight's output channels, by operator."""


class _QdqRule(Rule):
    """A rule of TensorRT's on quantized graphs."""

    def concerns(self, board: Board) -> bool:
        """Hold for TensorRT alone: ONNX Runtime takes every layout."""
        return board.backend != "onnxruntime"


class ZeroPoint(_QdqRule):
    """TensorRT's int8 is symmetric: "Non-zero zero point is not supported"; 8.2 and 8.5 want it written down."""

    id: ClassVar[str] = "zero-point"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find Q/DQ nodes without a zero point, and with one that is not int8 and 0."""
        view = Graph(proto.graph)
        for node in _quantizing(proto):
            if len(node.input) < 3 or not node.input[2]:
                yield Finding(self.id, node.name, "it has no zero point")
                continue
            zero = view.value(node.input[2])
            if zero is None or zero.dtype != np.int8 or np.any(zero):
                shown = "computed" if zero is None else f"{zero.dtype} {zero.ravel()[0]}"
                what = f"its zero point is {shown}, not int8 0: calibrate with symmetric int8 activations"
                yield Finding(self.id, node.name, what)

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Write down the zero point that is left out; another one cannot be changed without calibrating anew."""
        view = Graph(proto.graph)
        for node in _quantizing(proto):
            scale = view.value(node.input[1])
            if scale is None or (len(node.input) > 2 and node.input[2]):
                continue
            if node.op_type == "DequantizeLinear" and not _holds_int8(view, node.input[0]):
                continue
            name = f"{node.input[1]}_zero_point"
            if name not in view.constants:
                proto.graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), name))
                view = Graph(proto.graph)
            del node.input[2:]
            node.input.append(name)


class Scale(_QdqRule):
    """ "Scale coefficients must all be positive": a dead filter's is 0. Before TensorRT 10 they are float32."""

    id: ClassVar[str] = "scale"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find scales that are computed, not positive and finite, or of a type the board does not read."""
        view = Graph(proto.graph)
        for name in _scales(proto):
            scale = view.value(name)
            if scale is None:
                yield Finding(self.id, name, "the scale is computed, not a constant")
            elif not (np.isfinite(scale).all() and (scale > 0).all()):
                yield Finding(self.id, name, f"{int((~(scale > 0)).sum())} of {scale.size} scales are not above zero")
            elif scale.dtype != np.float32 and _reads_float32_scales(board):
                yield Finding(self.id, name, f"the scale is {scale.dtype}, not float32")

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Give a dead filter a scale, any of which is right, and store scales as float32 where the board wants it."""
        names = set(_scales(proto))
        for one in proto.graph.initializer:
            if one.name not in names:
                continue
            scale = numpy_helper.to_array(one)
            if not np.isfinite(scale).all() or (scale < 0).any():
                continue
            fixed = np.where(scale > 0, scale, scale.max() or 1.0).astype(scale.dtype)
            if _reads_float32_scales(board):
                fixed = fixed.astype(np.float32)
            one.CopyFrom(numpy_helper.from_array(fixed, one.name))


class PerTensor(_QdqRule):
    """ "Activations-quantization does not support per-axis", though RTX builds it; weights go by output channel."""

    id: ClassVar[str] = "axis"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find activations with a scale a channel, and weights with one along another axis than that of outputs."""
        view = Graph(proto.graph)
        for node in _quantizing(proto):
            scale = view.value(node.input[1])
            if scale is None or scale.size == 1:
                continue
            if not _constant(view, node):
                yield Finding(self.id, node.name, f"an activation has {scale.size} scales; it may have one")
                continue
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            for reader in view.readers.get(node.output[0], ()):
                wanted = _output_axis(reader)
                if wanted is not None and axis != wanted:
                    what = f"the weight of {reader.name} has its scales along axis {axis}, not {wanted}"
                    yield Finding(self.id, node.name, what)


class PlainBias(_QdqRule):
    """ "Only activation types allowed as input to this layer": a bias is a float constant, not int32 behind a DQ."""

    id: ClassVar[str] = "plain-bias"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find biases behind a DequantizeLinear."""
        view = Graph(proto.graph)
        for node in proto.graph.node:
            if _bias(view, node) is not None:
                yield Finding(self.id, node.name, "its bias is quantized")

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Store the value that the bias stands for."""
        view = Graph(proto.graph)
        for node in proto.graph.node:
            dequantize = _bias(view, node)
            if dequantize is not None and (value := _dequantized(view, dequantize)) is not None:
                name = f"{dequantize.output[0]}_float"
                if name not in view.constants:
                    proto.graph.initializer.append(numpy_helper.from_array(value, name))
                    view = Graph(proto.graph)
                node.input[2] = name
        drop_unused(proto.graph)


class FloatWeights(_QdqRule):
    """TensorRT 8 answers a stored int8 weight with "invalid weights type of Int8"; a float one behind Q and DQ is right
    for every version.
    """

    id: ClassVar[str] = "weight"

    def find(self, proto: onnx.ModelProto, board: Board) -> Iterator[Finding]:
        """Find int8 constants that a DequantizeLinear reads."""
        view = Graph(proto.graph)
        for node in proto.graph.node:
            if node.op_type == "DequantizeLinear" and view.constants.get(node.input[0], _NONE).data_type == _INT8:
                yield Finding(self.id, node.input[0], "the weight is stored as int8")

    def mend(self, proto: onnx.ModelProto, board: Board) -> None:
        """Store the float value and quantize it in the graph: the same integers come out."""
        view = Graph(proto.graph)
        nodes: list[onnx.NodeProto] = []
        for node in proto.graph.node:
            stored = node.op_type == "DequantizeLinear" and view.constants.get(node.input[0], _NONE).data_type == _INT8
            value = _dequantized(view, node) if stored else None
            if value is not None:
                weight, rounded = f"{node.input[0]}_float", f"{node.output[0]}_rounded"
                proto.graph.initializer.append(numpy_helper.from_array(value, weight))
                quantize = helper.make_node(
                    "QuantizeLinear", [weight, *node.input[1:]], [rounded], f"{node.name}_quantize"
                )
                quantize.attribute.extend(node.attribute)
                nodes.append(quantize)
                node.input[0] = rounded
            nodes.append(node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        drop_unused(proto.graph)


_NONE = onnx.TensorProto()
_INT8 = onnx.TensorProto.INT8


def drop_unused(graph: onnx.GraphProto) -> None:
    """Take away nodes that nothing reads and initializers that no node reads, in place."""
    outputs = {one.name for one in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        idle = [node for node in graph.node if not read.intersection(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for one in [i for i in graph.initializer if i.name not in read]:
        graph.initializer.remove(one)


def _quantizing(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the Q and DQ nodes of weights and activations; those of int32 biases are another rule's matter."""
    view = Graph(proto.graph)
    for node in proto.graph.node:
        if node.op_type in _QDQ and view.constants.get(node.input[0], _NONE).data_type != onnx.TensorProto.INT32:
            yield node


def _scales(proto: onnx.ModelProto) -> list[str]:
    return list(dict.fromkeys(node.input[1] for node in _quantizing(proto)))


def _reads_float32_scales(board: Board) -> bool:
    return board.backend == "tensorrt" and version_of(board) < (10,)


def _constant(view: Graph, node: onnx.NodeProto) -> bool:
    """Return whether a Q or DQ node works on a constant, directly or behind a Q node."""
    if node.input[0] in view.constants:
        return True
    before = view.producer(node.input[0], "QuantizeLinear")
    return before is not None and before.input[0] in view.constants


def _holds_int8(view: Graph, name: str) -> bool:
    constant = view.constants.get(name)
    return view.producer(name, "QuantizeLinear") is not None if constant is None else constant.data_type == _INT8


def _output_axis(node: onnx.NodeProto) -> int | None:
    """Return along which axis of its weight a node's outputs lie; None for a node without weights."""
    if node.op_type == "Gemm":
        transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
        return 0 if transposed else 1
    return _CHANNEL.get(node.op_type)


def _bias(view: Graph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the DequantizeLinear that makes a layer's bias, if there is one."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
        return None
    return view.producer(node.input[2], "DequantizeLinear")


def _dequantized(view: Graph, node: onnx.NodeProto) -> NDArray[np.float32] | None:
    """Return what a DequantizeLinear of a constant gives, float32; None if one of its inputs is computed."""
    stored, scale = view.value(node.input[0]), view.value(node.input[1])
    if stored is None or scale is None:
        return None
    zero = view.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(stored, shape=())
    if zero is None:
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if i == axis % stored.ndim else 1 for i in range(stored.ndim)] if scale.size > 1 else [1] * stored.ndim
    wide = stored.astype(np.int64) - zero.astype(np.int64).reshape(shape if zero.size > 1 else [1] * stored.ndim)
    value: NDArray[np.float32] = (wide * scale.astype(np.float32).reshape(shape)).astype(np.float32)
    return value


RULES: tuple[Rule, ...] = (PlainBias(), ZeroPoint(), Scale(), PerTensor(), FloatWeights())
