from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeprune.benches import here as module
from edgeprune.compiler.profile import profile_artifact
from edgeprune.errors import BadInput, BadModel
from edgeprune.passes.base import Silent
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
