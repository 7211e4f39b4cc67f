"""How a latency table is measured: against a machine whose every microsecond the test knows."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from machine import LAUNCH_MS, MAC_MS, RUN_MS, Machine
from onnx import TensorProto, helper, numpy_helper

from edgeprune.benches.tabulate import batches, check, facts_of, fill, grid, lacking
from edgeprune.dialects.kernels import partition
from edgeprune.dialects.units import Unit, units
from edgeprune.errors import UnmetRequirement
from edgeprune.model import ModelSpec, OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.profiles.latency_table import LatencyTable


def network(folder: Path, channels: int = 16) -> tuple[OnnxModel, tuple[Unit, ...]]:
    """A stem and two equal layers."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (channels, 3, 3, 3), "w1": (channels, channels, 3, 3), "w2": (channels, channels, 3, 3)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    names = ["input", "a", "b", "output"]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], f"conv{i}", pads=[1] * 4) for i in range(3)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 8, 8])
            for name, c in (("input", 3), ("output", channels))]  # fmt: skip
    proto = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], weights),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    onnx.save(proto, folder / f"net{channels}.onnx")
    return OnnxModel(folder / f"net{channels}.onnx", ModelSpec((1, 3, 8, 8))), units(partition(proto))


def filled(machine: Machine, folder: Path) -> LatencyTable:
    model, found = network(folder)
    table = LatencyTable(facts_of(machine))  # type: ignore[arg-type]
    fill(table, machine, model, found, lacking(table, found, grid), lambda: None, Silent())  # type: ignore[arg-type]
    return table


def test_what_a_run_and_the_profiler_add_is_found_and_taken_off(tmp_path: Path) -> None:
    table = filled(Machine(), tmp_path)
    assert table.run_ms == pytest.approx(RUN_MS, rel=1e-3)
    _, found = network(tmp_path)
    assert len(table.forms) == 1, "stem and layers differ in channels alone"
    for outputs, inputs, ms in table.forms[found[0].form].points:
        assert ms == pytest.approx(LAUNCH_MS + MAC_MS * 64 * 9 * outputs * inputs, rel=1e-3)
    assert len(table.forms[found[0].form].points) == 8 * 8 + 8


def test_a_machine_that_slows_down_in_the_middle_changes_no_point(tmp_path: Path) -> None:
    still, moody = filled(Machine(), tmp_path), filled(Machine(lambda call: 1.0 if call < 90 else 1.7), tmp_path)
    form = next(iter(still.forms))
    before, after = (np.array(table.forms[form].points)[:, 2] for table in (still, moody))
    assert np.allclose(before, after, rtol=0.25), "within what the profiler's share, which does not slow down, leaves"


def test_predictions_are_held_against_the_clock_at_the_tables_pace(tmp_path: Path) -> None:
    table = filled(Machine(), tmp_path)
    slower = Machine(lambda call: 2.0)
    [told] = check(table, slower, {"narrow": network(tmp_path, 10)})  # type: ignore[arg-type]
    assert told.predicted_ms == pytest.approx(RUN_MS + 3 * LAUNCH_MS + MAC_MS * 64 * 9 * (30 + 200), rel=0.01)
    assert abs(told.error) < 0.01


def test_an_interrupted_table_goes_on_where_it_was(tmp_path: Path) -> None:
    model, found = network(tmp_path)
    machine = Machine()
    table = LatencyTable(facts_of(machine))  # type: ignore[arg-type]
    saved = []

    def save() -> None:
        saved.append(len(next(iter(table.forms.values())).points))
        if len(saved) == 3:
            raise KeyboardInterrupt

    points = lacking(table, found, grid)
    with pytest.raises(KeyboardInterrupt):
        fill(table, machine, model, found, points, save, Silent())  # type: ignore[arg-type]
    assert saved == [3, 6, 9]
    left = lacking(table, found, grid)
    assert len(left) == len(points) - 9 and not {(p.outputs, p.inputs) for p in left} & {
        row[:2] for row in next(iter(table.forms.values())).points
    }
    fill(table, machine, model, found, left, lambda: None, Silent())  # type: ignore[arg-type]
    assert lacking(table, found, grid) == []


def test_each_batch_is_like_the_network_at_some_width(tmp_path: Path) -> None:
    _, found = network(tmp_path)
    points = lacking(LatencyTable(facts_of(Machine())), found, grid)  # type: ignore[arg-type]
    turns = list(batches(found, points))
    assert {len(batch) for batch in turns} == {3} and len(turns) == len(points) // 3
    assert {id(p) for batch in turns for p in batch} == {id(p) for p in points}, "each is measured"
    work = [sum(p.outputs * p.inputs / (p.unit.outputs * p.unit.inputs) for p in batch) for batch in turns]
    assert work == sorted(work, reverse=True), "narrow ones beside narrow ones"
    [alone] = batches(found, points[:1])
    assert [(p.outputs, p.inputs) for p in alone] == [(16, 3)] * 3
    assert list(batches(found, [])) == []


def test_a_runtime_that_tells_no_layer_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmetRequirement, match="does not tell what each layer takes, which --table wants"):
        filled(Machine(profiles=False), tmp_path)


def test_facts_name_what_a_table_is_tied_to() -> None:
    assert facts_of(Machine()).model_dump() == {  # type: ignore[arg-type]
        "board": "host-cpu", "runtime": "synthetic", "version": "1", "processor": "none", "threads": 1,
    }  # fmt: skip
