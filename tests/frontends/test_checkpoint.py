"""What loads, what it becomes, and what is said when weights and network do not fit."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.errors import BadModel, BadOption, UnsafeModel
from edgeprune.frontends.checkpoint import Source, load, merge
from edgeprune.model import ModelSpec

ARCH = '''
from torch import nn

pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.9,
                  "interpolation": "bilinear"}


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


def net():
    return Net(3)


def five():
    return Net(5)
'''


@pytest.fixture
def arch(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(ARCH)
    return f"{tmp_path / 'nets.py'}:net"


def weights(classes: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "bn.weight": (4,), "bn.bias": (4,),
              "bn.running_mean": (4,), "fc.weight": (classes, 4), "fc.bias": (classes,)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return made | {"bn.running_var": torch.ones(4), "bn.num_batches_tracked": torch.tensor(3)}


def wrapped(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def whole() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
                                     fc=nn.Linear(4, 3)))


def test_safetensors_with_an_architecture(arch: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights(), path)
    loaded = load(Source(path, arch), None)
    model = loaded.model
    assert (loaded.kind, loaded.notes) == ("safetensors", ())
    assert model.spec == ModelSpec((1, 3, 8, 8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "crop 0.9 bilinear")
    assert loaded.files == {"model": sha256(path.read_bytes()).hexdigest(), "arch": sha256(ARCH.encode()).hexdigest()}
    assert torch.equal(model.module.get_parameter("conv.weight"), weights()["conv.weight"])
    assert not model.module.training and all(p.requires_grad for p in model.module.parameters())
    assert torch.equal(model.inputs[0], torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "note"),
    [
        (weights(), None),
        ({"state_dict": wrapped("module.", weights()), "epoch": 3, "args": argparse.Namespace(lr=0.1)}, "state_dict"),
        ({"model": weights(), "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"params": [0]}]}}, "model"),
        ({"model": wrapped("_orig_mod.module.", weights())}, "model"),
        ({"model_state_dict": weights(), "ema": None}, "model_state_dict"),
        ({"model": {}, "model_ema": wrapped("module.", weights()) | {"n_averaged": torch.tensor(1)}}, "model_ema"),
        ({"checkpoint": 1, "module": {"state_dict": weights()}}, "module.state_dict"),
    ],
    ids=["bare", "DataParallel", "optimizer", "compiled", "no ema", "averaged", "nested"],
)
def test_state_dicts_and_their_wrappers(
    content: object, note: str | None, legacy: bool, arch: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load(Source(path, arch), None)
    assert loaded.kind == "state-dict"
    assert loaded.notes == (() if note is None else (f"took the weights under {note!r} of {path}",))
    assert torch.equal(loaded.model.module.get_parameter("fc.weight"), weights()["fc.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_with_a_note(dtype: torch.dtype, arch: str, tmp_path: Path) -> None:
    torch.save({k: v.to(dtype) if v.is_floating_point() else v for k, v in weights().items()}, tmp_path / "w.pt")
    loaded = load(Source(tmp_path / "w.pt", arch), None)
    name = str(dtype).removeprefix("torch.")
    assert loaded.notes == (f"the weights are stored as {name}; they were converted to float32",)
    assert {p.dtype for p in loaded.model.module.parameters()} == {torch.float32}


def test_a_pickled_module(tmp_path: Path) -> None:
    module = whole().half().train().requires_grad_(False)
    torch.save({"model": module}, tmp_path / "m.pt")
    loaded = load(Source(tmp_path / "m.pt", None), (2, 3, 9, 9))
    assert loaded.kind == "pickle" and list(loaded.files) == ["model"]
    assert loaded.notes[1:] == ("the weights are stored as float16; they were converted to float32",)
    assert loaded.model.inputs[0].shape == (2, 3, 9, 9)
    expected = module.float().eval()(*loaded.model.inputs)
    assert torch.equal(loaded.model.module(*loaded.model.inputs), expected)
    assert all(p.requires_grad for p in loaded.model.module.parameters())


def test_a_pickled_module_of_an_architecture_gives_its_weights(arch: str, tmp_path: Path) -> None:
    torch.save(whole(), tmp_path / "m.pt")
    with pytest.raises(BadModel, match=r"it lacks bn\.weight, bn\.bias, bn\.running_mean, bn\.running_var; name the "
                                       "architecture"):
        load(Source(tmp_path / "m.pt", arch), None)


def test_a_pickled_module_of_torchvision(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.save(models.mobilenet_v3_small(num_classes=4), tmp_path / "m.pt")
    assert load(Source(tmp_path / "m.pt", None), (1, 3, 32, 32)).model.spec.input_shape == (1, 3, 32, 32)


class Own(nn.Module):
    """A class edgeprune does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def test_an_unknown_class_is_named_and_may_be_trusted(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(Own(), path)
    with pytest.raises(UnsafeModel, match=rf"it names {__name__}\.Own; save its weights alone"):
        load(Source(path, None), (1, 3, 2, 2))
    loaded = load(Source(path, None, trust_pickle=True), (1, 3, 2, 2))
    assert loaded.notes == (f"--trust-pickle: {path} was free to run code of its own while it was loaded",)


def test_a_module_of_another_version_is_refused_plainly(tmp_path: Path) -> None:
    module = whole()
    del module.conv.__dict__["_modules"]
    torch.save(module, tmp_path / "m.pt")
    with pytest.raises(BadModel, match=r"holds a module of another version of its class \(AttributeError: "):
        load(Source(tmp_path / "m.pt", None), (1, 3, 8, 8))


def without(*names: str) -> dict[str, Tensor]:
    return {k: v for k, v in weights().items() if k not in names}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("conv.bias", "fc.bias"), "it lacks conv.bias, fc.bias; name the architecture these weights were "
                                          "trained with"),
        (weights() | {f"extra.{i}": torch.zeros(1) for i in range(6)},
         "it also has extra.0, extra.1, extra.2, extra.3 and 2 more; name the architecture these weights were trained "
         "with"),
        (weights() | {"conv.weight": torch.zeros(4, 3, 5, 5)},
         "shapes differ in conv.weight (conv.weight is 4x3x5x5 in the file and 4x3x3x3 in the network); name the "
         "architecture "
         "these weights were trained with"),
        (weights(10), "its head 'fc' has 10 classes and the network's has 3; give a factory, file.py:factory, that "
                      "builds it "
                      "with 10"),
    ],
    ids=["missing", "unexpected", "shape", "classes"],
)
def test_weights_that_do_not_fit(state: dict[str, Tensor], message: str, arch: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(BadModel) as caught:
        load(Source(tmp_path / "w.pt", arch), None)
    assert str(caught.value) == f"{tmp_path / 'w.pt'} does not fit --arch {arch}: {message}"


def test_counters_may_be_missing(arch: str, tmp_path: Path) -> None:
    torch.save(without("bn.num_batches_tracked") | {"total_ops": torch.zeros(1)}, tmp_path / "w.pt")
    assert load(Source(tmp_path / "w.pt", arch), None).notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (weights(), "holds the weights of a network but not the network; name it with --arch timm:NAME, "
                    "torchvision:NAME, ultralytics:NAME or "
                    "file.py:factory"),
        ({"lr": 0.1, "epoch": 2}, "holds no weights that can be found (its keys: 'lr', 'epoch'); save "
                                  "module.state_dict() alone"),
        ({}, "holds no weights that can be found (its keys: none); save module.state_dict() alone"),
        ([1, 2], "holds a list, not a network or its weights; save module.state_dict()"),
    ],
    ids=["no arch", "no weights", "nothing", "list"],
)
def test_what_is_no_network(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BadModel) as caught:
        load(Source(tmp_path / "w.pt", None), (1, 3, 8, 8))
    assert str(caught.value) == f"{tmp_path / 'w.pt'} {message}"


def test_nan_weights_are_refused(arch: str, tmp_path: Path) -> None:
    save_file(weights() | {"fc.bias": torch.full((3,), torch.nan)}, tmp_path / "w.safetensors")
    with pytest.raises(BadModel, match=r"hold NaN or infinity, first in 'fc\.bias'"):
        load(Source(tmp_path / "w.safetensors", arch), None)


def test_random_weights_are_said_to_be_random(arch: str) -> None:
    loaded = load(Source(None, arch), None, classes=3)
    assert (loaded.kind, list(loaded.files)) == ("random", ["arch"])
    assert loaded.notes == (
        f"--arch {arch} without a model file: the weights are random, so the figures say nothing about accuracy",
    )


def test_the_number_of_classes_is_checked(arch: str) -> None:
    with pytest.raises(BadModel) as caught:
        load(Source(None, arch), None, classes=4)
    assert str(caught.value) == "the model gives 3 classes but the data has 4; give the data it is for"


def test_nothing_named() -> None:
    with pytest.raises(BadOption, match=r"^name a model file, or an architecture with --arch timm:NAME"):
        load(Source(None, None), None)


def test_cifar_weights_load_into_the_example(data_pack: Path) -> None:
    arch = f"{Path(__file__).parents[2] / 'examples' / 'cifar10' / 'resnet.py'}:resnet20"
    loaded = load(Source(data_pack / "weights" / "cifar10_resnet20.safetensors", arch), None)
    assert loaded.model.parameters() == 269_722 and loaded.model.spec.input_shape == (1, 3, 32, 32)


DATA = ModelSpec((1, 3, 32, 32), (0.1,) * 3, (0.2,) * 3, "none", classes=("a", "b"))
DECLARED = ModelSpec((1, 3, 224, 224), (0.5,) * 3, (0.5,) * 3, "crop 0.875 bicubic")


@pytest.mark.parametrize(
    ("asked", "data", "declared", "expected"),
    [
        (None, None, DECLARED, DECLARED),
        (None, DATA, DECLARED, DATA),
        ((1, 3, 64, 64), None, DECLARED, ModelSpec((1, 3, 64, 64), (0.5,) * 3, (0.5,) * 3, "crop 0.875 bicubic")),
        ((2, 3, 64, 64), DATA, DECLARED, ModelSpec((2, 3, 64, 64), (0.1,) * 3, (0.2,) * 3, "none", classes=("a", "b"))),
        ((1, 3, 8, 8), None, None, ModelSpec((1, 3, 8, 8))),
        ((1, 1, 8, 8), None, None, ModelSpec((1, 1, 8, 8), (0.5,), (0.5,))),
    ],
)
def test_who_decides_the_spec(
    asked: tuple[int, ...] | None, data: ModelSpec | None, declared: ModelSpec | None, expected: ModelSpec
) -> None:
    assert merge(asked, data, declared) == expected


def test_a_shape_nobody_knows() -> None:
    with pytest.raises(BadOption) as caught:
        merge(None, None, None)
    assert str(caught.value) == (
        "neither data nor architecture tell the input shape; give it with --input, such as 1x3x224x224"
    )


@pytest.mark.parametrize("shape", [(1, 3, 8), (0, 3, 8, 8), (1, 3, 8, 8, 8)])
def test_a_shape_that_is_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadOption, match="the input shape is four numbers above zero"):
        merge(shape, None, None)


def test_importing_the_front_ends_is_light() -> None:
    code = "import sys, edgeprune.frontends.checkpoint; print({'timm', 'torchvision', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
