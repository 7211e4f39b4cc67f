"""What every emitted ONNX graph has in common: nothing of the building machine, stable names, one write."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx

from edgeprune.errors import BadModel
from edgeprune.files import write_atomic
from edgeprune.model import METADATA_KEY, OnnxModel

_FLOATING = "edgeprune.floating"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ONE_NAME = {"GlobalAveragePool": "mean", "ReduceMean": "mean", "Flatten": "reshape"}
PROTOBUF_LIMIT = 2**31 - 1
"""Bytes a protobuf message, and so an ONNX file of one piece, may hold."""


def clean(proto: onnx.ModelProto, spec_json: str, ir_version: int) -> None:
    """Strip all doc strings and metadata but edgeprune's own, and cap the IR version. In place.

    torch's exporter writes the source path and stack trace of every node into the file.
    """
    for graph in _graphs(proto.graph):
        for messages in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
            _strip([graph, *messages])
    for function in proto.functions:
        _strip([function, *function.node, *function.value_info])
    _strip([proto])
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec_json
    proto.graph.name = "model"
    proto.producer_name, proto.producer_version = "edgeprune", _own_version()
    proto.domain, proto.model_version = "", 0
    proto.ir_version = min(proto.ir_version, ir_version)


def keep_floating(proto: onnx.ModelProto, layers: Collection[str]) -> None:
    """Note in a graph with named nodes which of its layers, by module, are not to be lowered. In place.

    A module that is called several times is as many nodes.
    """
    weights = {f"{layer}.weight" for layer in layers}
    names = {node.name for node in proto.graph.node if node.name in layers or not weights.isdisjoint(node.input)}
    if names:
        entry = proto.metadata_props.add()
        entry.key, entry.value = _FLOATING, json.dumps(sorted(names))


def kept_floating(proto: onnx.ModelProto) -> frozenset[str]:
    """Return what ``keep_floating`` noted; nothing where it noted nothing."""
    return frozenset(name for one in proto.metadata_props if one.key == _FLOATING for name in json.loads(one.value))


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name each node after the module whose weight it reads, else after its operator and a count.

    torch's exporters number nodes by a counter over every rewrite, so their names change from version to
    version; a recipe names nodes and must outlive that. It must fit the export for another target too, so what the two
    exporters write in two ways has one name, and a weight that the older one has folded a batch norm into, and named
    anew, is told by the scope in its node's name.
    """
    weights = {i.name for i in graph.initializer if i.name.endswith(".weight")}
    counts: Counter[str] = Counter()
    taken: set[str] = set()
    for node in graph.node:
        owner = next((i.removesuffix(".weight") for i in node.input if i in weights), None) or _scope(node)
        stem = _ONE_NAME.get(node.op_type, node.op_type.lower()) if owner is None else owner
        node.name = f"{stem}_0" if owner is None else stem
        while node.name in taken:
            counts[stem] += 1
            node.name = f"{stem}_{counts[stem]}"
        taken.add(node.name)


def _scope(node: onnx.NodeProto) -> str | None:
    """Return the module that a layer was traced in, from a name such as /layer1/layer1.0/conv1/Conv; None without."""
    if node.op_type not in _WEIGHTED or not node.name.startswith("/"):
        return None
    parts: list[str] = []
    for part in node.name.split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):  # a child of a Sequential repeats its parent
            parts.pop()
        parts.append(part)
    return ".".join(parts) or None


def write(proto: onnx.ModelProto, model: OnnxModel) -> OnnxModel:
    """Serialise deterministically, write in one step and return ``model``. Raises BadModel above 2 GB."""
    if proto.ByteSize() > PROTOBUF_LIMIT:
        raise BadModel(
            "the graph is larger than 2 GB, the most an ONNX file of one piece holds; use a smaller model"
        )
    write_atomic(model.path, proto.SerializeToString(deterministic=True))
    return model


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the version of the default operator set a model imports."""
    return next(int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx"))


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:  # reading an absent graph gives an empty one
                    yield from _graphs(inner)


def _strip(messages: Iterable[Any]) -> None:
    for message in messages:
        message.ClearField("doc_string")
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("metadata_props")


def _own_version() -> str:
    try:
        return version("edgeprune")
    except PackageNotFoundError:
        return "source"
