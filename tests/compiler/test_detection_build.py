"""A YOLOv5 checkpoint and a detection dataset, from one end to the other: with its own classes, and with others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
import tiny_detector
import torch
from click.testing import CliRunner
from torch import nn

import edgeprune
from edgeprune.cli import main
from edgeprune.compiler.driver import Build
from edgeprune.compiler.opening import open_request
from edgeprune.compiler.request import Request
from edgeprune.frontends.checkpoint import Source, load
from edgeprune.model import ModelSpec, OnnxModel, file_digest
from edgeprune.passes.activation import Activation
from edgeprune.passes.base import Silent
from edgeprune.passes.export import Export
from edgeprune.passes.prune import Prune
from edgeprune.report import Report
from edgeprune.tasks.detection import Detection

SETTINGS = {"task": {"batch": "16", "calibration": "16"}, "sparsify": {"recalibration": "16"},
            "transfer": {"epochs": "2"}}  # fmt: skip
QUICK: dict[str, Any] = {
    "effort": "quick", "evaluations": 3, "epochs": 1, "cost": "macs", "agent": "uniform", "settings": SETTINGS,
    "input_shape": (1, 3, 64, 64), "max_macs": "0.6x", "max_accuracy_drop": 0.9,
}  # fmt: skip


class Told(Silent):
    """Keeps what a build says while it runs."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Made:
    """A finished build, what it said, and the cache it left."""

    directory: Path
    report: Report
    notes: list[str]
    cache: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``m.pt`` that knows red, green and blue; the data ``same``, and ``other`` with yellow and red."""
    at = tmp_path_factory.mktemp("detectors")
    tiny_detector.save(at / "m.pt", tiny_detector.trained().half(), opt={"imgsz": 64})
    tiny_detector.write_data(at / "same", train=48, val=32)
    tiny_detector.write_data(at / "other", names=("yellow", "red"), train=32, val=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        tiny.install(tiny.Clock(), patch.setattr)
        yield at


def build(out: Path, cache: Path, data: str, **more: Any) -> Made:
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRUNE_CACHE", str(cache))
        found: Build = edgeprune.compile("m.pt", data=data, out=out, progress=told, **{**QUICK, **more})
    return Made(out, found.report, told.notes, cache)


@pytest.fixture(scope="module")
def same(folder: Path) -> Made:
    return build(folder / "a", folder / "cache", "same/data.yaml")


@pytest.fixture(scope="module")
def other(folder: Path) -> Made:
    return build(folder / "b", folder / "cache", "other", precision="fp32")


@pytest.fixture
def at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    tiny.install(tiny.Clock(), monkeypatch.setattr)
    return folder


# --- its own classes --------------------------------------------------------------------------------------------------


def test_a_detector_is_judged_by_its_map_and_gets_smaller(same: Made) -> None:
    report = same.report
    assert report.verdict in ("met", "not-met")
    assert report.baseline.score is not None and report.baseline.score.metric == "mAP50-95"
    assert report.baseline.score.value > 0.2, "it was trained to find the rectangles"
    assert report.result.macs < 0.6 * report.baseline.macs or report.verdict == "not-met"
    assert {c.name for c in report.candidates} == {"original", "quantized-only", "pruned-quantized", "pruned-only"}
    quantized = next(c for c in report.candidates if c.name == "quantized-only")
    assert quantized.precisions.get("int8", 0) > 0
    assert quantized.score is not None and quantized.score.value > 0.1, "lower precision does not break it"
    assert report.control is None and not any(row["candidate"] == "original" for row in report.learning)
    assert [(s.name, s.n) for s in report.splits] == [("train", 48), ("search", 16), ("test", 16)]
    assert not any("head is trained" in note for note in (*report.notes, *same.notes))


def test_the_folder_holds_everything(same: Made) -> None:
    names = {"model.onnx", "model.safetensors", "recipe.json", "manifest.json", "report.json", "report.html"}
    assert names <= {p.name for p in same.directory.iterdir()}
    assert CliRunner().invoke(main, ["verify", str(same.directory), "--quiet"]).exit_code == 0


def test_what_a_runtime_must_know_travels_with_the_graph(same: Made) -> None:
    spec = OnnxModel.read(same.directory / "model.onnx").spec
    assert spec.classes == ("red", "green", "blue")
    assert spec.head == {
        "format": "yolov5", "strides": [8, 16],
        "anchors": [[[10, 10], [16, 20], [26, 18]], [[22, 30], [34, 30], [44, 44]]],
    }  # fmt: skip
    assert (spec.resize, spec.mean, spec.std, spec.input_shape) == (
        "letterbox 114", (0.0,) * 3, (1.0,) * 3, (1, 3, 64, 64),
    )  # fmt: skip


def test_the_heads_of_the_result_are_whole(same: Made, at: Path) -> None:
    module = edgeprune.load(same.directory)
    assert [conv.out_channels for conv in module.model[-1].m] == [24, 24]
    assert sum(p.numel() for p in module.parameters()) < 0.8 * 74_032


def test_the_command_line_builds_the_same_out_of_the_cache(
    same: Made, at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(same.cache))
    settings = [f"--set={table}.{name}={value}" for table, found in SETTINGS.items() for name, value in found.items()]
    result = CliRunner().invoke(main, [
        "compile", "m.pt", "--data", "same/data.yaml", "--input", "1x3x64x64", "--effort", "quick", "--evaluations",
        "3", "--epochs", "1", "--cost", "macs", "--agent", "uniform", "--max-macs", "0.6x", "--max-accuracy-drop",
        "0.9", "--out", str(tmp_path / "again"), "--quiet", *settings,
    ])  # fmt: skip
    assert result.exit_code == {"met": 0, "not-met": 3}[same.report.verdict], result.stderr
    again = Report.model_validate_json((tmp_path / "again" / "report.json").read_text())
    assert again.steps and all(step.cached for step in again.steps)
    assert file_digest(tmp_path / "again" / "model.onnx") == file_digest(same.directory / "model.onnx")
    assert "mAP50-95" in result.stdout or "mAP" in (tmp_path / "again" / "report.html").read_text()


def test_inspect_lists_what_can_be_pruned(at: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", "m.pt", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["parameters"] == 74_032
    reasons = {row["group"]: row["reason"] for row in found["rows"]}
    assert reasons["model.15.m.0"] == "its channels are the model's outputs" and reasons["model.2.cv1.conv"] == ""


# --- other classes ----------------------------------------------------------------------------------------------------


def test_a_new_head_is_trained_before_anything_is_compiled(other: Made) -> None:
    note = (
        "the model's 3 classes are not the data's (yellow, red): its head is trained for them first; it goes on from "
        "the model's own red"
    )
    assert note in other.notes and note in other.report.notes
    learned = [row for row in other.report.learning if row["candidate"] == "original"]
    assert [row["epoch"] for row in learned] == [0, 1, 2] and learned[0]["loss"] is None
    first = other.report.steps[0]
    assert (first.name, first.candidate) == ("finetune", "original")
    assert first.options["distillation"] == 0.0 and first.options["patience"] == 10
    assert OnnxModel.read(other.directory / "model.onnx").spec.classes == ("yellow", "red")


def test_what_judges_is_held_out_of_train_and_test_is_all_of_val(other: Made) -> None:
    assert [(s.name, s.n) for s in other.report.splits] == [("train", 16), ("search", 16), ("test", 20)]
    assert other.report.splits[1].origin == "held out of train, by scene, seed 0; apart from train"


def test_the_dense_model_trains_on_as_a_control(other: Made) -> None:
    control = other.report.control
    assert control is not None and control.name == "control" and control.score is not None
    assert control.macs == other.report.baseline.macs and (control.score.split, control.score.n) == ("test", 20)
    assert control.name not in {c.name for c in other.report.candidates}
    assert control.measurement.latency_ms is not None


def test_the_loaded_module_is_the_graph_after_a_transfer(other: Made, at: Path) -> None:
    assert_same(edgeprune.load(other.directory), other.directory)


def assert_same(module: nn.Module, directory: Path) -> None:
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    found = session.run(None, {"input": image})[0]
    with torch.no_grad():
        wanted = module(torch.from_numpy(image)).numpy()
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-3


def test_a_replay_with_an_empty_cache_gives_the_same_bytes(other: Made, at: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "empty"))
        again = edgeprune.compile(recipe=other.directory, out=tmp_path / "again")
    assert any("replayed: model.onnx has the same sha256" in note for note in again.report.notes), again.report.notes
    for name in ("model.onnx", "model.safetensors"):
        assert file_digest(tmp_path / "again" / name) == file_digest(other.directory / name)
    assert again.report.steps[0].name == "finetune" and not any(step.cached for step in again.report.steps)


def test_replaced_activations_after_a_transfer_survive_load(other: Made, at: Path, tmp_path: Path) -> None:
    passes = [Activation("relu"), Prune(ratio=0.3), Export()]
    made = build(tmp_path / "c", other.cache, "other", precision="fp32", passes=passes)
    assert made.report.steps[0].cached, "the transfer is another build's too"
    recipe = json.loads((tmp_path / "c" / "recipe.json").read_text())
    assert set(recipe["cuts"]["activations"].values()) == {"relu"}
    module = edgeprune.load(tmp_path / "c")
    assert not any(isinstance(part, nn.SiLU) for part in module.modules())
    assert_same(module, tmp_path / "c")
    spec = ModelSpec.from_json(OnnxModel.read(tmp_path / "c" / "model.onnx").spec.to_json())
    assert spec.classes == ("yellow", "red")


def test_a_task_given_from_python_is_transferred_to_as_well(at: Path) -> None:
    model = load(Source(Path("m.pt"), None), (1, 3, 64, 64)).model
    opened = open_request(Request(), model, Detection.open(Path("other"), model.spec))
    assert opened.transfer and opened.original.spec.classes == ("yellow", "red")
    assert opened.original.module(model.inputs[0]).shape == (1, 3 * 7, 80)
    assert any("its head is trained for them first" in note for note in opened.notes)
    opened = open_request(Request(), model, Detection.open(Path("same"), model.spec))
    assert not opened.transfer and opened.original.digest() == model.digest()


def test_a_replay_on_other_data_is_refused(other: Made, at: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(at / "other", tmp_path / "changed"))
    label = changed / "labels" / "train" / "train000.txt"
    label.write_text(label.read_text().replace(" 0.", " 0.0", 1))
    with pytest.raises(edgeprune.BadBuild, match="the data is not the one this recipe was made from"):
        edgeprune.compile(recipe=other.directory, data=changed, out=tmp_path / "again")
