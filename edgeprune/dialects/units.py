"""One kernel of a graph as a graph of its own, at any width: what latency tables and the energy of layers are made of.

A unit takes along what is fused onto its main node, and the Q/DQ nodes around both, so that the runtime makes of it
what it makes of that part of the whole. What it reads of other kernels are its inputs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from edgeprune.dialects.kernels import FREE, MULTIPLYING, QDQ, Part, Partition


@dataclass(frozen=True, eq=False)
class Unit:
    """A part of a graph with everything it needs.

    ``form`` tells all that decides its time but ``outputs`` and ``inputs``, the channels of its multiplications (of
    one convolution group). A unit that multiplies nothing comes in the one size that it has: there ``outputs`` and
    ``inputs`` are the values it writes and reads.
    """

    part: Part
    form: str
    outputs: int
    inputs: int
    scalable: bool
    depthwise: bool
    split: Partition


def units(split: Partition) -> tuple[Unit, ...]:
    """Return every kernel of a graph as a unit, in order."""
    return tuple(_unit(split, part) for part in split.parts)


def moved_by(found: Sequence[Unit]) -> dict[str, dict[str, float]]:
    """Return for each unit that multiplies nothing what share of the values it reads comes out of which that does.

    By name of the part. Channels come through everything else as they are; what concatenates adds them up. What comes
    of the graph's input belongs to none.
    """
    if not found:
        return {}
    split = found[0].split
    makers = {unit.part.main.output[0]: unit.part.name for unit in found if unit.scalable}
    holds: dict[str, dict[str, float]] = {}  # values of a tensor by where they come from
    for node in split.proto.graph.node:
        sources = [name for name in node.input if name and name not in split.view.constants]
        size = math.prod(split.sizes.get(node.output[0], ()))
        if node.output[0] in makers:
            parts = {makers[node.output[0]]: float(size)}
        else:
            taken = sources if node.op_type == "Concat" else sources[:1]
            whole = sum(math.prod(split.sizes.get(name, ())) for name in taken)
            parts = {}
            for name in taken:
                for maker, values in holds.get(name, {}).items():
                    parts[maker] = parts.get(maker, 0.0) + values * size / max(whole, 1)
        holds.update(dict.fromkeys(node.output, parts))
    shares = {}
    for unit in found:
        if not unit.scalable:
            read = [name for name in unit.part.main.input if name and name not in split.view.constants]
            whole = sum(math.prod(split.sizes.get(name, ())) for name in read)
            sums: dict[str, float] = {}
            for name in read:
                for maker, values in holds.get(name, {}).items():
                    sums[maker] = sums.get(maker, 0.0) + values / max(whole, 1)
            shares[unit.part.name] = sums
    return shares


def _unit(split: Partition, part: Part) -> Unit:
    kernel = split.kernel(part)
    scalable = part.main.op_type in MULTIPLYING and kernel.weights > 0
    channels = (kernel.outputs, kernel.inputs) if scalable else (kernel.written, kernel.read)
    form = _form(split, part, kernel.precision, scalable)
    return Unit(part, form, *channels, scalable, _depthwise(split, part), split)


def ending(split: Partition, part: Part) -> str:
    """Return the tensor a part ends in: behind Q/DQ where it is quantized."""
    name: str = part.nodes[-1].output[0]
    for first in split.view.readers.get(name, ()):
        if first.op_type == "QuantizeLinear":
            for second in split.view.readers.get(first.output[0], ()):
                if second.op_type == "DequantizeLinear":
                    return str(second.output[0])
    return name


def closure(split: Partition, part: Part) -> tuple[list[onnx.NodeProto], list[str]]:
    """Return the nodes that a part needs, in order, and what it reads from outside."""
    view, own = split.view, {id(node) for node in part.nodes}
    taken: set[int] = set()
    inputs: dict[str, None] = {}
    waiting = [ending(split, part), *(name for node in part.nodes for name in node.output)]
    while waiting:
        name = waiting.pop()
        node = view.producers.get(name)
        if not name or name in view.constants:
            continue
        inside = split.origin.get(name) == part.name
        between = node is not None and node.op_type in (*QDQ, *FREE)
        if node is None or (id(node) not in own and not between):
            inputs[name] = None
        elif between and not inside and (node.op_type in FREE or _quantizes_outside(split, node, part)):
            if node.op_type == "QuantizeLinear":
                taken.add(id(node))
                inputs[node.input[0]] = None
                waiting.extend(node.input[1:])
            else:
                inputs[name] = None
        elif id(node) not in taken:
            taken.add(id(node))
            waiting.extend(node.input)
    return [node for node in split.proto.graph.node if id(node) in taken], list(inputs)


def _quantizes_outside(split: Partition, node: onnx.NodeProto, part: Part) -> bool:
    """Whether a QuantizeLinear node reads what another part makes."""
    source = node.input[0]
    return (
        node.op_type == "QuantizeLinear"
        and source not in split.view.constants
        and split.origin.get(source, "") != part.name
    )


def _form(split: Partition, part: Part, precision: str, scalable: bool) -> str:
    """Return a line such as ``Conv 3x3/2 16x16 int8 Relu #1f3a``; the mark stands for all that it leaves out."""
    main = part.main
    told: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in main.attribute}
    size, source = split.sizes.get(main.output[0], ()), split.sizes.get(main.input[0], ())
    words = [main.op_type]
    weight = split.sizes.get(main.input[1], ()) if "Conv" in main.op_type else ()
    if kernel := told.get("kernel_shape") or weight[2:]:
        words.append("x".join(map(str, kernel)) + f"/{told.get('strides', [1])[0]}")
    depthwise = _depthwise(split, part)
    if told.get("group", 1) > 1:
        words.append("depthwise" if depthwise else f"{told['group']} groups")
    if len(size) > 2:
        words.append("x".join(map(str, size[2:])))
    words += [precision, *(node.op_type for node in part.nodes[1:])]
    nodes, _ = closure(split, part)
    rest: list[object] = [_but(source, axis_of(main))]
    for node in nodes:
        attributes = [
            (a.name, str(helper.get_attribute_value(a)))
            for a in sorted(node.attribute, key=lambda a: a.name)
            if not (depthwise and a.name == "group") and a.type != onnx.AttributeProto.TENSOR
        ]
        rest.append((node.op_type, attributes, [split.types.get(name, 0) for name in node.output]))
    return " ".join((*words, "#" + hashlib.sha256(repr(rest).encode()).hexdigest()[:6]))


def _depthwise(split: Partition, part: Part) -> bool:
    groups = next((a.i for a in part.main.attribute if a.name == "group"), 1)
    return groups > 1 and split.sizes.get(part.main.input[0], (0, 0))[1] == groups


def axis_of(main: onnx.NodeProto) -> int:
    """Return which dimension of its tensors holds a part's channels."""
    return -1 if main.op_type in ("Gemm", "MatMul") else 1


def _but(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    at = axis % len(shape) if shape else 0
    return tuple(d for i, d in enumerate(shape) if i != at)


