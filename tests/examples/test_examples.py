"""The examples' networks, dataset and trained weights do what their READMEs say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgeprune.model import ModelSpec, TorchModel
from edgeprune.tasks.classification import Classification

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{Path(path).stem}", EXAMPLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_model(module: nn.Module) -> TorchModel:
    config = module.pretrained_cfg
    shape = (1, *config["input_size"])
    return TorchModel(module.eval(), ModelSpec(shape, config["mean"], config["std"]), (torch.randn(shape),))


@pytest.fixture(scope="module")
def digits_data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    load("digits/prepare.py").prepare(path)
    return path


def test_the_digits_are_split_by_class_without_overlap(digits_data):
    data = np.load(digits_data)
    assert np.bincount(data["y_train"]).tolist() == [300] * 10 and np.bincount(data["y_test"]).tolist() == [200] * 10
    assert data["x_train"].dtype == np.uint8 and data["x_train"].shape == (3000, 28, 28)
    train = {image.tobytes() for image in data["x_train"]}
    assert len(train) == 3000 and not any(image.tobytes() in train for image in data["x_test"])


def test_preparing_twice_gives_the_same_arrays_and_leaves_nothing_behind(digits_data, tmp_path):
    load("digits/prepare.py").prepare(tmp_path / "deep" / "digits.npz")
    again, first = np.load(tmp_path / "deep" / "digits.npz"), np.load(digits_data)
    assert all(np.array_equal(again[k], first[k]) for k in first.files)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["digits.npz"]


def test_the_shipped_digits_weights_reach_98_percent(digits_data):
    weights = EXAMPLES / "digits" / "digits.safetensors"
    model = as_model(load("digits/model.py").digits())
    model.module.load_state_dict(load_file(weights))
    model.verify()
    task = Classification.open(digits_data, model.spec)
    assert [s.n for s in task.splits()] == [3000, 1000, 1000]
    assert task.score(model.predict, "test").value >= 0.98
    assert task.score(model.predict, "search").value >= 0.98
    assert weights.stat().st_size < 2_000_000
    assert sum(isinstance(m, nn.Conv2d) for m in model.module.modules()) == 6
    assert 0.25e6 < model.parameters() < 0.35e6


def test_training_reads_the_training_digits_only_and_repeats_itself(digits_data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = np.load(digits_data)
    np.savez(tmp_path / "few.npz", **{k: data[k][::15] for k in data.files})
    script = load("digits/train.py")
    spec = as_model(load("digits/model.py").digits()).spec
    task = Classification.open(tmp_path / "few.npz", spec, batch=50)
    monkeypatch.setattr(Classification, "score", lambda *a, **k: pytest.fail("looked at the evaluation digits"))
    states = [script.train(task, epochs=1).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_distortion_moves_the_image_and_keeps_its_kind(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = load("digits/train.py")
    images = torch.zeros(16, 1, 28, 28)
    images[:, :, 8:20, 12:16] = 1.0
    out = script.distorted(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape and out.min() >= 0.0 and out.max() <= 1.0
    assert not torch.equal(out[0], out[1])
    assert (out.sum((1, 2, 3)) / images.sum((1, 2, 3)) - 1).abs().max() < 0.35


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 269_722), ("resnet56", 853_018)])
def test_cifar_resnets_hold_the_published_layout(data_pack, name, parameters):
    model = as_model(getattr(load("cifar10/resnet.py"), name)())
    model.module.load_state_dict(load_file(data_pack / "weights" / f"cifar10_{name}.safetensors"))
    model.verify()
    assert model.parameters() == parameters


def test_resnet20_scores_what_was_published(data_pack):
    model = as_model(load("cifar10/resnet.py").resnet20())
    model.module.load_state_dict(load_file(data_pack / "weights" / "cifar10_resnet20.safetensors"))
    task = Classification.open(data_pack / "cifar10", model.spec)
    assert [s.n for s in task.splits()] == [20000, 5000, 5000]
    assert task.spec().classes[0] == "airplane" and len(task.spec().classes) == 10
    # 91.73 % on all 10,000; three standard errors of 250 images are 5.2 points
    assert task.score(model.predict, "test", range(250)).value == pytest.approx(0.9173, abs=0.052)


@pytest.mark.parametrize(("name", "blocks"), [("resnet32", 5), ("resnet44", 7), ("resnet110", 18)])
def test_deeper_resnets_have_6n_plus_2_layers(name, blocks):
    module = getattr(load("cifar10/resnet.py"), name)()
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(module.layer2) == blocks and len(layers) == 6 * blocks + 2


def test_inner_channels_may_be_cut_and_blocks_replaced():
    module = load("cifar10/resnet.py").resnet20().eval()
    block = module.layer2[0]
    block.conv1 = nn.Conv2d(16, 5, 3, 2, 1, bias=False)
    block.bn1 = nn.BatchNorm2d(5).eval()
    block.conv2 = nn.Conv2d(5, 32, 3, 1, 1, bias=False)
    module.layer3[1] = nn.Identity()
    assert module(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(torch.export.export(module, (x,)).module()(x), module(x), atol=1e-5)


def test_the_shortcut_takes_every_second_pixel_and_pads_both_sides():
    block = load("cifar10/resnet.py").resnet20().layer2[0]
    x = torch.randn(1, 16, 8, 8)
    out = block.shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and not out[:, :8].any() and not out[:, 24:].any()
