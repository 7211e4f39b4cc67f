"""Builds for targets that are another machine: estimated, on a board behind a real sshd, killed on the way, ahead of
time."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from compiler.conftest import arguments
from loopback import Sshd, real, tools

import edgeprune
from edgeprune.compiler.verify import verify
from edgeprune.dialects.conform import conform, lint
from edgeprune.errors import BadOption
from edgeprune.passes.base import Silent
from edgeprune.passes.dialect import Dialect
from edgeprune.passes.export import Export
from edgeprune.passes.quantize import Quantize
from edgeprune.profiles import board as boards

INT8 = (Export(), Quantize(precision="int8", method="minmax"), Dialect())
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd") / "own", path=tools(tmp_path_factory.mktemp("bin"), "8.5.2"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def way(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The board's URL, known to the ``ssh`` on the PATH."""
    monkeypatch.setenv("PATH", sshd.client(tmp_path / "client"))
    return sshd.url


def build(out: Path, **more: Any) -> edgeprune.Build:
    asked = {**arguments(**more), "out": out}
    asked.pop("cost", None)
    return edgeprune.compile(**asked)


def test_a_board_that_is_nowhere_is_estimated(at: Path, tmp_path: Path) -> None:
    made = build(tmp_path / "out", target="jetson-xavier", passes=INT8, max_accuracy_drop=0.9)
    report = made.report
    assert (report.verdict, report.basis) == ("met", "estimated")
    assert report.result is not None and report.result.measurement.source == "estimated"
    assert report.result.measurement.conditions["method"] == "roofline"
    assert report.engine is None and not (made.directory / "model.engine").exists()
    [command] = [note for note in report.notes if note.startswith("on the board, the engine is built by: ")]
    assert "/usr/src/tensorrt/bin/trtexec --onnx=model.onnx" in command and "--int8" in command
    assert any("no --board says where it is" in note for note in report.notes)
    proto = onnx.load(made.directory / "model.onnx")
    assert lint(proto, boards.load("jetson-xavier")) == [] and proto.opset_import[0].version <= 17


def test_an_estimate_is_no_measurement(at: Path, tmp_path: Path) -> None:
    made = build(tmp_path / "out", target="jetson-xavier", passes=INT8, max_latency="5x", require_measured=True,
                 max_accuracy_drop=0.9)  # fmt: skip
    assert made.report.verdict == "not-met"
    [latency] = [row for row in made.report.budget if row.quantity == "latency"]
    assert (latency.basis, latency.held) == ("estimated", True)


@real
def test_onnx_runtime_on_a_board(at: Path, tmp_path: Path, way: str, sshd: Sshd) -> None:
    made = build(tmp_path / "out", target="raspberry-pi-4", board=way, passes=(Export(),))
    assert made.report.result is not None
    found = made.report.result.measurement
    assert found.source == "measured" and found.latency_ms is not None and found.latency_ms.p99 is not None
    assert found.conditions["target"] == "raspberry-pi-4" and found.conditions["machine"]
    assert found.energy_source == "unavailable" and found.energy_mj is None
    assert any("differ from this machine's by" in note for note in made.report.notes)
    assert [p.name for p in sshd.home.rglob("*")] == [".edgeprune"]


@real
def test_tensorrt_on_a_board(at: Path, tmp_path: Path, way: str, sshd: Sshd) -> None:
    """The stand-in for trtexec is SYNTHETIC; the way there, the lease and the files are real."""
    made = build(tmp_path / "out", target="jetson-xavier", board=way, passes=INT8, max_accuracy_drop=0.9)
    report = made.report
    assert (report.verdict, report.basis) == ("met", "measured") and report.engine is not None
    assert report.engine.builder == "trtexec" and report.engine.version == "8.5.2"
    assert report.engine.precisions["int8"] >= 1 and all(layer.ms for layer in report.engine.layers)
    assert "--int8" in report.engine.command
    assert report.result is not None and report.result.measurement.latency_ms is not None
    assert report.result.measurement.latency_ms.p99 is not None
    listed = {row.path for row in report.artifacts}
    assert {"model.onnx", "model.engine"} <= listed
    assert all(finding.held for finding in verify(made.directory, Silent()))
    (made.directory / "model.engine").write_bytes(b"another")
    assert not all(finding.held for finding in verify(made.directory, Silent()))
    assert [p.name for p in sshd.home.rglob("*")] == [".edgeprune"]


@real
def test_killed_while_a_file_is_on_its_way(at: Path, tmp_path: Path, sshd: Sshd) -> None:
    """kill -9 in the middle of a transfer: nothing where the artifacts go, one folder there, and the next run ends."""
    path = sshd.client(tmp_path / "client")
    murder = tmp_path / "murder"
    murder.mkdir()
    (murder / "ssh").write_text(
        f'#!/bin/sh\ncase "$*" in *"cat > "*.onnx*) head -c 100 | {shutil.which("ssh", path=path)} "$@"; '
        f"kill -9 $PPID;; esac\nexec {shutil.which('ssh', path=path)} \"$@\"\n"
    )
    (murder / "ssh").chmod(0o755)
    asked = arguments()
    command = [sys.executable, "-m", "edgeprune", "compile", asked["model"], "--arch", asked["arch"], "--input",
               "1x3x12x12", "--target", "raspberry-pi-4", "--board", sshd.url, "--out", str(tmp_path / "out"),
               "--quiet"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, env={**environment, "PATH": f"{murder}:{path}"}, capture_output=True, timeout=300)
    assert first.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "model.onnx").exists()
    [folder] = sshd.home.iterdir()
    left = sorted(p.name for p in folder.iterdir())
    assert folder.name == ".edgeprune" and "lock" in left and len(left) == 2
    assert [p.name for p in folder.rglob("*.part")], "the file was on its way"
    again = subprocess.run(command, env={**environment, "PATH": path}, capture_output=True, timeout=300, text=True)
    assert again.returncode == 0, again.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["result"]["measurement"]["source"] == "measured"
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_an_engine_ahead_of_time_of_an_earlier_build(at: Path, tmp_path: Path) -> None:
    """A build of int8 on this machine becomes an engine of the same int8 layers, without its images."""
    first = build(tmp_path / "first", passes=INT8[:2])
    made = edgeprune.compile(first.directory, arch="net.py:net", target="rtx", out=tmp_path / "out")
    engine = made.report.engine
    assert engine is not None and engine.precisions.get("int8", 0) >= 1 and engine.layers
    assert made.report.result is not None and made.report.result.precisions == engine.precisions
    proto = onnx.load(made.directory / "model.onnx")
    for name in boards.names():
        if boards.load(name).backend.startswith("tensorrt"):
            assert lint(proto, boards.load(name)) == [], name
    assert conform(proto, boards.load("jetson-nano")) == []


def test_a_board_for_a_target_that_is_here(at: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="--board is for a target that is another machine; host-cpu is not measured by"):
        build(tmp_path / "out", board="ssh://pi@board")
    assert not (tmp_path / "out").exists()
