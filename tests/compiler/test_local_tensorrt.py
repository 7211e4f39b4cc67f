"""Builds for this machine's own GPU: with TensorRT's stand-in (SYNTHETIC), and with what is really here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiler.conftest import arguments
from cuda_stand_in import MEMORY, Cuda
from qdq_graphs import QDQ, graph
from tensorrt_stand_in import Trt, packages

import edgeprune
from edgeprune import find
from edgeprune.backends.base import Artifact
from edgeprune.benches.choose import bench_for
from edgeprune.benches.estimate import Estimate
from edgeprune.benches.here import Here
from edgeprune.compiler.verify import verify
from edgeprune.compiler.workshop import Workshop
from edgeprune.dialects.conform import lint
from edgeprune.engines import execution, gpu, local, tensorrt_api
from edgeprune.engines.gpu import CudaBindings
from edgeprune.errors import Lacking
from edgeprune.model import ModelSpec, OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.passes.dialect import Dialect
from edgeprune.passes.export import Export
from edgeprune.passes.quantize import Quantize
from edgeprune.profiles import board as boards

INT8 = (Export(), Quantize(precision="int8", method="minmax"), Dialect())


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    local.look.cache_clear()
    yield
    local.look.cache_clear()


def standing_in(folder: Path, monkeypatch: pytest.MonkeyPatch, manifest: str) -> None:
    where = packages(folder / "packages", manifest)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")]))
    for module in (tensorrt_api, gpu):
        monkeypatch.setattr(module, "installed", lambda: "there")
    trt = Trt(manifest)
    monkeypatch.setattr(tensorrt_api, "load", lambda: trt)
    monkeypatch.setattr(execution, "open_gpu", lambda: CudaBindings(Cuda()))


def build(out: Path, **more: Any) -> edgeprune.Build:
    asked = {**arguments(**more), "out": out, "target": "nvidia-gpu", "passes": INT8, "max_accuracy_drop": 0.9}
    asked.pop("cost", None)
    return edgeprune.compile(**asked)


@pytest.mark.parametrize(("manifest", "typing"), [("tensorrt-8.6.0", "weak"), ("tensorrt-11.4", "strong")])
def test_an_engine_is_scored_timed_and_kept(
    manifest: str, typing: str, at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(tmp_path, monkeypatch, manifest)
    made = build(tmp_path / "out")
    report = made.report
    assert (report.verdict, report.basis) == ("met", "measured") and report.engine is not None
    assert list(report.target["typing"]) == [typing]
    assert report.engine.builder == "local" and report.engine.version == report.target["version"]
    assert tuple(report.engine.compute_capabilities) == ("8.9",) and report.engine.precisions["int8"] >= 1
    assert ("--strong" in report.engine.command) == (typing == "strong")
    assert report.result is not None and report.result.measurement.source == "measured"
    assert report.result.measurement.conditions["runtime"] == "tensorrt"
    assert report.result.measurement.conditions["version"] == report.engine.version
    assert report.result.measurement.conditions["processor"] == "SYNTHETIC GPU"
    assert any("compute capability 8.9" in note and report.engine.version in note for note in report.notes)
    assert any("python -m edgeprune.engines.local_child build model.onnx" in note for note in report.notes)
    graph = (made.directory / "model.onnx").read_bytes()
    assert (made.directory / "model.engine").read_bytes() == b"SYNTHETIC" + graph, "the graph that it was built of"
    assert all(finding.held for finding in verify(made.directory, Silent()))
    board = boards.load("nvidia-gpu").model_copy(update={"typing": (typing,), "version": report.engine.version})
    assert lint(onnx.load(made.directory / "model.onnx"), board) == []
    assert not MEMORY, "every engine gave its memory back"


def test_scores_of_one_version_are_not_another_s(at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really = Workshop.open
    monkeypatch.setattr(Workshop, "open", lambda self, model: (opened.append(model.runtime), really(self, model))[1])
    counts = []
    for i, manifest in enumerate(("tensorrt-8.5.3", "tensorrt-8.6.0", "tensorrt-8.6.0")):
        local.look.cache_clear()
        standing_in(tmp_path / str(i), monkeypatch, manifest)
        build(tmp_path / f"out{i}")
        counts.append(opened.count(""))
        opened.clear()
    assert counts[0] == counts[1] > 0 and counts[2] == 0


def test_the_bench_is_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(tmp_path, monkeypatch, "tensorrt-10.13")
    bench = bench_for(boards.load("nvidia-gpu"))
    bench.close()
    assert isinstance(bench, Here) and bench.board.version == "10.13.0.35" and bench.source == "measured"


def test_layers_are_timed_by_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(tmp_path, monkeypatch, "tensorrt-8.6.0")
    onnx.save(graph(QDQ), tmp_path / "graph.onnx")
    backend, board = find.find("backends", "tensorrt")(), boards.load("nvidia-gpu")
    model = OnnxModel(tmp_path / "graph.onnx", ModelSpec((1, 2, 4, 4), (0.0, 0.0), (1.0, 1.0)))
    artifact: Artifact = backend.emit(model, board, tmp_path / "out")
    layers = backend.layer_times(artifact, 1, 3)
    assert [(x.name, x.op, x.ms) for x in layers][-1] == ("conv", "CaskConvolution", 0.25)
    assert sum(x.share for x in layers) == pytest.approx(1.0)
    with backend.open(artifact, 1) as runner:
        assert runner({"input": np.zeros((1, 2, 4, 4), np.float32)})["output"].shape == (1, 2, 4, 4)


@pytest.mark.skipif(isinstance(local.look(), local.Found), reason="this machine has TensorRT and a GPU")
def test_without_a_gpu_it_ends_with_a_graph_and_the_reason(at: Path, tmp_path: Path) -> None:
    """Nothing stands in for anything here."""
    made = build(tmp_path / "out")
    report, reason = made.report, local.look()
    assert report.engine is None and not (made.directory / "model.engine").exists()
    assert f"no engine was built: {reason}" in report.notes
    assert any(note.startswith("where TensorRT and its GPU are, the engine is built by: ") for note in report.notes)
    assert report.result is not None and report.result.measurement.source != "measured"
    bench = bench_for(boards.load("nvidia-gpu"))
    bench.close()
    assert isinstance(bench, Estimate)
    backend = find.find("backends", "tensorrt")()
    assert backend.elsewhere(boards.load("nvidia-gpu")) == reason and backend.version() is None
    with pytest.raises(Lacking, match="engines of TensorRT cannot be run here: no engine was built"):
        backend.open(
            backend.emit(OnnxModel.read(made.directory / "model.onnx"), boards.load("nvidia-gpu"), tmp_path / "again"),
            1,
        )
