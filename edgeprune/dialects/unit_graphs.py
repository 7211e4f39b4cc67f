"""Units as graphs to be timed: one alone at any width, many side by side in one, and a reference for the pace.

Side by side each finds the caches as the others have left them, as a kernel does within a network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from edgeprune.dialects.kernels import FREE, QDQ, Partition
from edgeprune.dialects.units import Unit, axis_of, closure, ending
from edgeprune.model import ModelSpec, OnnxModel

Proto = onnx.ModelProto
_LAYOUT = ("reorder", "reformat", "transpose", "parameter", "result")
"""How what runtimes call a change of layout begins: within a network both sides of it are mostly in one layout."""
_COPIES = (*_LAYOUT, "convert", "cast", "quantize", "dequantize")
_BESIDE = "beside"
_WORD = re.compile(r"[^\s,;+()]+")
_BRANCH = re.compile(r"\b(u|edge)(\d+)\.")


def graph_of(unit: Unit, outputs: int | None = None, inputs: int | None = None) -> onnx.ModelProto:
    """Return a unit as a graph with one input, ``input``, at another width if asked.

    What it reads beside that input of other kernels are constants: a runtime has one graph input to feed, and reads
    both alike. Raises ValueError for widths of a unit that has one size alone.
    """
    wanted = (outputs or unit.outputs, inputs or unit.inputs)
    if wanted != (unit.outputs, unit.inputs) and not unit.scalable:
        raise ValueError(f"{unit.form} multiplies nothing, so it has no widths to choose")
    return _graph(unit, *wanted)


def side_by_side(graphs: Sequence[onnx.ModelProto], flowing: bool = False) -> onnx.ModelProto:
    """Return one graph that computes every one of ``graphs``, each from a scalar input of its own making.

    ``flowing`` makes of such a scalar, too, what ``graph_of`` has put in for what flows in from other kernels.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for at, one in enumerate(graphs):
        part = compose.add_prefix(one, f"u{at}.").graph
        source = part.input[0]
        shape = [d.dim_value for d in source.type.tensor_type.shape.dim]
        feeds = [(source.name, shape, source.type.tensor_type.elem_type)]
        beside = {f"u{at}.{name}" for name in _beside(one)} if flowing else set()
        feeds += [(i.name, list(i.dims), i.data_type) for i in part.initializer if i.name in beside]
        constants += [i for i in part.initializer if i.name not in beside]
        for turn, feed in enumerate(feeds):
            made = _fed(*feed, f"edge{at}.{turn}.", at + turn / 2)
            nodes += made.node
            constants += made.initializer
        nodes += part.node
        # One value goes out: what makes an output of the graph itself is fused with nothing.
        target, rank = part.output[0], len(part.output[0].type.tensor_type.shape.dim)
        ends = [("start", [0] * rank), ("end", [1] * rank), ("axes", list(range(rank)))]
        constants += [numpy_helper.from_array(np.array(value, np.int64), f"edge{at}.{name}") for name, value in ends]
        nodes += [
            helper.make_node("Slice", [target.name, *(f"edge{at}.{name}" for name, _ in ends)], [f"edge{at}.first"],
                             f"edge{at}.slice"),
            helper.make_node("Reshape", [f"edge{at}.first", "one"], [f"edge{at}.flat"], f"edge{at}.reshape"),
            helper.make_node("Cast", [f"edge{at}.flat"], [f"edge{at}.output"], f"edge{at}.from",
                             to=onnx.TensorProto.FLOAT),
        ]  # fmt: skip
    source = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1])
    values = [f"edge{at}.output" for at in range(len(graphs))]
    nodes.append(helper.make_node("Concat", values, ["output"], f"edge{len(graphs) - 1}.concat", axis=0))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    target = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [len(graphs)])
    graph = helper.make_graph(nodes, "units", [source], [target], constants)
    first = graphs[0]
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


def _fed(name: str, shape: list[int], kind: int, edge: str, shift: float) -> onnx.GraphProto:
    """Return nodes that make a tensor of the graph's one number; each of their names begins with ``edge``.

    A shift of its own keeps a runtime from computing two equal branches once.
    """
    constants = [
        numpy_helper.from_array(np.array([shift], np.float32), f"{edge}shift"),
        numpy_helper.from_array(np.array(shape, np.int64), f"{edge}shape"),
    ]
    nodes = [
        helper.make_node("Add", ["input", f"{edge}shift"], [f"{edge}one"], f"{edge}add"),
        helper.make_node("Cast", [f"{edge}one"], [f"{edge}cast"], f"{edge}to", to=kind),
        helper.make_node("Expand", [f"{edge}cast", f"{edge}shape"], [name], f"{edge}expand"),
    ]
    return helper.make_graph(nodes, "feed", [], [], constants)


def _beside(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the constants that stand for what flows in from other kernels."""
    told = next((one.value for one in graph.metadata_props if one.key == _BESIDE), "")
    return told.split("\n") if told else []


def branches(nodes: Sequence[tuple[str, str]], count: int) -> list[list[int]]:
    """Return which of a runtime's nodes, given as (name, operator) in the order they run, are each branch's kernel.

    A node whose name tells nothing belongs with the one before it: a runtime goes through one branch after another.
    Quantizing what comes in and dequantizing what goes out is none of the kernel's, as its neighbours in a network do
    neither; changes of layout are not counted anywhere.
    """
    of: list[list[int]] = [[] for _ in range(count)]
    last: tuple[str, int] | None = None
    for at, (name, operator) in enumerate(nodes):
        match = _BRANCH.search(name)
        last = (match[1], int(match[2])) if match else last
        if last is not None and not (match and match[1] == "edge") and not operator.lower().startswith(_LAYOUT):
            of[last[1]].append(at)
    return [_without_edges(branch, [nodes[at][1].lower() for at in branch]) for branch in of]


def in_words(name: str, operator: str, nodes: Sequence[str], kinds: Mapping[str, str]) -> tuple[str, str]:
    """Return a runtime's kernel as (name, operator) for ``branches``, told by the nodes of the graph that went into it.

    ``kinds`` are the graph's operators by node. ``nodes`` are what the runtime says of them; where that is nothing,
    they are read out of its name, such as ``u0.conv + u0.relu``. One that computes none but Q/DQ nodes of its units is
    called so, whatever the runtime calls it. Raises ValueError for one that computes nodes of several units.
    """
    found = [one for one in nodes or _WORD.findall(name) if one in kinds]
    own = [one for one in found if not one.startswith("edge")]
    quantizing = {kinds[one] for one in own} - {"Cast"}
    if own and quantizing and quantizing <= set(QDQ):
        operator = "QuantizeLinear" if "QuantizeLinear" in quantizing else "DequantizeLinear"
    elif len({one.partition(".")[0] for one in own}) > 1:
        raise ValueError(f"{name} computes parts of several kernels: {', '.join(own)}")
    return (own or found or [name])[0], operator or name


def _without_edges(branch: list[int], operators: list[str]) -> list[int]:
    kernels = [at for at, operator in enumerate(operators) if not operator.startswith(_COPIES)]
    if not kernels:
        return []
    first, last = kernels[0], kernels[-1]
    edges = {at for at in range(first) if operators[at].startswith("quantize")}
    edges |= {at for at in range(last + 1, len(operators)) if operators[at].startswith("dequantize")}
    return [place for at, place in enumerate(branch) if at not in edges]


def reference(
    length: int = 4, pixels: int = 32, channels: int = 32, opset: Sequence[onnx.OperatorSetIdProto] | None = None
) -> onnx.ModelProto:
    """Return a graph that a machine's pace is told by: a chain of 3x3 convolutions, each of which is one kernel
    everywhere.
    """
    rng = np.random.default_rng(0)
    names = ["input", *(f"x{i}" for i in range(1, length)), "output"]
    weights = [rng.standard_normal((channels, channels, 3, 3), np.float32) / (3 * channels**0.5) for _ in range(length)]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], f"conv{i}", pads=[1] * 4)
             for i in range(length)]  # fmt: skip
    source, target = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, pixels, pixels])
        for name in ("input", "output")
    ]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "reference", [source], [target], constants)
    return helper.make_model(graph, opset_imports=opset or [helper.make_opsetid("", 13)], ir_version=7)


def nothing() -> onnx.ModelProto:
    """Return a graph that computes next to nothing: what it takes is what calling any graph takes."""
    source, target = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 1, 1])
                      for name in ("input", "output"))  # fmt: skip
    node = helper.make_node("Relu", ["input"], ["output"], "nothing")
    graph = helper.make_graph([node], "nothing", [source], [target])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def fed_by_floats(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose input, of whatever type, is cast from float32: that is what benches feed."""
    source = proto.graph.input[0].type.tensor_type
    if source.elem_type == onnx.TensorProto.FLOAT:
        return proto
    fed = onnx.ModelProto()
    fed.CopyFrom(proto)
    for node in fed.graph.node:
        node.input[:] = ["input.cast" if name == "input" else name for name in node.input]
    fed.graph.node.insert(0, helper.make_node("Cast", ["input"], ["input.cast"], "input.to", to=source.elem_type))
    fed.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return fed


def write(proto: onnx.ModelProto, path: Path) -> OnnxModel:
    """Write a graph with one input as a model of its own."""
    onnx.save(proto, path)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return OnnxModel(path, ModelSpec(tuple(d.dim_value for d in dims)))


@dataclass(frozen=True)
class _Widths:
    """A unit at some width: what becomes of the shapes of its tensors. ``groups`` is that of its convolution then."""

    unit: Unit
    outputs: int
    inputs: int
    groups: int
    behind: frozenset[str]
    weights: frozenset[str]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that flows in or out."""
        shape = self.unit.split.sizes.get(name, ())
        if not (self.unit.scalable and shape):
            return shape
        at = axis_of(self.unit.part.main) % len(shape)
        if name in self.behind:
            return (*shape[:at], self.inputs * self.groups, *shape[at + 1 :])
        return (*shape[:at], self.outputs, *shape[at + 1 :]) if shape[at] == self.unit.outputs else shape

    def beside(self, name: str) -> tuple[int, ...]:
        """Return the shape of what flows in past the layer, from where the layer reads."""
        shape = list(self.shape_of(name))
        shape[axis_of(self.unit.part.main)] = self.outputs
        return tuple(shape)

    def constant(self, name: str) -> onnx.TensorProto:
        """Return a constant in its new shape: values are left out or repeated."""
        value = self.unit.split.view.value(name)
        assert value is not None
        shape = value.shape
        if self.unit.scalable and name in self.weights and value.ndim > 1:
            shape = _weight_shape(self.unit.part.main, value.shape, self.outputs, self.inputs, self.groups)
        elif self.unit.scalable:
            shape = _first_changed(value.shape, self.unit.outputs, self.outputs)
        return numpy_helper.from_array(np.resize(value, shape) if shape != value.shape else value, name)


def _graph(unit: Unit, outputs: int, inputs: int) -> onnx.ModelProto:
    split, main = unit.split, unit.part.main
    originals, sources = closure(split, unit.part)
    nodes = [_copy(node) for node in originals]
    copied = next(node for node in nodes if node.output[0] == main.output[0])
    groups = next((a for a in copied.attribute if a.name == "group"), None)
    if groups is not None and unit.depthwise:
        groups.i = outputs
    behind = frozenset(_sources(split, main.input[0]))
    weights = frozenset(_sources(split, main.input[1])) if unit.scalable else frozenset()
    widths = _Widths(unit, outputs, inputs, groups.i if groups is not None else 1, behind, weights)
    fed = next((name for name in sources if name in behind), sources[0])
    beside = [_noise(name, widths.shape_of(name), split.types.get(name)) for name in sources if name != fed]
    fused = {one.output[0] for one in unit.part.nodes[1:]}
    for node in list(nodes):  # a shortcut around a layer reads what the layer reads, but is as wide as what it gives
        for at, name in enumerate(node.input if node.output[0] in fused else ()):
            if name in behind:
                beside.append(_shortcut(split, nodes, node, at, widths.beside(name)))
    needed = dict.fromkeys(name for node in nodes for name in node.input if name in split.view.constants)
    constants = [*beside, *(widths.constant(name) for name in needed)]
    for node in nodes:
        node.input[:] = ["input" if name == fed else name for name in node.input]
    output = ending(split, unit.part)
    source, target = (
        helper.make_tensor_value_info(name, split.types.get(old, onnx.TensorProto.FLOAT), widths.shape_of(old))
        for name, old in (("input", fed), (output, output))
    )
    graph = helper.make_graph(nodes, "unit", [source], [target], constants)
    model = helper.make_model(graph, opset_imports=split.proto.opset_import, ir_version=split.proto.ir_version)
    helper.set_model_props(model, {_BESIDE: "\n".join(one.name for one in beside)})
    return model


def _shortcut(
    split: Partition, nodes: list[onnx.NodeProto], node: onnx.NodeProto, at: int, shape: tuple[int, ...]
) -> onnx.TensorProto:
    """Let an input of ``node`` be a constant of its own, quantized as it was; return the constant."""
    old = node.input[at]
    node.input[at] = f"{old}.beside"
    before = split.view.producers.get(old)
    if before is None or before.op_type != "DequantizeLinear":
        return _noise(node.input[at], shape, split.types.get(old))
    copy = _copy(before)
    copy.name, copy.input[0], copy.output[0] = f"{before.name}.beside", f"{old}.stored", node.input[at]
    nodes.insert(nodes.index(node), copy)
    return _noise(copy.input[0], shape, split.types.get(before.input[0]))


def _noise(name: str, shape: tuple[int, ...], kind: int | None) -> onnx.TensorProto:
    """Return a constant of seeded noise, of whatever type."""
    values = np.random.default_rng(0).standard_normal(shape)
    dtype = _numpy(kind)
    return numpy_helper.from_array((values * 40 + 100 if dtype.kind in "iu" else values).astype(dtype), name)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _numpy(kind: int | None) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.FLOAT)


def _weight_shape(
    main: onnx.NodeProto, shape: tuple[int, ...], outputs: int, inputs: int, groups: int
) -> tuple[int, ...]:
    if main.op_type == "Conv":
        return (outputs, inputs, *shape[2:])
    if main.op_type == "ConvTranspose":
        return (inputs * groups, outputs // groups, *shape[2:])
    swapped = any(a.name == "transB" and a.i for a in main.attribute)
    return (outputs, inputs) if swapped else (inputs, outputs)


def _first_changed(shape: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    """Return a shape with the first dimension that is as large as the old number of channels changed."""
    at = next((i for i, size in enumerate(shape) if size == old and size > 1), None)
    return shape if at is None else (*shape[:at], new, *shape[at + 1 :])


def _sources(split: Partition, name: str) -> set[str]:
    """Return a tensor and what it comes from through Q/DQ nodes and nodes that change its shape alone."""
    found = {name}
    node = split.view.producers.get(name)
    while node is not None and node.op_type in (*QDQ, *FREE) and node.input:
        found.add(node.input[0])
        node = split.view.producers.get(node.input[0])
    return found
