"""Energy of single layers: closed forms on a made-up meter, then the target's own runtime beside a fake sensor."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from edgeprune.benches.base import Bench, Stand
from edgeprune.benches.here import Here
from edgeprune.benches.layer_energy import LayerEnergies, estimated, measured
from edgeprune.budget import EnergyMethod
from edgeprune.dialects.kernels import kernels_of
from edgeprune.dialects.unit_graphs import fed_by_floats, nothing
from edgeprune.errors import UnmetRequirement
from edgeprune.model import ModelSpec, OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.profiles import board as boards
from edgeprune.profiles import sensors
from edgeprune.profiles.energy import Job, Meter, Protocol, Window
from edgeprune.profiles.energy_model import FORMULAS, run_mj
from edgeprune.profiles.sensor_base import Kind, Sensor

NETWORK = """<ir_version: 7, opset_import: ["" : 13]>
network (float[1, 4, 16, 16] input) => (float[1, 8, 8, 8] output)
<float[4, 4, 3, 3] v, float[8, 4, 1, 1] w>
{
    [first] a = Conv<pads = [1, 1, 1, 1]>(input, v)
    [relu] b = Relu(a)
    [pool] c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
    [second] output = Conv(c, w)
}"""


@pytest.fixture
def network(tmp_path: Path) -> OnnxModel:
    proto = parser.parse_model(NETWORK)
    for name, shape in (("v", (4, 4, 3, 3)), ("w", (8, 4, 1, 1))):
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "network.onnx")
    return OnnxModel(tmp_path / "network.onnx", ModelSpec((1, 4, 16, 16)))


class Scales(Meter):
    """Weighs a run by the shapes and operators of its graph: (net millijoules, microseconds), the call included."""

    name = "made up"

    def __init__(self, takes: Mapping[str, tuple[float, float]], live: bool = True) -> None:
        self.takes, self.live = takes, live
        self.graphs: list[str] = []
        self.calls = 0

    def windows(self, jobs: Iterable[Job]) -> list[Window]:
        self.calls += 1
        found = []
        for job in jobs:
            runs = job()
            mj, micro = self.takes[self.graphs[-1]] if runs else (0.0, 2e6)
            seconds = micro / 1e6 * (runs or 1.0)
            whole = mj * runs + 3000.0 * seconds  # three watts are drawn in any case
            found.append(Window({"all": whole}, whole, seconds, runs))
        return found


class Made(Here):
    """A bench whose stand is made up; tells what it was to run, and for how long."""

    def __init__(self, scales: Scales | None) -> None:
        super().__init__(boards.load("host-cpu"))
        self.scales, self.asked = scales, list[Protocol]()

    @contextmanager
    def stand(self) -> Iterator[Stand | None]:
        if self.scales is None:
            yield None
            return
        scales = self.scales

        @contextmanager
        def loop(model: OnnxModel, protocol: Protocol) -> Iterator[Job]:
            proto = onnx.load(model.path)
            self.asked.append(protocol)
            operators = "+".join(node.op_type for node in proto.graph.node)
            scales.graphs.append(f"{operators}{len(proto.graph.initializer)}")
            yield lambda: 1000.0

        yield Stand(scales, loop, lambda protocol: lambda: 0.0)


def of(takes: Mapping[str, tuple[float, float]], network: OnnxModel, whole: float = 0.9) -> LayerEnergies:
    bench = Made(Scales({"Relu0": (0.01, 10.0), **takes}))
    try:
        found = measured(bench, network, whole, Silent())
        assert bench.scales is not None and bench.scales.calls == 1, "one export tells all windows"
        assert {(one.seconds, one.runs, one.warmup) for one in bench.asked} == {(2.0, 1, 0.2)}
        assert len(bench.asked) == 4, "each kernel, and a call of nothing"
        return found
    finally:
        bench.close()


def test_kernels_share_what_the_whole_takes(network: OnnxModel) -> None:
    """Of 0.3 mJ in 100 µs, 2 µs and 0.1 mJ in 50 µs, when a call takes 0.01 mJ and 10 µs."""
    found = of({"Conv+Relu1": (0.31, 110.0), "MaxPool0": (0.9, 12.0), "Conv1": (0.11, 60.0)}, network)
    alone = [0.3, 0.4 / 150 * 2, 0.1]
    assert [(one.name, one.op, one.by) for one in found.layers] == [
        ("first", "Conv", "window"), ("pool", "MaxPool", "time"), ("second", "Conv", "window"),
    ]  # fmt: skip
    assert [one.mj for one in found.layers] == pytest.approx([0.9 * mj / sum(alone) for mj in alone])
    assert math.fsum(one.mj for one in found.layers) == pytest.approx(0.9)
    assert math.fsum(one.share for one in found.layers) == pytest.approx(1.0)
    assert (found.whole_mj, found.part, found.alone_mj) == (0.9, "net", pytest.approx(sum(alone)))
    assert {one.source for one in found.layers} == {"measured"}


def test_what_seems_to_take_nothing_gets_its_share_by_time(network: OnnxModel) -> None:
    found = of({"Conv+Relu1": (0.31, 110.0), "MaxPool0": (-0.2, 60.0), "Conv1": (0.11, 60.0)}, network)
    pool = found.layers[1]
    assert pool.by == "time" and pool.mj > 0
    assert pool.mj / found.layers[0].mj == pytest.approx((0.4 / 150 * 50) / 0.3)


def test_where_all_are_short_time_alone_tells(network: OnnxModel) -> None:
    found = of({"Conv+Relu1": (0.31, 13.0), "MaxPool0": (0.2, 11.0), "Conv1": (0.11, 9.0)}, network)
    assert {one.by for one in found.layers} == {"time"} and found.alone_mj is None
    assert [one.share for one in found.layers] == pytest.approx([3 / 4.1, 1 / 4.1, 0.1 / 4.1])
    assert math.fsum(one.mj for one in found.layers) == pytest.approx(0.9)


def test_a_whole_that_takes_no_more_than_rest_has_no_layers(network: OnnxModel) -> None:
    bench = Made(Scales({}))
    with pytest.raises(UnmetRequirement, match=r"^a run takes -0.2 mJ more than the idle board, so its layers "):
        measured(bench, network, -0.2, Silent())
    bench.close()


def test_a_sensor_that_went_away(network: OnnxModel) -> None:
    bench = Made(None)
    sentence = r"^--layer-energy: the power sensor of host-cpu does not answer any more$"
    with pytest.raises(UnmetRequirement, match=sentence):
        measured(bench, network, 0.9, Silent())
    bench.close()


@pytest.mark.parametrize("formula", FORMULAS)
def test_by_a_formula_they_add_up_to_its_own_whole(formula: EnergyMethod, network: OnnxModel) -> None:
    bench: Bench = Made(None)
    bench.energy_method = formula
    found = estimated(bench, network)
    assert found.part == "total" and found.alone_mj is None
    assert {(one.source, one.by) for one in found.layers} == {("estimated", "formula")}
    assert [one.name for one in found.layers] == ["first", "pool", "second"]
    assert found.whole_mj == pytest.approx(run_mj(kernels_of(network.path), formula))  # type: ignore[arg-type]
    assert math.fsum(one.mj for one in found.layers) == pytest.approx(found.whole_mj)
    bench.close()


class Busy(Sensor):
    """Three watts, and five more for each second of this process's own processor time."""

    name = "made-up"
    kind: Kind = "energy"
    closed = 0

    def read(self) -> Mapping[str, float]:
        return {"whole": 3000.0 * time.perf_counter() + 5000.0 * time.process_time()}

    def close(self) -> None:
        Busy.closed += 1


def test_the_target_s_own_runtime_beside_a_sensor(network: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "find", lambda power: Busy())
    bench = Here(boards.load("host-cpu"))
    bench.protocol = Protocol(seconds=0.1, runs=5, warmup=0.02, windows=2, most=2, layer_seconds=0.1)
    Busy.closed = 0
    whole = bench.energy(network)
    assert whole is not None and whole.net_mj is not None and whole.net_mj > 0 and whole.sensor == "made-up"
    found = measured(bench, network, whole.net_mj, Silent())
    assert [one.op for one in found.layers] == ["Conv", "MaxPool", "Conv"] and all(one.mj > 0 for one in found.layers)
    assert math.fsum(one.mj for one in found.layers) == pytest.approx(whole.net_mj)
    assert Busy.closed == 2
    bench.close()


def test_what_is_fed_is_cast_where_it_must_be(tmp_path: Path) -> None:
    proto = nothing()
    assert fed_by_floats(proto) is proto
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    fed = fed_by_floats(proto)
    onnx.checker.check_model(fed, full_check=True)
    assert [node.op_type for node in fed.graph.node] == ["Cast", "Relu"]
    assert fed.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
