"""Replaced activations survive the cache, the recipe and edgeprune.load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import smooth_net
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

import edgeprune
from edgeprune.agents.uniform import Uniform
from edgeprune.passes import activation
from edgeprune.passes.activation import Activation
from edgeprune.passes.export import Export
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.quantize import Quantize
from edgeprune.passes.sparsify import Sparsify


@pytest.fixture
def at(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the smooth network, its weights and the data."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(smooth_net.__file__, folder / "net.py")
    shutil.copy(inputs / "data.npz", folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(smooth_net.net().state_dict(), folder / "net.safetensors")
    monkeypatch.chdir(folder)
    return folder


SEARCH = Sparsify(Uniform(), 4, (("macs", 500_000.0),), "l2", 64)


@pytest.mark.parametrize(
    ("cutting", "replayed"),
    [
        ([Activation("relu")], ["activation"]),
        ([Activation("relu"), SEARCH], ["activation", "recut"]),
        ([SEARCH, Activation("relu")], ["recut", "activation"]),
    ],
    ids=["alone", "before", "after"],
)
def test_a_recipe_gives_the_same_bytes_and_load_the_same_module(
    cutting: list[Any], replayed: list[str], at: Path, tmp_path: Path, clock: tiny.Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def build(out: str, **more: Any) -> Any:
        return edgeprune.compile(
            "net.safetensors", arch="net.py:net", data="data.npz", cost="macs", out=tmp_path / out,
            settings=tiny.QUICK["settings"], **more,
        )  # fmt: skip

    passes = [*cutting, Finetune(epochs=1), Export(), Quantize(precision="fp32")]
    first = build("first", passes=passes)
    recipe = json.loads((tmp_path / "first" / "recipe.json").read_text())
    assert recipe["cuts"]["activations"] == dict.fromkeys(("act", "block.act", "block.inner", "last"), "relu")
    assert [one["pass"] for one in recipe["passes"]] == [*replayed, "finetune", "export", "quantize"]
    cached = build("cached", passes=passes)
    steps = [s for s in cached.report.steps if s.candidate == "result"]
    assert all(s.cached for s in steps) and steps[0].facts == first.report.steps[1].facts
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "empty"))
    again = build("again", recipe=tmp_path / "first")
    for name in ("model.onnx", "model.safetensors"):
        assert (again.directory / name).read_bytes() == (first.directory / name).read_bytes(), name

    module = edgeprune.load(tmp_path / "first", arch="net.py:net")
    assert isinstance(module.block.act, nn.ReLU) and isinstance(module.last, nn.ReLU)
    images = tiny.normalised(tiny.images(8, 5)[0])
    session = onnxruntime.InferenceSession(tmp_path / "first" / "model.onnx", providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(None, {"input": one[None].numpy()})[0] for one in images])
    with torch.no_grad():
        assert np.abs(module(images).numpy() - found).max() < 1e-4


def test_which_activations_were_least_is_replayed_and_not_measured_again(
    at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Activation("relu", share=0.5), Finetune(epochs=1), Activation("relu"), Finetune(epochs=1)]
    given = {"arch": "net.py:net", "data": "data.npz", "cost": "macs", "settings": tiny.QUICK["settings"]}
    edgeprune.compile("net.safetensors", passes=[*steps, SEARCH, Export()], out=tmp_path / "first", **given)
    recipe = json.loads((tmp_path / "first" / "recipe.json").read_text())
    half, rest = (one["options"]["names"] for one in recipe["passes"] if one["pass"] == "activation")
    assert half and rest and sorted(half + rest) == ["act", "block.act", "block.inner", "last"]
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(activation, "harms", lambda *given: pytest.fail("measured again"))
    edgeprune.compile("net.safetensors", recipe=tmp_path / "first", out=tmp_path / "again", **given)
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "first" / "model.onnx").read_bytes()
