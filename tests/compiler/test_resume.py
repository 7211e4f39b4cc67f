"""Builds that are ended by force or from the keyboard, and then run again, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import arguments

import edgeprune
from edgeprune.passes.base import Silent
from edgeprune.report import Report

TESTS = Path(tiny.__file__).parent


class Machine:
    """Starts the same command again and again, with one cache and one list of what was finished."""

    def __init__(self, inputs: Path, folder: Path) -> None:
        self.inputs, self.out, self.events = inputs, folder / "out", folder / "events"
        self.events.touch()
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        self.environment = {**os.environ, "EDGEPRUNE_CACHE": str(folder / "cache"), "TINY_EVENTS": str(self.events),
                            "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}  # fmt: skip

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, tiny.__file__, *tiny.COMMAND, "--out", str(self.out), *options]
        return subprocess.Popen(
            command, cwd=self.inputs, env={**self.environment, **environment}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def finished(self) -> list[str]:
        return self.events.read_text(encoding="utf-8").splitlines()

    def kill_after(self, more: int) -> None:
        """Start a build and end it with SIGKILL as soon as it has finished so many evaluations and epochs more."""
        enough = len(self.finished()) + more
        with self.start("--quiet") as process:
            until = time.monotonic() + 120
            while len(self.finished()) < enough:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL


def test_killed_and_interrupted_builds_go_on_where_they_were(inputs: Path, built: Any, tmp_path: Path) -> None:
    machine = Machine(inputs, tmp_path)
    for more in (2, 9):
        machine.kill_after(more)
        assert not (machine.out / "manifest.json").exists()

    with machine.start(TINY_INTERRUPT="epoch") as process:
        said, complained = process.communicate(timeout=120)
    assert (process.returncode, said) == (130, "")
    assert complained.splitlines()[-1] == "interrupted; run the same command again to resume"
    assert "Traceback" not in complained
    assert not machine.out.exists()

    with machine.start("--json") as process:
        said, complained = process.communicate(timeout=120)
    assert process.returncode == 0, complained

    done = Counter(line for line in machine.finished() if not line.startswith("timing"))
    assert {line.partition(" ")[0] for line in done} == {"evaluation", "epoch"}
    assert [line for line, times in done.items() if times > 1] == []
    report = Report.from_json(said)
    assert report.search is not None and report.search.resumed >= 1  # how many hangs on when the kills came
    # --cost macs: no clock decides, so it is the build that nobody disturbed, to the byte
    for name in ("model.onnx", "model.safetensors", "recipe.json"):
        assert (machine.out / name).read_bytes() == (built.directory / name).read_bytes(), name
    assert report.search.evaluations == built.report.search.evaluations
    assert report.search.best == built.report.search.best


def test_the_same_command_again_computes_nothing_and_measures_anew(
    built: Any, at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(built.cache))
    journals = {path: path.read_bytes() for path in (built.cache / "journals").iterdir()}
    said: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "note", said.append)
    report = edgeprune.compile(**arguments(out=tmp_path / "out"), progress=progress).report
    assert [(s.name, s.candidate) for s in report.steps if not s.cached] == []
    assert "quantized-only: from the cache: export, quantize" in said
    assert [s.name for s in report.steps] == [s.name for s in built.report.steps]
    assert clock.calls == [tuple(c.name for c in report.candidates)]
    assert report.result.measurement.conditions == {"session": 1}
    assert {path: path.read_bytes() for path in (built.cache / "journals").iterdir()} == journals
    for name in ("model.onnx", "model.safetensors", "recipe.json"):
        assert (tmp_path / "out" / name).read_bytes() == (built.directory / name).read_bytes(), name


def test_a_decision_on_the_clock_is_remembered_and_its_figure_is_not(
    at: Path, tmp_path: Path, clock: tiny.Clock
) -> None:
    options = {"cost": "measured", "max_latency": "0.5x", "max_accuracy_drop": 0.9, "epochs": 0, "agent": "uniform"}
    first = edgeprune.compile(**arguments(out=tmp_path / "out", **options)).report
    decisions = len(clock.calls) - 1
    assert decisions > 1
    calls = len(clock.calls)
    again = edgeprune.compile(**arguments(out=tmp_path / "out", **options)).report
    assert len(clock.calls) == calls + 1
    assert again.result.measurement.conditions != first.result.measurement.conditions
    assert again.artifacts == first.artifacts


def test_a_folder_that_was_cut_off_while_writing_is_built_again(
    built: Any, at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated result in the store is not believed, and computing it again gives the same build."""
    import shutil

    cache = tmp_path / "cache"
    shutil.copytree(built.cache, cache)
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(cache))
    torn = [path for path in cache.rglob("model.safetensors")]
    for path in torn:
        path.write_bytes(path.read_bytes()[:-1])
    report = edgeprune.compile(**arguments(out=tmp_path / "out")).report
    assert {s.name for s in report.steps if not s.cached} == {"prune", "sparsify", "finetune"}
    assert report.search.resumed == report.search.evaluations
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (built.directory / "model.onnx").read_bytes()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]["model.onnx"]
