"""Put layers in the order in which to lower them: the least accuracy risk per millisecond saved first."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgeprune.passes.lowering import lowerable

_RUNS = 30
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_kernel_time)+$")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")


def order(names: Sequence[str], risk: Mapping[str, float], gain: Mapping[str, float]) -> tuple[str, ...]:
    """Return ``names`` by rising risk per gain; layers that gain nothing come last, by rising risk.

    ``risk`` is how far the outputs move when that layer alone is lowered, ``gain`` what lowering it saves
    (milliseconds or MACs). Equal layers keep the order of ``names``.
    """

    def key(name: str) -> tuple[bool, float]:
        gains = gain.get(name, 0.0) > 0.0
        return (not gains, risk[name] / gain[name] if gains else risk[name])

    return tuple(sorted(names, key=key))


def deviation(reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
    """Return the mean squared difference of the outputs as a share of the reference's variance."""
    return float(np.mean((outputs - reference) ** 2) / max(float(reference.var()), 1e-12))


def macs(graph: onnx.GraphProto) -> dict[str, float]:
    """Return multiply-accumulates by name for each lowerable layer of a graph with inferred shapes.

    Each output element takes as many as there are weights to one output channel.
    """
    values = (*graph.value_info, *graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {i.name: i.dims for i in graph.initializer}
    found = {}
    for node in lowerable(graph):
        output = shapes[node.output[0]]
        channels = output[1] if node.op_type == "Conv" else output[-1]
        found[node.name] = float(np.prod(weights[node.input[1]]) / channels * np.prod(output))
    return found


def milliseconds(path: Path, graph: onnx.GraphProto, feed: NDArray[np.float32], threads: int) -> dict[str, float]:
    """Return the median milliseconds ONNX Runtime spends in each lowerable layer of ``graph`` when it runs ``path``.

    ``path`` holds ``graph`` itself or a lowered form of it. A layer is found by its own name, or by the name of its
    result, after which ONNX Runtime calls a kernel that it fused or laid out anew; one not found is left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(_RUNS):
            session.run(None, {"input": feed})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    owners = _owners(graph)
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        layer = owners.get(_SUFFIX.sub("", event["name"]))
        if event.get("cat") == "Node" and layer is not None:
            spent[layer].append(event["dur"] / 1e3)
    return {name: float(np.median(times)) for name, times in spent.items()}


def _owners(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the layer by each name its kernel may run under: its own, its result's, its activation's result's."""
    owners = {}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in lowerable(graph):
        result = node.output[0]
        owners[node.name] = owners[result] = node.name
        after = readers[result]
        if len(after) == 1 and after[0].op_type in _ACTIVATIONS:
            owners[after[0].output[0]] = node.name
    return owners
