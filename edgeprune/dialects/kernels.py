"""A graph as the kernels that a runtime makes of it: pointwise operators go with the layer before them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import onnx

from edgeprune.dialects.base import Graph
from edgeprune.profiles.board import Precision
from edgeprune.profiles.roofline import Kernel

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Constant", "Shape", "Dropout")
_POINTWISE = (
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu", "Mish", "Erf",
    "Softplus", "Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sqrt", "Exp", "BatchNormalization",
)  # fmt: skip
"""Operators that a runtime computes on the way out of the kernel before them."""
_STORED: dict[int, Precision] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
_MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def kernels_of(path: Path) -> tuple[Kernel, ...]:
    """Return the kernels of an ONNX file of static shapes, in order."""
    return kernels(onnx.load(path))


def kernels(proto: onnx.ModelProto, rest: Precision = "fp32") -> tuple[Kernel, ...]:
    """Return the kernels of a graph of static shapes, in order.

    A layer whose input and weight come out of DequantizeLinear computes in int8, every other one in ``rest``; a graph
    in fp16 says so by its own types. What is fused is taken to be what TensorRT and ONNX Runtime both fuse.
    """
    inferred = onnx.shape_inference.infer_shapes(proto)
    view, sizes, types = Graph(inferred.graph), _sizes(inferred.graph), _types(inferred.graph)
    found: dict[str, Kernel] = {}
    origin: dict[str, str] = {}  # the kernel that a tensor comes out of
    for node in inferred.graph.node:
        sources = [name for name in node.input if name and name not in view.constants]
        before = next((origin[name] for name in reversed(sources) if name in origin), None)
        if node.op_type in (*_FREE, *_QDQ) or not sources:
            if before is not None:
                origin.update(dict.fromkeys(node.output, before))
            continue
        if node.op_type in _POINTWISE and before is not None:
            late = max((origin[name] for name in sources if name in origin), key=list(found).index)
            more = sum(_count(sizes, name) for name in sources if origin.get(name) != late)
            old = found[late]
            found[late] = Kernel(**{**vars(old), "read": old.read + more, "written": _count(sizes, node.output[0])})
            origin.update(dict.fromkeys(node.output, late))
            continue
        key = node.name or node.output[0]
        found[key] = _kernel(key, node, view, sizes, _precision(node, view, types, rest))
        origin.update(dict.fromkeys(node.output, key))
    return tuple(found.values())


def _kernel(
    name: str, node: onnx.NodeProto, view: Graph, sizes: dict[str, tuple[int, ...]], precision: Precision
) -> Kernel:
    sources = [one for one in node.input if one and one not in view.constants and not _is_weight(view, one)]
    read = sum(_count(sizes, one) for one in sources)
    written = sum(_count(sizes, one) for one in node.output)
    if node.op_type not in _MULTIPLYING:
        return Kernel(name, node.op_type, precision, read, written)
    shape = sizes.get(node.input[1], ())
    weights = math.prod(shape) if _is_weight(view, node.input[1]) or node.input[1] in view.constants else 0
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    output, source = sizes.get(node.output[0], ()), sizes.get(node.input[0], ())
    if node.op_type == "Conv":
        outputs, inputs = output[1], source[1] // groups
        macs = float(written) * math.prod(shape[1:])
    elif node.op_type == "ConvTranspose":
        outputs, inputs = output[1], source[1] // groups
        macs = float(_count(sizes, node.input[0])) * math.prod(shape[1:])
    else:
        outputs, inputs = output[-1], source[-1]
        macs = float(written) * inputs
    return Kernel(name, node.op_type, precision, read, written, weights, macs, outputs, inputs, groups)


def _precision(node: onnx.NodeProto, view: Graph, types: dict[str, int], rest: Precision) -> Precision:
    considered = node.input[:2] if node.op_type in _MULTIPLYING else node.input[:1]
    if considered and all(_dequantized(view, name) for name in considered):
        return "int8"
    return _STORED.get(types.get(node.output[0], 0), rest)


def _dequantized(view: Graph, name: str) -> bool:
    """Whether a tensor comes out of DequantizeLinear, if need be through a Cast to fp16."""
    cast = view.producer(name, "Cast")
    return view.producer(name if cast is None else cast.input[0], "DequantizeLinear") is not None


def _is_weight(view: Graph, name: str) -> bool:
    """Return whether a tensor is a constant behind Q/DQ nodes."""
    node = view.producers.get(name)
    while node is not None and node.op_type in (*_QDQ, "Cast"):
        if node.input[0] in view.constants:
            return True
        node = view.producers.get(node.input[0])
    return False


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    return (*graph.input, *graph.value_info, *graph.output)


def _sizes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    found = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in _values(graph)}
    return found | {i.name: tuple(i.dims) for i in graph.initializer}


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    return {v.name: v.type.tensor_type.elem_type for v in _values(graph)}


def _count(sizes: dict[str, tuple[int, ...]], name: str) -> int:
    return math.prod(sizes.get(name, (0,)))
