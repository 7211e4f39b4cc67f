"""Lower any choice of an ONNX graph's layers to int8 Q/DQ, with ONNX Runtime's quantizer, calibrated once.

Calibration looks at the float graph alone, so its ranges serve every choice, and building one more graph costs
milliseconds. Equal choices give equal bytes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edgeprune.dialects.guarding import guard
from edgeprune.profiles.board import Int8Layout
from edgeprune.threads import silenced

Method = Literal["minmax", "entropy", "percentile"]
Ranges = Literal["auto", Method]

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators whose arithmetic int8 makes cheaper: the choice is over these."""
FOLLOWERS = (
    "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat",
    "Split", "Pad", "Slice", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Resize",
)  # fmt: skip
"""Operators that have an int8 kernel and stay in int8 when all that flows into them is int8 already."""

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


@dataclass(frozen=True, eq=False)
class Lowering:
    """A float graph with the ranges of its tensors, found by ``method``, ready to be lowered in part or whole.

    ``guarded`` is for ONNX Runtime, which would lower some of the layers that are left in float.
    """

    proto: onnx.ModelProto
    ranges: TensorsData
    layout: Int8Layout
    method: Method
    guarded: bool

    def candidates(self) -> tuple[str, ...]:
        """Return the names of the layers that can be lowered, in graph order."""
        known = self.ranges.data
        return tuple(n.name for n in lowerable(self.proto.graph) if n.input[0] in known and n.output[0] in known)

    def recorded(self) -> dict[str, tuple[float, float]]:
        """Return the ranges by the name of the node that makes the tensor, ``input`` for what is fed: they outlive the
        names of tensors, which an exporter makes up anew for another opset.
        """
        graph = self.proto.graph
        makers = {output: node.name for node in graph.node for output in node.output[:1]}
        makers |= {one.name: one.name for one in graph.input}
        spans = {makers[name]: self.ranges.data[name].range_value for name in self.ranges.data if name in makers}
        return {maker: (float(np.min(low)), float(np.max(high))) for maker, (low, high) in spans.items()}

    def build(self, names: Collection[str]) -> onnx.ModelProto:
        """Return a new graph in which exactly the layers called ``names``, and what follows from them, are int8."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        # The quantizer would infer shapes again, through a file, unless it finds its own mark.
        mark = copy.metadata_props.add()
        mark.key, mark.value = "onnx.infer", "onnxruntime.quant"
        symmetric = self.layout.activation == "int8"
        quantizer = QDQQuantizer(
            copy,
            per_channel=self.layout.per_channel,
            reduce_range=self.layout.reduce_range,
            weight_qType=_TYPES[self.layout.weight],
            activation_qType=_TYPES[self.layout.activation],
            tensors_range=self.ranges,
            nodes_to_quantize=_with_followers(copy.graph, set(names)),
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, *FOLLOWERS],
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": self.layout.weight == "int8",
                "QuantizeBias": self.layout.bias == "int32",
                "AddQDQPairToWeight": self.layout.weight_nodes == "quantize-dequantize",
            },
        )
        quantizer.quantize_model()
        _keep_outputs_float(copy.graph)
        quantizer.model.topological_sort()
        if self.guarded:
            guard(copy.graph)
        return copy


def lowerable(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of WEIGHTED operators whose weight is a float constant of the graph."""
    weights = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    return [n for n in graph.node if n.op_type in WEIGHTED and n.input[1] in weights]


def lowerable_names(path: Path) -> tuple[str, ...]:
    """Return the names of the layers of an ONNX file that could be lowered, in graph order."""
    return tuple(node.name for node in lowerable(onnx.load(path).graph))


def calibrate(
    path: Path, images: Iterable[NDArray[np.float32]], layout: Int8Layout, method: Method, threads: int,
    guarded: bool,
) -> Lowering:
    """Run the float graph at ``path`` on ``images``, each of the graph's own input shape, and record all ranges.

    ``images`` are fed one by one and ranges merged as they come, so memory does not grow with their number.
    Raises ValueError when there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        inferred = Path(folder) / "inferred.onnx"
        proto = onnx.shape_inference.infer_shapes(onnx.load(path))
        onnx.save(proto, inferred)
        augmented = Path(folder) / "augmented.onnx"
        options = {"symmetric": layout.activation == "int8"}
        calibrator = create_calibrator(
            inferred, [], str(augmented), _METHODS[method], extra_options=options, providers=["CPUExecutionProvider"]
        )
        # ONNX Runtime's own session would take every core of the machine.
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads
        session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session.log_severity_level = 3
        calibrator.infer_session = onnxruntime.InferenceSession(augmented, session, providers=["CPUExecutionProvider"])
        with silenced():  # the histograms announce each image
            for image in images:
                calibrator.collect_data(_One({"input": image}))
            return Lowering(proto, calibrator.compute_data(), layout, method, guarded)


def uncalibrated(
    path: Path, ranges: Mapping[str, tuple[float, float]], layout: Int8Layout, guarded: bool
) -> Lowering:
    """Return the graph at ``path`` with ranges that ``recorded`` gave for another export of the same network.

    Layers with a tensor beside them that has none are no candidates. Nodes without a weight are told by their order
    alone: where the two graphs hold another number of a kind, none of that kind is believed.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    makers = {output: node.name for node in proto.graph.node for output in node.output[:1]}
    makers |= {one.name: one.name for one in proto.graph.input}
    here, there = (Counter(map(_kind, names)) for names in (makers.values(), ranges))
    ranges = {name: span for name, span in ranges.items() if here[_kind(name)] == there[_kind(name)]}
    found = {
        tensor: (np.array(ranges[maker][0], np.float32), np.array(ranges[maker][1], np.float32))
        for tensor, maker in makers.items()
        if maker in ranges
    }
    return Lowering(proto, TensorsData(CalibrationMethod.MinMax, found), layout, "minmax", guarded)


def _kind(name: str) -> str:
    """Return what nodes that are told by their order have in common, such as relu of relu_3."""
    kind, _, number = name.rpartition("_")
    return kind if kind and number.isdigit() else name


class _One:
    """A calibration data reader of a single feed."""

    def __init__(self, feed: Mapping[str, NDArray[Any]]) -> None:
        self._feed: Mapping[str, NDArray[Any]] | None = feed

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        feed, self._feed = self._feed, None
        return feed

    def __iter__(self) -> _One:
        return self

    def __next__(self) -> Mapping[str, NDArray[Any]]:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed


def _with_followers(graph: onnx.GraphProto, names: set[str]) -> list[str]:
    """Return ``names`` and the nodes of FOLLOWERS that only int8 values flow into, in graph order.

    A follower with a float input would buy its int8 arithmetic with a conversion.
    """
    constants = {i.name for i in graph.initializer}
    constants |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    int8: set[str] = set()
    chosen = []
    for node in graph.node:
        inputs = [i for i in node.input if i and i not in constants]
        follows = node.op_type in FOLLOWERS and bool(inputs) and all(i in int8 for i in inputs)
        if node.name in names or follows:
            chosen.append(node.name)
            int8.update(node.output)
    return chosen


def _keep_outputs_float(graph: onnx.GraphProto) -> None:
    """Undo the last rounding of dense layers that end the graph: they give float at no cost in time.

    256 levels for a classifier's scores make ties between classes, which cost accuracy. Convolutions keep theirs, as
    ONNX Runtime runs one without a rounded output in float.
    """
    producers = {name: node for node in graph.node for name in node.output}
    constants = {i.name: i for i in graph.initializer}
    for output in graph.output:
        dequantize = producers.get(output.name)
        quantize = producers.get(dequantize.input[0]) if dequantize is not None else None
        if dequantize is None or quantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        layer = producers.get(quantize.input[0])
        if layer is None or layer.op_type not in ("Gemm", "MatMul"):
            continue
        if sum(layer.output[0] in n.input for n in graph.node) > 1:
            continue
        layer.output[0] = output.name
        graph.node.remove(dequantize)
        graph.node.remove(quantize)
        used = {name for n in graph.node for name in n.input}
        for name in (*quantize.input[1:], *dequantize.input[1:]):
            if name not in used and name in constants:
                graph.initializer.remove(constants.pop(name))
