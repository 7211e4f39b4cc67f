from __future__ import annotations

import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgeprune.backends.openvino import Openvino
from edgeprune.benches import here as module
from edgeprune.compiler.profile import profile_artifact
from edgeprune.errors import BadData, BadInput, BadModel, BadOption, UnmetRequirement
from edgeprune.passes.base import Silent
from edgeprune.profiles import sensors
from edgeprune.profiles.board import Board
from edgeprune.profiles.energy import Protocol
from edgeprune.profiles.latency_table import Facts, LatencyTable
from edgeprune.report import Latency, Measurement


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run the artifact once instead of timing it; gives the thread counts asked for."""
    threads: list[int] = []

    def interleave(calls: Any, count: int, seed: int, conditions: Any, plan: Any) -> dict[str, Measurement]:
        [(name, call)] = calls.items()
        call()
        threads.append(count)
        latency = Latency(p50=1.0, p90=2.0, p99=3.0)
        return {name: Measurement(source="measured", latency_ms=latency, ratio=1.0, conditions=dict(conditions))}

    monkeypatch.setattr(module, "interleave", interleave)
    return threads


def test_a_build_is_profiled_whole_and_by_layer(built: Any, quickly: list[int]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in built.directory.iterdir()}
    found = profile_artifact(built.directory, "host-cpu", 2, Silent())
    whole, layers = found.whole, found.layers
    assert quickly == [2] and found.table is None and found.energies is None
    assert whole.name == str(built.directory / "model.onnx")
    assert whole.size_bytes == (built.directory / "model.onnx").stat().st_size
    assert sum(whole.precisions.values()) > 0
    assert whole.measurement.ratio is None
    assert whole.measurement.conditions["runtime"] == "onnxruntime"
    assert (whole.measurement.peak_memory_bytes or 0) > 0
    assert sum(layer.share for layer in layers) == pytest.approx(1.0)
    assert any("Conv" in layer.op for layer in layers)
    assert {path.name: path.stat().st_mtime_ns for path in built.directory.iterdir()} == before


def test_a_file_by_another_name_is_left_alone(built: Any, quickly: list[int], tmp_path: Path) -> None:
    mine = Path(shutil.copy(built.directory / "model.onnx", tmp_path / "mine.onnx"))
    assert profile_artifact(mine, "host-cpu", 1, Silent()).whole.name == str(mine)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.onnx"]


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no file .*x\.onnx; give an ONNX file, or a folder that `edgeprune"):
        profile_artifact(tmp_path / "x.onnx", "host-cpu", 1, Silent())
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(BadModel, match=r"x\.onnx was not written by edgeprune and has no static input shape"):
        profile_artifact(tmp_path / "x.onnx", "host-cpu", 1, Silent())


def test_a_table_that_does_not_fit_is_refused_before_anything_is_timed(
    built: Any, quickly: list[int], tmp_path: Path
) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(BadInput, match=r"t\.json is not a latency table"):
        profile_artifact(built.directory, "host-cpu", 1, Silent(), table=tmp_path / "t.json")
    assert quickly == []


@pytest.mark.parametrize("formula", ["theoretical", "theoretical-published"])
def test_the_energy_of_layers_by_a_formula_needs_no_sensor(built: Any, quickly: list[int], formula: Any) -> None:
    found = profile_artifact(built.directory, "host-cpu", 1, Silent(), energy=formula, layer_energy=True)
    assert found.energies is not None and found.whole.measurement.energy_source == "estimated"
    assert found.energies.whole_mj == pytest.approx(found.whole.measurement.energy_mj)
    assert math.fsum(one.mj for one in found.energies.layers) == pytest.approx(found.whole.measurement.energy_mj)
    assert {one.source for one in found.energies.layers} == {"estimated"}


def test_energy_of_layers_without_a_sensor_is_refused_before_anything_is_timed(
    built: Any, quickly: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "find", lambda power: None)
    sentence = (
        r"^--layer-energy needs a power sensor, and none of host-cpu answers here \(its file names \w+\); measure on "
        r"the board with --board, give the file of an external meter with --power-log, or estimate with --energy "
        r"theoretical$"
    )
    with pytest.raises(UnmetRequirement, match=sentence):
        profile_artifact(built.directory, "host-cpu", 1, Silent(), layer_energy=True)
    with pytest.raises(UnmetRequirement, match=r"none of jetson-xavier answers here \(its file names ina3221\)"):
        profile_artifact(built.directory, "jetson-xavier", 1, Silent(), layer_energy=True)
    assert quickly == []


def test_an_external_meter_tells_the_whole_and_its_layers(
    built: Any, quickly: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A meter of 100 rows a second: three watts, and five more for each second of our own processor time."""
    protocol = Protocol(seconds=0.4, runs=5, warmup=0.05, windows=2, layer_seconds=0.2)
    monkeypatch.setattr(module.Here, "protocol", protocol)
    done, path = threading.Event(), tmp_path / "m.csv"

    def meter() -> None:
        with path.open("w", buffering=1) as file:
            file.write("time,voltage_v,current_a\n")
            last = time.time(), time.process_time()
            while not done.wait(0.01):
                now = time.time(), time.process_time()
                file.write(f"{now[0]},5.0,{(3.0 + 5.0 * (now[1] - last[1]) / (now[0] - last[0])) / 5.0}\n")
                last = now

    thread = threading.Thread(target=meter)
    thread.start()
    try:
        time.sleep(0.1)
        found = profile_artifact(
            built.directory, "host-cpu", 1, Silent(), power_log=path, layer_energy=True
        )
    finally:
        done.set()
        thread.join()
    told = found.whole.measurement
    assert told.energy_source == "measured" and told.conditions["energy"]["sensor"] == "csv"
    assert found.energies is not None and found.energies.whole_mj == told.conditions["energy"]["net_mj"]
    assert math.fsum(one.mj for one in found.energies.layers) == pytest.approx(found.energies.whole_mj)
    assert 0 < found.energies.whole_mj < (told.energy_mj or 0.0)


def test_a_meter_that_cannot_be_is_refused_before_anything_is_timed(
    built: Any, quickly: list[int], tmp_path: Path
) -> None:
    log = tmp_path / "m.csv"
    log.write_text("time,power_hp\n")
    with pytest.raises(BadOption, match=r"^--power-log is an external meter's; it has no say with --energy theor"):
        profile_artifact(built.directory, "host-cpu", 1, Silent(), energy="theoretical", power_log=log)
    with pytest.raises(BadData, match=r"m\.csv:1: no column tells power in a unit that is known"):
        profile_artifact(built.directory, "host-cpu", 1, Silent(), power_log=log)
    with pytest.raises(UnmetRequirement, match=r"^--power-log wants graphs to run, and jetson-xavier is not here"):
        profile_artifact(built.directory, "jetson-xavier", 1, Silent(), power_log=log)
    assert quickly == []


@pytest.mark.skipif(Openvino().version() is None, reason="openvino is not installed")
def test_another_of_the_targets_runtimes_is_profiled_and_its_table_is_tied_to_it(
    built: Any, quickly: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Board, "run_by", lambda board, runtime: board.model_copy(update={"backend": runtime}))
    found = profile_artifact(built.directory, "host-cpu", 1, Silent(), runtime="openvino").whole
    assert found.measurement.conditions["runtime"] == "openvino"
    facts = Facts(board="host-cpu", runtime="onnxruntime", version=None, processor=None, threads=1)
    LatencyTable(facts).write(tmp_path / "t.json")
    with pytest.raises(BadInput, match=r"t\.json was measured with runtime onnxruntime, and this is openvino"):
        profile_artifact(built.directory, "host-cpu", 1, Silent(), table=tmp_path / "t.json", runtime="openvino")
