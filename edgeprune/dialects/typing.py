"""Weakly and strongly typed graphs: who says what a layer is computed in.

A strongly typed graph says it by the types of its tensors: TensorRT 11 and TensorRT-RTX read no other. Before, fp16 and
int8 are allowed by flags beside a graph in float32, and what runs in them is the builder's choice (weak). Q/DQ nodes
mean the same in both.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgeprune.profiles.board import Precision

_HALVES: dict[int, Precision] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
_FLOATS = (onnx.TensorProto.FLOAT, *_HALVES)
_QDQ = ["QuantizeLinear", "DequantizeLinear"]


def to_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with fp16 weights and arithmetic between a float32 input and output; Q/DQ nodes stay float32.

    Casts stand around those: before opset 19 their scales cannot be fp16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    half = ONNXModel(convert_float_to_float16(copy, keep_io_types=True, op_block_list=_QDQ))
    half.topological_sort()
    result: onnx.ModelProto = half.model
    del result.graph.value_info[:]  # some still speak of float32
    _without_idle_casts(result.graph)
    return result


def weakened(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Precision, ...]]:
    """Return the graph in float32 throughout, and the precisions below it that its own types had asked for.

    For a builder that is told by flags: casts between float types go, and weights are stored as float32.
    """
    weak = onnx.shape_inference.infer_shapes(proto)
    graph, asked = weak.graph, precisions(proto)
    for one in graph.initializer:
        if one.data_type in _HALVES:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype("float32"), one.name))
    _without_casts(graph)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type in _HALVES:
                value = numpy_helper.to_array(attribute.t).astype("float32")
                attribute.t.CopyFrom(numpy_helper.from_array(value))
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _HALVES:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return weak, asked


def precisions(proto: onnx.ModelProto) -> tuple[Precision, ...]:
    """Return the precisions below fp32 that a graph's constants and casts speak of, int8 for Q/DQ nodes."""
    kinds = {_HALVES[i.data_type] for i in proto.graph.initializer if i.data_type in _HALVES}
    for node in proto.graph.node:
        if node.op_type in _QDQ:
            kinds.add("int8")
        if node.op_type == "Cast":
            kinds |= {_HALVES[a.i] for a in node.attribute if a.name == "to" and a.i in _HALVES}
    known: tuple[Precision, ...] = ("fp16", "bf16", "int8")
    return tuple(one for one in known if one in kinds)


def _without_idle_casts(graph: onnx.GraphProto) -> None:
    """Take away casts of constants to the type that they have, in place: the converter puts them before Q nodes."""
    types = {i.name: i.data_type for i in graph.initializer}
    idle = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and types.get(node.input[0]) == next(a.i for a in node.attribute if a.name == "to")
    }
    kept = [node for node in graph.node if node.output[0] not in idle]
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = idle.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)


def _without_casts(graph: onnx.GraphProto) -> None:
    """Take away casts to float types, in place. Their sources are floats too: a cast from integers gives float32."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    instead: dict[str, str] = {}
    outputs = {one.name for one in graph.output}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = instead.get(name, name)
        to = next((a.i for a in node.attribute if a.name == "to"), None)
        floating = types.get(node.input[0], onnx.TensorProto.FLOAT) in _FLOATS if node.input else False
        if node.op_type != "Cast" or to not in _FLOATS or not floating:
            kept.append(node)
        elif node.output[0] in outputs:
            kept.append(_renamed_identity(node))
        else:
            instead[node.output[0]] = node.input[0]
    for node in kept:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i in _HALVES:
                    attribute.i = onnx.TensorProto.FLOAT
    del graph.node[:]
    graph.node.extend(kept)


def _renamed_identity(node: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.helper.make_node("Identity", list(node.input), list(node.output), node.name)
