"""A machine whose every microsecond is known: it stands in for a bench, and answers from the graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import onnx

from edgeprune.backends.base import LayerTime
from edgeprune.model import OnnxModel
from edgeprune.profiles import board
from edgeprune.profiles.measure import Plan
from edgeprune.report import Latency, Measurement

RUN_MS, NODE_MS, MAC_MS, LAUNCH_MS = 0.005, 0.002, 1e-7, 0.001


def took(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> float:
    """What one node really takes: a launch, and its multiplications."""
    if node.op_type != "Conv":
        return LAUNCH_MS
    return LAUNCH_MS + MAC_MS * math.prod(sizes[node.output[0]]) * math.prod(sizes[node.input[1]][1:])


class Machine:
    """A bench whose profiler adds NODE_MS to each node, and that ``slow`` makes slower from call to call."""

    source = "measured"

    def __init__(self, slow: Any = lambda call: 1.0, profiles: bool = True) -> None:
        self.board, self.identity, self.threads = board.load("host-cpu"), "", 1
        self.backend = SimpleNamespace(name="synthetic", fuses_constants=True)
        self.slow, self.profiles, self.calls = slow, profiles, 0
        self.seen: list[set[str]] = []

    def conditions(self) -> dict[str, Any]:
        return {"version": "1", "processor": "none"}

    def nodes(self, model: OnnxModel) -> list[tuple[str, str, float]]:
        proto = onnx.shape_inference.infer_shapes(onnx.load(model.path))
        values = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
        sizes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        sizes |= {i.name: tuple(i.dims) for i in proto.graph.initializer}
        self.calls += 1
        pace = self.slow(self.calls)
        return [(n.name, n.op_type, pace * took(n, sizes)) for n in proto.graph.node]

    def layer_times(self, model: OnnxModel, runs: int = 50) -> tuple[LayerTime, ...]:
        found = self.nodes(model)
        if not self.profiles:
            return ()
        return tuple(LayerTime(name, op, ms + NODE_MS, 0.0) for name, op, ms in found)

    def measure(self, models: Mapping[str, OnnxModel], plan: Plan | None = None) -> dict[str, Measurement]:
        clock = {name: sum(ms for _, _, ms in self.nodes(model)) for name, model in models.items()}
        clock = {name: ms + RUN_MS * self.slow(self.calls) for name, ms in clock.items()}
        first = next(iter(clock.values()))
        return {
            name: Measurement(source="measured", latency_ms=Latency(p50=ms), ratio=ms / first)
            for name, ms in clock.items()
        }
