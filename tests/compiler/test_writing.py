"""What a build leaves in its folder, and what it leaves when it is stopped on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import arguments

import edgeprune
from edgeprune.budget import Budget, Limit
from edgeprune.compiler import writing
from edgeprune.compiler.request import Request
from edgeprune.compiler.verify import read_manifest, verify
from edgeprune.compiler.writing import _options, request_of
from edgeprune.errors import NoSpace
from edgeprune.passes.base import Silent


def test_a_request_survives_the_recipe() -> None:
    request = Request(
        model=Path("a/b.pt"), arch="net.py:f", trust_pickle=True, data=Path("d"), task="t.py:T",
        input_shape=(1, 3, 8, 8), target="x.toml", budget=Budget(None, Limit(0.5, True), None, Limit(3e7)),
        agent="a2c", evaluations=9, epochs=0, effort="long", precision="int8",
        settings={"finetune": {"lr": "0.01"}}, cost="macs", require_measured=True, threads=2, device="cpu", seed=7,
    )  # fmt: skip
    assert request_of(json.loads(json.dumps(_options(request)))) == request
    assert request_of(json.loads(json.dumps(_options(Request())))) == Request()


def test_the_recipe_holds_decisions_and_no_searches(built: Any) -> None:
    recipe = json.loads((built.directory / "recipe.json").read_text())
    names = [one["pass"] for one in recipe["passes"]]
    assert names[0] == "recut"
    assert not {"prune", "sparsify"} & set(names)
    assert recipe["passes"][0]["options"]["recalibration"] == 64
    assert recipe["inputs"].keys() == {"model", "arch", "original", "data"}
    assert recipe["request"]["model"] == "net.safetensors"
    assert recipe["expect"]["model.onnx"] == built.report.artifacts[0].sha256
    assert read_manifest(built.directory)["inputs"] == recipe["inputs"]


def test_a_real_build_verifies_and_a_tampered_one_does_not(built: Any, tmp_path: Path) -> None:
    assert {f.exit_code for f in verify(built.directory, Silent())} == {0}
    copy = Path(shutil.copytree(built.directory, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes((copy / "report.html").read_bytes())
    wrong = {f.what for f in verify(copy, Silent()) if not f.held}
    assert {"model.onnx", "model", "budget: latency"} - wrong == {"budget: latency"}


@pytest.fixture
def whole(built: Any, tmp_path: Path, at: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An earlier build in the folder that the next one is to write to."""
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(built.cache))
    return Path(shutil.copytree(built.directory, tmp_path / "out"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_build_replaces_the_whole_of_an_earlier_one(whole: Path) -> None:
    (whole / "notes of mine.txt").write_text("mine")
    (whole / ".partial").mkdir()
    (whole / ".partial" / "model.onnx").write_text("of a build that was killed")
    (whole / "report.json").write_text("of an earlier build")
    edgeprune.compile(**arguments(out=whole))
    assert {f.exit_code for f in verify(whole, Silent())} == {0}
    assert (whole / "notes of mine.txt").read_text() == "mine"
    assert not (whole / ".partial").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "report.html", "manifest.json"])
def test_a_full_disk_leaves_the_earlier_build(name: str, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(whole)
    replace = Path.replace

    def full(self: Path, target: Any) -> Any:
        if Path(target) == whole / ".partial" / name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(NoSpace, match=rf"cannot write .*{name}: the disk is full; free some space or choose another"):
        edgeprune.compile(**arguments(out=whole))
    assert content(whole) == before


def test_a_build_that_is_stopped_while_it_moves_is_no_build(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two builds may lie side by side then, so there must be no manifest to vouch for them."""
    replace = Path.replace

    def stopped(self: Path, target: Any) -> Any:
        if Path(target) == whole / "model.safetensors":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        edgeprune.compile(**arguments(out=whole))
    assert not (whole / "manifest.json").exists()
    monkeypatch.undo()


def test_a_folder_that_was_not_there_is_not_left_empty(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing._staged(tmp_path / "new"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
