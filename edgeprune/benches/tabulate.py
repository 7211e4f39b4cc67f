"""Measure what a latency table lacks: each kernel as a graph of its own, through the target's runtime.

Many kernels run side by side in one graph, and the runtime's profiler tells what each takes; the profiler slows nodes
down, by as much as is found out here. A reference among them tells the pace of the machine, whose moods cancel out.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import lsq_linear

from edgeprune.benches.base import Bench
from edgeprune.dialects.unit_graphs import Proto, branches, graph_of, in_words, reference, side_by_side, write
from edgeprune.dialects.units import Unit
from edgeprune.errors import UnmetRequirement
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress
from edgeprune.profiles.latency_table import Check, Facts, LatencyTable, axis
from edgeprune.profiles.measure import Plan

_CHAINS = (1, 4, 16, 48)
_SITTINGS = 5
_CALIBRATION = Plan(round_seconds=0.02, attempts=1)
_RUNS = 60
_ROUNDS = 10
_SHORT = Plan(rounds=5, round_seconds=0.05, warmup=3, attempts=1)
_LEAST_MS = 1e-4


@dataclass(frozen=True)
class Point:
    """A kernel at one width."""

    unit: Unit
    outputs: int
    inputs: int


def facts_of(bench: Bench) -> Facts:
    """Return what a table is tied to."""
    told = bench.conditions()
    return Facts(
        board=bench.identity or bench.board.name,
        runtime=bench.backend.name,
        version=told.get("version") or bench.board.version or None,
        processor=told.get("processor"),
        threads=bench.threads,
    )


def lacking(table: LatencyTable, units: Sequence[Unit], widths: Callable[[Unit], tuple[Sequence[int], Sequence[int]]]
            ) -> list[Point]:  # fmt: skip
    """Return the points of ``units`` that the table lacks: each form over the grid that ``widths`` gives its units."""
    found: dict[tuple[str, int, int], Point] = {}
    for unit in units:
        outputs, inputs = widths(unit) if unit.scalable else ((unit.outputs,), (unit.inputs,))
        for o in outputs:
            for i in inputs:
                if not table.knows(unit.form, o, i):
                    found.setdefault((unit.form, o, i), Point(unit, o, i))
    return list(found.values())


def grid(unit: Unit) -> tuple[Sequence[int], Sequence[int]]:
    """Return the widths at which a unit is measured when nothing is known of what may be cut."""
    if unit.depthwise:
        return axis(unit.outputs), (1,)
    return axis(unit.outputs), axis(unit.inputs)


def fill(
    table: LatencyTable,
    bench: Bench,
    model: OnnxModel,
    network: Sequence[Unit],
    points: Sequence[Point],
    save: Callable[[], None],
    progress: Progress,
) -> None:
    """Measure ``points`` into ``table``, calling ``save`` after each batch: interrupted, it goes on from there.

    ``network`` are the kernels of ``model``, which all of them are of.
    """
    if bench.board.typing == ("weak",) and any(" fp16 " in unit.form for unit in network):
        raise UnmetRequirement(
            f"no latency table can be made of an fp16 graph on {bench.board.name}: its TensorRT is told fp16 by a flag "
            f"for all of a graph, the reference included that tells the machine's pace"
        )
    if table.reference_ms is None:
        calibrate(table, bench)
    node_ms = _node_ms(table, bench, model, network) if points else 0.0
    turns = list(batches(network, points))
    for batch in progress.track(turns, "latency table: batches of kernels", len(turns)):
        with tempfile.TemporaryDirectory() as folder:
            graphs = [graph_of(p.unit, p.outputs, p.inputs) for p in batch]
            times = _own(bench, graphs, Path(folder), node_ms)
        assert table.reference_own_ms is not None
        pace = table.reference_own_ms / times[0]
        for point, ms in zip(batch, times[1:], strict=True):
            if not table.knows(point.unit.form, point.outputs, point.inputs):
                table.add(point.unit.form, point.unit.scalable, point.outputs, point.inputs, ms * pace)
        save()


def batches(network: Sequence[Unit], points: Sequence[Point]) -> Iterator[list[Point]]:
    """Yield batches that hold ``points`` between them, each like the network at some width: every kernel of it once,
    all of them about as narrow as one another. So they leave the caches as the layers of such a network do.
    """
    waiting: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: -(p.outputs * p.inputs) / (p.unit.outputs * p.unit.inputs)):
        waiting.setdefault(point.unit.form, []).append(point)
    kernels = Counter(unit.form for unit in network)
    turns = max((math.ceil(len(every) / kernels[form]) for form, every in waiting.items()), default=0)
    for turn in range(turns):
        met: Counter[str] = Counter()
        batch = []
        for unit in network:
            every = waiting.get(unit.form)
            if every:
                place = (turn * kernels[unit.form] + met[unit.form]) * len(every) // (turns * kernels[unit.form])
                met[unit.form] += 1
                batch.append(every[place])
            else:
                batch.append(Point(unit, unit.outputs, unit.inputs))
        yield batch


def _node_ms(table: LatencyTable, bench: Bench, model: OnnxModel, network: Sequence[Unit]) -> float:
    """Return what the profiler adds to each node: by so much less than the sum of its kernels, side by side at their
    own widths, a network takes by the clock.

    Both at the pace of the table, which what is sought changes a little; the middle of several sittings.
    """
    assert table.reference_ms is not None and table.reference_own_ms is not None
    found = []
    with tempfile.TemporaryDirectory() as name:
        graphs = {"reference": write(reference(), Path(name) / "reference.onnx"), "model": model}
        for _ in range(_SITTINGS):
            told = _raw(bench, [graph_of(unit) for unit in network], Path(name))
            ratio = bench.measure(graphs, _SHORT)["model"].ratio
            assert ratio is not None
            kernels_ms = ratio * table.reference_ms - table.run_ms
            node_ms, whole, nodes = 0.0, sum(ms for ms, _ in told[1:]), sum(count for _, count in told[1:])
            for _ in range(_ROUNDS):
                pace = table.reference_own_ms / (told[0][0] - told[0][1] * node_ms)
                node_ms = max((whole - kernels_ms / pace) / max(nodes, 1), 0.0)
            found.append(node_ms)
    return float(np.median(found))


def _own(bench: Bench, graphs: Sequence[Proto], folder: Path, node_ms: float) -> list[float]:
    """Return what the kernels of the reference and of some graphs take, run side by side."""
    return [max(ms - nodes * node_ms, _LEAST_MS) for ms, nodes in _raw(bench, graphs, folder)]


def _raw(bench: Bench, graphs: Sequence[Proto], folder: Path) -> list[tuple[float, int]]:
    """Return what the profiler tells of the kernels of the reference and of some graphs, and of how many nodes."""
    every = [reference(opset=graphs[0].opset_import if graphs else None), *graphs]
    together = side_by_side(every, flowing=not bench.backend.fuses_constants)
    layers = bench.layer_times(write(together, folder / "units.onnx"), _RUNS)
    if not layers:
        raise UnmetRequirement(
            f"the runtime of {bench.board.name} does not tell what each layer takes, which --table wants"
        )
    kinds = {node.name: node.op_type for node in together.graph.node}
    try:
        found = branches([in_words(one.name, one.op, one.nodes, kinds) for one in layers], len(every))
    except ValueError as error:
        raise UnmetRequirement(f"no latency table can be made with {bench.backend.name} here: {error}") from error
    return [(sum(layers[at].ms for at in nodes), len(nodes)) for nodes in found]


def calibrate(table: LatencyTable, bench: Bench) -> None:
    """Begin a table: find out what a run takes beside its kernels, and how fast the machine is now.

    By the clock a graph takes ``run_ms`` more, and so much a node less, than its profile adds up to. Both are found by
    least squares over chains of a tiny convolution, once and many times; relative errors count. The middle of several
    sittings is taken.
    """
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = {"reference": write(reference(), folder / "reference.onnx")}
        for length in _CHAINS:
            graphs[str(length)] = write(reference(length, 2, 8), folder / f"{length}.onnx")
        for _ in range(_SITTINGS):
            measured = bench.measure(graphs, _CALIBRATION)
            took = {name: one.latency_ms.p50 for name, one in measured.items() if one.latency_ms is not None}
            if len(took) < len(graphs):
                raise UnmetRequirement(f"nothing can be timed on {bench.board.name} here; give --board")
            seen = {name: bench.layer_times(model, _RUNS) for name, model in graphs.items()}
            clock = np.array([took[name] for name in graphs])
            whole = np.array([sum(one.ms for one in seen[name]) for name in graphs])
            nodes = np.array([len(seen[name]) for name in graphs])
            sides = np.stack([1.0 / clock, -nodes / clock], axis=1)
            run_ms, node_ms = map(float, lsq_linear(sides, 1.0 - whole / clock, (0.0, np.inf)).x)
            found.append((took["reference"], _own(bench, [], folder, node_ms)[0], run_ms))
    table.reference_ms, table.reference_own_ms, table.run_ms = map(float, np.median(found, axis=0))


def check(
    table: LatencyTable, bench: Bench, wholes: Mapping[str, tuple[OnnxModel, Sequence[Unit]]]
) -> tuple[Check, ...]:
    """Time whole graphs at the table's pace and hold its predictions against them."""
    assert table.reference_ms is not None
    with tempfile.TemporaryDirectory() as folder:
        graphs = {"reference": write(reference(), Path(folder) / "reference.onnx")}
        measured = bench.measure({**graphs, **{name: model for name, (model, _) in wholes.items()}})
    found = []
    for name, (_, units) in wholes.items():
        predicted = table.predict((unit.form, unit.outputs, unit.inputs) for unit in units)
        ratio = measured[name].ratio
        if predicted is not None and ratio is not None:
            found.append(Check(name=name, predicted_ms=predicted, measured_ms=ratio * table.reference_ms))
    return tuple(found)


