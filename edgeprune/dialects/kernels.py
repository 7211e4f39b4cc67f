"""A graph as the kernels that a runtime makes of it: pointwise operators go with the layer before them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeprune.dialects.base import Graph
from edgeprune.dialects.folding import folded
from edgeprune.profiles.board import Precision
from edgeprune.profiles.roofline import Kernel

QDQ = ("QuantizeLinear", "DequantizeLinear")
FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Constant", "Shape", "Dropout")
_POINTWISE = (
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu", "Mish", "Erf",
    "Softplus", "Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sqrt", "Exp", "BatchNormalization",
)  # fmt: skip
"""Operators that a runtime computes on the way out of the kernel before them."""
_STORED: dict[int, Precision] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def kernels_of(path: Path) -> tuple[Kernel, ...]:
    """Return the kernels of an ONNX file of static shapes, in order."""
    return kernels(onnx.load(path))


def kernels(proto: onnx.ModelProto, rest: Precision = "fp32") -> tuple[Kernel, ...]:
    """Return the kernels of a graph of static shapes, in order.

    A layer whose input and weight come out of DequantizeLinear computes in int8, every other one in ``rest``; a graph
    in fp16 says so by its own types. What is fused is taken to be what TensorRT and ONNX Runtime both fuse.
    """
    split = partition(proto)
    return tuple(split.kernel(part, rest) for part in split.parts)


@dataclass(frozen=True)
class Part:
    """The nodes of one kernel: the main one, then what a runtime computes on its way out, in order."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]

    @property
    def main(self) -> onnx.NodeProto:
        """The node that the kernel is called after."""
        return self.nodes[0]


@dataclass(frozen=True, eq=False)
class Partition:
    """A graph of static shapes and its kernels' nodes. ``origin`` names the part that each tensor comes out of."""

    proto: onnx.ModelProto
    view: Graph
    sizes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    parts: tuple[Part, ...]
    origin: Mapping[str, str]

    def kernel(self, part: Part, rest: Precision = "fp32") -> Kernel:
        """Return what one part computes and moves."""
        name, main, view, sizes = part.name, part.main, self.view, self.sizes
        precision = _precision(main, view, self.types, rest)
        sources = [one for one in main.input if one and one not in view.constants and not is_weight(view, one)]
        read = sum(_count(sizes, one) for one in sources)
        read += sum(_count(sizes, one) for node in part.nodes[1:] for one in self._beside(part, node))
        written = sum(_count(sizes, one) for one in part.nodes[-1].output[:1] if len(part.nodes) > 1)
        written = written or sum(_count(sizes, one) for one in main.output)
        if main.op_type not in MULTIPLYING:
            return Kernel(name, main.op_type, precision, read, written)
        shape = sizes.get(main.input[1], ())
        weights = math.prod(shape) if is_weight(view, main.input[1]) or main.input[1] in view.constants else 0
        groups = next((a.i for a in main.attribute if a.name == "group"), 1)
        output, source = sizes.get(main.output[0], ()), sizes.get(main.input[0], ())
        made = float(_count(sizes, main.output[0]))
        if main.op_type == "Conv":
            outputs, inputs = output[1], source[1] // groups
            macs = made * math.prod(shape[1:])
        elif main.op_type == "ConvTranspose":
            outputs, inputs = output[1], source[1] // groups
            macs = float(_count(sizes, main.input[0])) * math.prod(shape[1:])
        else:
            outputs, inputs = output[-1], source[-1]
            macs = made * inputs
        return Kernel(name, main.op_type, precision, read, written, weights, macs, outputs, inputs, groups)

    def _beside(self, part: Part, node: onnx.NodeProto) -> Iterator[str]:
        """Yield what a fused node reads that this part has not made itself."""
        for name in node.input:
            if name and name not in self.view.constants and self.origin.get(name) != part.name:
                yield name


def partition_of(path: Path) -> Partition:
    """Find the kernels of an ONNX file of static shapes."""
    return partition(onnx.load(path))


def partition(proto: onnx.ModelProto) -> Partition:
    """Find the kernels of a graph of static shapes: each takes along the pointwise operators that follow it."""
    inferred = onnx.shape_inference.infer_shapes(folded(proto))
    view, sizes, types = Graph(inferred.graph), _sizes(inferred.graph), _types(inferred.graph)
    found: dict[str, list[onnx.NodeProto]] = {}
    origin: dict[str, str] = {}
    for node in inferred.graph.node:
        sources = [name for name in node.input if name and name not in view.constants]
        before = next((origin[name] for name in reversed(sources) if name in origin), None)
        if node.op_type in (*FREE, *QDQ) or not sources:
            if before is not None:
                origin.update(dict.fromkeys(node.output, before))
            continue
        key = node.name or node.output[0]
        if node.op_type in _POINTWISE and before is not None:
            key = max((origin[name] for name in sources if name in origin), key=list(found).index)
        found.setdefault(key, []).append(node)
        origin.update(dict.fromkeys(node.output, key))
    return Partition(inferred, view, sizes, types, tuple(Part(k, tuple(v)) for k, v in found.items()), origin)


def _precision(node: onnx.NodeProto, view: Graph, types: Mapping[str, int], rest: Precision) -> Precision:
    considered = node.input[:2] if node.op_type in MULTIPLYING else node.input[:1]
    if considered and all(_dequantized(view, name) for name in considered):
        return "int8"
    return _STORED.get(types.get(node.output[0], 0), rest)


def _dequantized(view: Graph, name: str) -> bool:
    """Whether a tensor comes out of DequantizeLinear, if need be through a Cast to fp16."""
    cast = view.producer(name, "Cast")
    return view.producer(name if cast is None else cast.input[0], "DequantizeLinear") is not None


def is_weight(view: Graph, name: str) -> bool:
    """Return whether a tensor is a constant behind Q/DQ nodes."""
    node = view.producers.get(name)
    while node is not None and node.op_type in (*QDQ, "Cast"):
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


def _count(sizes: Mapping[str, tuple[int, ...]], name: str) -> int:
    return math.prod(sizes.get(name, (0,)))
