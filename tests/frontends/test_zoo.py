"""Architectures by name: what is built, what its origin says about its input, and every way a name can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import BadModel, BadOption, MissingPackage
from edgeprune.frontends import zoo
from edgeprune.frontends.checkpoint import Source, load
from edgeprune.model import ModelSpec

FORMS = "timm:NAME, torchvision:NAME, ultralytics:NAME or file.py:factory"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def written(folder: Path, text: str, name: str = "nets.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def test_torchvision() -> None:
    pytest.importorskip("torchvision")
    module, spec = zoo.build("torchvision:squeezenet1_1", 7)
    assert zoo.head(module, "torchvision:squeezenet1_1") == "classifier.1"
    assert module.get_submodule("classifier.1").weight.shape[0] == 7
    assert spec == ModelSpec((1, 3, 224, 224), *IMAGENET, "crop 0.875 bilinear")


@pytest.mark.parametrize(("name", "size", "resize"), [
    ("inception_v3", 299, "crop 0.874269006 bilinear"), ("efficientnet_b1", 240, "crop 0.9375 bicubic"),
])
def test_torchvision_says_how_its_weights_were_judged(name: str, size: int, resize: str) -> None:
    pytest.importorskip("torchvision")
    assert zoo._torchvision_spec(name) == ModelSpec((1, 3, size, size), *IMAGENET, resize)


def test_timm() -> None:
    pytest.importorskip("timm")
    module, spec = zoo.build("timm:tf_efficientnet_lite0", 5)
    assert zoo.head(module, "timm:tf_efficientnet_lite0") == "classifier"
    assert module.get_submodule("classifier").weight.shape[0] == 5
    assert spec == ModelSpec((1, 3, 224, 224), (0.5,) * 3, (0.5,) * 3, "crop 0.875 bicubic")


@pytest.mark.parametrize("arch", ["timm:mobilenetv3_small_050", "torchvision:shufflenet_v2_x0_5"])
def test_a_fine_tuned_head_decides_the_number_of_classes(arch: str, tmp_path: Path) -> None:
    pytest.importorskip(arch.partition(":")[0])
    module, _ = zoo.build(arch, 10)
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "w.pt")
    loaded = load(Source(tmp_path / "w.pt", arch), (1, 3, 64, 64), classes=10).model
    assert loaded.module(*loaded.inputs).shape == (1, 10)
    with pytest.raises(BadModel, match="the model gives 10 classes but the data has 9"):
        load(Source(tmp_path / "w.pt", arch), (1, 3, 64, 64), classes=9)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet18", f"--arch 'resnet18' is not understood; give {FORMS}"),
        ("timm:", f"--arch 'timm:' is not understood; give {FORMS}"),
        ("tim:resnet18",
         f"--arch 'tim:resnet18': 'tim' is neither timm, torchvision, ultralytics nor a .py file; give {FORMS}"),
        ("no/such.py:net", "--arch 'no/such.py:net': there is no file no/such.py"),
        ("timm:resnt18", "timm has no model 'resnt18'; did you mean 'resnet18'?"),
        ("torchvision:resnt18", "torchvision has no classification model 'resnt18'; did you mean 'resnet18'?"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classification model 'fasterrcnn_resnet50_fpn'; "),
    ],
)
def test_names_that_are_wrong(arch: str, message: str) -> None:
    if arch.startswith(("timm:r", "torchvision:")):
        pytest.importorskip(arch.partition(":")[0])
    with pytest.raises(BadOption) as caught:
        zoo.build(arch)
    assert str(caught.value).startswith(message)


def test_a_name_like_no_other_is_answered_briefly() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(BadOption, match=r"'qqqq'; among the \d+ it has are alexnet, ") as caught:
        zoo.build("torchvision:qqqq")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("arch", "extra"), [("timm:resnet18", "timm"), ("torchvision:resnet18", "vision")])
def test_a_missing_package_is_named(arch: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = arch.partition(":")[0]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage) as caught:
        zoo.build(arch)
    assert str(caught.value) == f"--arch {arch} needs {package}; install it with: pip install 'edgeprune[{extra}]'"


HEADER = "import torch\nfrom torch import nn\n"


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("def net(): return 3", BadModel, "--arch {file}:net returned int, not a torch.nn.Module"),
        ("def net(): return nn.Linear", BadModel, "--arch {file}:net returned type, not a torch.nn.Module"),
        ("def net(): raise ValueError('no luck')", BadModel,
         "--arch {file}:net failed (ValueError: no luck); it must return a network when called without arguments"),
        ("def net(classes): return nn.Linear(1, classes)", BadModel,
         "--arch {file}:net failed (TypeError: net() missing 1 required positional argument: 'classes'); it must "
         "return a "
         "network when called without arguments"),
        ("def nets(): return nn.Identity()", BadOption, "{file} has no function 'net'; did you mean 'nets'?"),
        ("net = 3", BadOption, "{file} has no function 'net'; it defines no function"),
        ("import no_such_thing", BadModel, "{file} cannot be imported (ModuleNotFoundError: No module named "
                                           "'no_such_thing')"),
        ("def net(:", BadModel, "{file} cannot be imported (SyntaxError: invalid syntax (nets.py, line 3))"),
        ("net = nn.Identity\npretrained_cfg = 3", BadModel, "{file}: pretrained_cfg must be a mapping with input_size "
                                                            "(C, H, W)"),
        ("net = nn.Identity\npretrained_cfg = {{'input_size': (3, 8)}}", BadModel,
         "{file}: pretrained_cfg is not in timm's convention (not enough values to unpack (expected 3, got 2)); it "
         "holds "
         "input_size (C, H, W), mean, std, crop_pct and interpolation"),
        ("net = nn.Identity\npretrained_cfg = {{'input_size': (3, 8, 8), 'mean': (0.5,)}}", BadModel,
         "{file}: pretrained_cfg is not in timm's convention (mean (0.5,) and std (0.229, 0.224, 0.225) for 3 "
         "channels); it "
         "holds input_size (C, H, W), mean, std, crop_pct and interpolation"),
    ],
)
def test_files_that_are_wrong(body: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    file = written(tmp_path, HEADER + body.replace("{{", "{").replace("}}", "}"))
    with pytest.raises(error) as caught:
        zoo.build(f"{file}:net")
    assert str(caught.value) == message.format(file=file)


@pytest.mark.parametrize(("cfg", "resize"), [
    ("", "none"), (", 'crop_pct': 1.0", "crop 1 bicubic"), (", 'crop_pct': 0.9, 'crop_mode': 'squash'", "squash "
                                                                                                        "bicubic"),
    (", 'crop_pct': 0.95, 'interpolation': 'bilinear'", "crop 0.95 bilinear"),
])
def test_a_network_may_carry_its_own_config(cfg: str, resize: str, tmp_path: Path) -> None:
    file = written(tmp_path, HEADER + "def net():\n    m = nn.Identity()\n"
                   f"    m.pretrained_cfg = {{'input_size': (1, 8, 9), 'mean': (0.1,), 'std': (0.3,){cfg}}}\n    "
                   f"return m\n")
    assert zoo.build(f"{file}:net")[1] == ModelSpec((1, 1, 8, 9), (0.1,), (0.3,), resize)


SIBLING = "from parts import Part\n\n\ndef net():\n    return Part()\n"


def test_files_beside_it_can_be_imported_and_nothing_else_changes(tmp_path: Path) -> None:
    path_before = list(sys.path)
    for width in (2, 3):
        folder = tmp_path / f"project{width}"
        written(folder, f"from torch import nn\n\n\nclass Part(nn.Linear):\n    def __init__(self):\n"
                        f"        super().__init__({width}, {width})\n", "parts.py")
        module, _ = zoo.build(f"{written(folder, SIBLING)}:net")
        assert isinstance(module, nn.Linear) and module.in_features == width
    assert sys.path == path_before
    sys.modules.pop("parts")


def test_a_failing_file_leaves_the_path_alone(tmp_path: Path) -> None:
    path_before = list(sys.path)
    with pytest.raises(BadModel):
        zoo.build(f"{written(tmp_path, 'import no_such_thing')}:net")
    assert sys.path == path_before
