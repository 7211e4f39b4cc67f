"""A build's module back in Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import edgeprune
from edgeprune.errors import BadBuild, BadOption
from edgeprune.frontends import zoo
from edgeprune.passes.export import Export
from edgeprune.passes.prune import Prune


@pytest.fixture
def copy(built: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.directory, tmp_path / "copy"))


def seal(folder: Path) -> None:
    """Write the hashes of what lies in the folder into its manifest, as somebody who tampers with it would."""
    from edgeprune.model import file_digest

    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = file_digest(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def floating(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned build in float precision, made from a module in memory."""
    out = tmp_path_factory.mktemp("floating") / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        patch.setenv("EDGEPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        tiny.install(tiny.Clock(), patch.setattr)
        edgeprune.compile(
            tiny.trained(), data="data.npz", max_macs="0.5x", max_accuracy_drop=0.9, precision="fp32",
            agent="uniform", out=out, **{k: v for k, v in tiny.QUICK.items() if k != "evaluations"},
        )  # fmt: skip
    return out


def test_the_module_computes_what_the_artifact_does(floating: Path) -> None:
    before = tiny.trained()
    module = edgeprune.load(floating, module=before)
    assert not module.training
    assert sum(p.numel() for p in module.parameters()) < 0.7 * sum(p.numel() for p in before.parameters())
    images = tiny.normalised(tiny.images(8, 5)[0])
    session = onnxruntime.InferenceSession(floating / "model.onnx", providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in images])
    with torch.no_grad():
        assert np.abs(module(images).numpy() - expected).max() < 1e-4
    stored = load_file(floating / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in module.state_dict().items())


def test_the_given_module_is_copied(floating: Path) -> None:
    before = tiny.trained()
    untouched = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    edgeprune.load(floating, module=before)
    assert {name: tuple(t.shape) for name, t in before.state_dict().items()} == {
        name: tuple(t.shape) for name, t in untouched.items()
    }
    assert all(torch.equal(untouched[name], tensor) for name, tensor in before.state_dict().items())


def test_a_users_architecture_is_named_again(built: Any, at: Path) -> None:
    module = edgeprune.load(built.directory, arch="net.py:net")
    stored = load_file(built.directory / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in module.state_dict().items())
    with pytest.raises(BadOption, match=r"this build runs the code of net\.py:net; if you trust it, name it again"):
        edgeprune.load(built.directory)


def test_changed_code_is_refused_before_it_runs(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadBuild, match=r"net\.py was changed since this recipe was made; give the file as it was"):
        edgeprune.load(built.directory, arch="net.py:net")


def test_a_build_is_a_model_to_start_from(built: Any, at: Path, tmp_path: Path, clock: tiny.Clock) -> None:
    """What came out of one build is cut again by the next, and both can be loaded and replayed."""
    options = {**tiny.QUICK, "data": "data.npz", "max_accuracy_drop": 0.9, "max_macs": "0.7x", "agent": "uniform",
               "precision": "fp32", "evaluations": 4}  # fmt: skip
    again = edgeprune.compile(built.directory, arch="net.py:net", out=tmp_path / "again", **options)
    assert again.report.baseline.macs == built.report.result.macs
    assert again.report.result is not None and again.report.result.macs <= 0.7 * built.report.result.macs
    assert any("is a build: its model, in float32, is the original here" in note for note in again.report.notes)
    module = edgeprune.load(again.directory, arch="net.py:net")
    stored = load_file(again.directory / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in module.state_dict().items())
    replayed = edgeprune.compile(
        recipe=again.directory, model=built.directory, arch="net.py:net", out=tmp_path / "replayed"
    )
    assert any("has the same sha256" in note for note in replayed.report.notes)


def test_the_code_of_a_builds_architecture_is_named_again(built: Any, at: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"this build runs the code of net\.py:net; if you trust it, name it again"):
        edgeprune.compile(built.directory, out=tmp_path / "b")


def test_a_build_of_another_build_is_refused(built: Any, at: Path, tmp_path: Path, copy: Path) -> None:
    made = edgeprune.compile(
        copy, arch="net.py:net", out=tmp_path / "b", passes=[Prune(), Export()], max_accuracy_drop=None
    )
    state = load_file(copy / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, copy / "model.safetensors")
    with pytest.raises(BadBuild, match="is not the build this one was made from; give it as it was"):
        edgeprune.load(made.directory, arch="net.py:net")


def test_a_module_in_memory_must_be_given(floating: Path) -> None:
    with pytest.raises(BadOption, match=r"this build was made from a module in memory; call load\(…, module=that_mod"):
        edgeprune.load(floating)
    with pytest.raises(edgeprune.BadInput):
        edgeprune.load(floating, module=torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json"])
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes() + b" ")])
def test_tampered_files_are_refused(name: str, damage: Callable[[Path], Any], copy: Path, at: Path) -> None:
    damage(copy / name)
    with pytest.raises(BadBuild, match=rf"{name} is missing or was changed since the build; build again"):
        edgeprune.load(copy, arch="net.py:net")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(cuts={}),
        lambda r: r.update(cuts={"kept": {"stem": 3}, "dropped": []}),
        lambda r: r.update(cuts={"kept": {"stem": [["a"], None]}, "dropped": []}),
        lambda r: r.update(cuts={"kept": {"nothing": [[0], None]}, "dropped": []}),
        lambda r: r.update(cuts={"kept": {}, "dropped": []}),
        lambda r: r.update(input_shape=["x"]),
        lambda r: r.update(input_shape=[1]),
        lambda r: r["request"].pop("arch"),
        lambda r: r["request"].update(arch=7),
        lambda r: r["request"].update(arch=None, model="none.pt"),
    ],
)
def test_a_recipe_that_was_rewritten_with_its_hash_is_still_answered(
    change: Callable[[dict[str, Any]], Any], copy: Path, at: Path
) -> None:
    recipe = json.loads((copy / "recipe.json").read_text())
    change(recipe)
    (copy / "recipe.json").write_text(json.dumps(recipe))
    seal(copy)
    with pytest.raises(edgeprune.BadInput):
        edgeprune.load(copy, arch="net.py:net")


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBuild, match=r"holds no manifest\.json; it is not a finished build"):
        edgeprune.load(tmp_path)


def test_an_architecture_of_the_zoo_needs_no_model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision", reason="the architecture is torchvision's")
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    whole, _ = zoo.build("torchvision:squeezenet1_1", 7)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    edgeprune.compile(
        tmp_path / "w.safetensors", arch="torchvision:squeezenet1_1", input_shape=(1, 3, 64, 64),
        passes=[Prune(ratio=0.5), Export()], out=tmp_path / "b",
    )  # fmt: skip
    (tmp_path / "w.safetensors").unlink()
    module = edgeprune.load(tmp_path / "b")
    assert sum(p.numel() for p in module.parameters()) < 0.6 * sum(p.numel() for p in whole.parameters())
    assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
