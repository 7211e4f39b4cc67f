from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from reports import report

from edgeprune.compiler import verify as module
from edgeprune.compiler.verify import Finding, numbers, read_manifest, verify, write_manifest
from edgeprune.errors import BadBuild, NoSpace
from edgeprune.model import METADATA_KEY, ModelSpec, OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.report import Report


def write_model(path: Path, gain: float = 1.0) -> OnnxModel:
    """Write a one-convolution graph whose output has 4 x 8 x 8 values."""
    weight = (gain * np.random.default_rng(1).standard_normal((4, 3, 3, 3))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["output"], pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, 4, 8, 8))],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = ModelSpec((1, 3, 8, 8))
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    onnx.save(proto, path)
    return OnnxModel(path, spec)


def seal(folder: Path, found: Report, keep_numbers: bool = True) -> None:
    """Write report and manifest over whatever model lies in ``folder``."""
    (folder / "report.json").write_text(found.to_json(), encoding="utf-8")
    (folder / "report.html").write_text("<!doctype html>", encoding="utf-8")
    kept = numbers(OnnxModel.read(folder / "model.onnx")) if keep_numbers else None
    write_manifest(folder, {"model": "ab"}, {"seed": 0}, {"torch": "2"}, 0, kept)


def honest(size: int, **changes: Any) -> Report:
    """A report whose budget rows say what the result says, with the model's real size."""
    base = report()
    assert base.result is not None
    rows = [row.model_copy(update={"found": float(size)}) if row.quantity == "size" else row for row in base.budget]
    return report(**({"budget": rows, "result": base.result.model_copy(update={"size_bytes": size})} | changes))


@pytest.fixture
def build(tmp_path: Path) -> Path:
    model = write_model(tmp_path / "model.onnx")
    seal(tmp_path, honest(model.size_bytes()))
    return tmp_path


def faults(folder: Path) -> list[Finding]:
    return [finding for finding in verify(folder, Silent()) if not finding.held]


def test_an_untouched_build_holds(build: Path) -> None:
    findings = verify(build, Silent())
    assert [f.what for f in findings] == [
        "model.onnx",
        "report.html",
        "report.json",
        "report",
        "model",
        "budget: accuracy-drop",
        "budget: latency",
        "budget: size",
        "verdict",
    ]
    assert all(f.held for f in findings)
    assert not list(build.glob(".*"))


def test_the_manifest_holds_what_was_built_from_what(build: Path) -> None:
    manifest = read_manifest(build)
    assert manifest["schema"] == "edgeprune-manifest/1"
    assert set(manifest["files"]) == {"model.onnx", "report.json", "report.html"}
    assert manifest["files"]["model.onnx"]["bytes"] == (build / "model.onnx").stat().st_size
    assert (manifest["inputs"], manifest["options"], manifest["versions"], manifest["seed"]) == (
        {"model": "ab"},
        {"seed": 0},
        {"torch": "2"},
        0,
    )
    assert len(manifest["numbers"]["output"]) == 16


def test_equal_builds_have_equal_manifests(build: Path) -> None:
    before = (build / "manifest.json").read_bytes()
    (build / "notes of mine.txt").write_text("not part of the build")
    seal(build, honest((build / "model.onnx").stat().st_size))
    assert (build / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["model.onnx", "report.json", "report.html"])
def test_a_missing_file_is_found(build: Path, name: str) -> None:
    (build / name).unlink()
    assert Finding(name, "is missing", 2) in faults(build)


@pytest.mark.parametrize("name", ["model.onnx", "report.html"])
def test_a_changed_file_is_found(build: Path, name: str) -> None:
    with (build / name).open("ab") as file:
        file.write(b"\0")
    assert Finding(name, "was changed since the build: its sha256 differs from the manifest's", 2) in faults(build)


def test_a_truncated_model_is_found_and_does_not_crash(build: Path) -> None:
    (build / "model.onnx").write_bytes((build / "model.onnx").read_bytes()[:100])
    assert {f.what for f in faults(build) if f.exit_code == 2} >= {"model.onnx", "model"}


def test_other_weights_of_the_same_size_are_found_by_their_numbers(build: Path) -> None:
    kept = read_manifest(build)["numbers"]
    write_model(build / "model.onnx", gain=1.01)
    write_manifest(build, {}, {}, {}, 0, kept)
    [fault] = faults(build)
    assert fault.what == "model"
    assert fault.exit_code == 2
    assert "of their spread, and 0.001 is allowed" in fault.detail


def test_rounding_is_not_a_difference(build: Path) -> None:
    kept = read_manifest(build)["numbers"]
    write_model(build / "model.onnx", gain=1.0001)
    write_manifest(build, {}, {}, {}, 0, kept)
    assert faults(build) == []


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["numbers"].pop("output"),
        lambda m: m["numbers"].update(output=["x"]),
        lambda m: m["numbers"].update(seed=-1),
        lambda m: m["numbers"].update(tolerance=None),
        lambda m: m.update(numbers=None),
        lambda m: m["numbers"].update(output=[float("nan")] * 16),
        lambda m: m["numbers"].update(output=[0.0] * 10_000),
    ],
)
def test_damaged_numbers_are_found(build: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(build / "manifest.json", change)
    [fault] = faults(build)
    assert (fault.what, fault.exit_code) == ("model", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema="edgeprune-manifest/9"), "is not an edgeprune-manifest/1"),
        (lambda m: m.pop("files"), "its list of files is not one"),
        (lambda m: m["files"].update({"../secret": {"sha256": "0", "bytes": 1}}), "its list of files is not one"),
        (lambda m: m["files"].update({"recipe.json": {"sha256": 7}}), "its list of files is not one"),
        (lambda m: m.update(numbers=[1]), "its numbers are not numbers"),
    ],
)
def test_a_damaged_manifest_is_refused(
    build: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(build / "manifest.json", change)
    with pytest.raises(BadBuild, match=message):
        verify(build, Silent())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_none_is_refused(build: Path, data: bytes) -> None:
    (build / "manifest.json").write_bytes(data)
    with pytest.raises(BadBuild, match=r"is damaged|is not an edgeprune-manifest/1"):
        verify(build, Silent())


def test_a_folder_that_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBuild, match=r"holds no manifest\.json; it is not a finished build; give a folder that"):
        verify(tmp_path, Silent())
    with pytest.raises(BadBuild, match="is not a folder; give a folder"):
        verify(tmp_path / "nothing", Silent())


def test_a_budget_that_is_not_met_is_3_and_not_a_fault_of_the_build(build: Path) -> None:
    size = (build / "model.onnx").stat().st_size
    rows = [
        row.model_copy(update={"limit": 0.001, "held": False}) if row.quantity == "accuracy-drop" else row
        for row in honest(size).budget
    ]
    seal(build, honest(size, budget=rows, verdict="not-met"))
    assert [(f.what, f.exit_code) for f in faults(build)] == [("budget: accuracy-drop", 3), ("verdict", 3)]


def test_a_verdict_against_the_figures_is_found(build: Path) -> None:
    seal(build, honest((build / "model.onnx").stat().st_size, verdict="not-met"))
    [fault] = faults(build)
    assert (fault.what, fault.detail, fault.exit_code) == ("verdict", "says not-met, but the figures say met", 2)


def test_a_limit_that_was_not_checked_stays_unchecked(build: Path) -> None:
    size = (build / "model.onnx").stat().st_size
    unchecked = {"found": None, "held": None, "basis": "unchecked"}
    rows = [
        row.model_copy(update=unchecked if row.quantity == "accuracy-drop" else {}) for row in honest(size).budget
    ]
    seal(build, honest(size, budget=rows))
    assert Finding("budget: accuracy-drop", "not checked against 0.01") in verify(build, Silent())
    assert faults(build) == []


def test_a_size_the_file_does_not_have_is_found(build: Path) -> None:
    seal(build, report())
    assert [(f.what, f.exit_code) for f in faults(build)] == [("budget: size", 2)]


def test_a_refused_build_has_a_report_and_no_model(tmp_path: Path) -> None:
    refused = report(verdict="infeasible", result=None, budget=[])
    (tmp_path / "report.json").write_text(refused.to_json())
    write_manifest(tmp_path, {}, {}, {}, 0, None)
    assert faults(tmp_path) == [Finding("verdict", "infeasible: no plan could meet the budget", 3)]


def test_a_report_of_another_schema_is_found(build: Path) -> None:
    raw = json.loads((build / "report.json").read_text())
    (build / "report.json").write_text(json.dumps(raw | {"schema": "edgeprune-report/9"}))
    assert Finding(
        "report", "is a edgeprune-report/9, and this version of edgeprune reads edgeprune-report/1", 2
    ) in faults(build)
    (build / "report.json").write_text("{}")
    assert any(
        f.what == "report" and f.detail.startswith("is not a valid edgeprune-report/1") for f in faults(build)
    )


def test_a_full_disk_leaves_the_old_manifest(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (build / "manifest.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpace, match="the disk is full"):
        write_manifest(build, {}, {}, {}, 0, None)
    assert (build / "manifest.json").read_bytes() == before
    assert not list(build.glob(".*"))


def test_numbers_are_repeatable_and_cover_the_spread(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    kept = numbers(model)
    assert kept == numbers(model)
    assert (kept["tolerance"], numbers(model, lowered=True)["tolerance"]) == (0.001, 0.02)
    assert kept["spread"] >= max(kept["output"]) - min(kept["output"]) > 0
    assert module.FILES[0] == "model.onnx"
