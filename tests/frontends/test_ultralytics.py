"""Ultralytics detectors: built by name, read from checkpoints, compared with the package where it is installed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted import name, pickled, torch_zip
from torch import Tensor, nn

from edgeprune.errors import BadModel, BadOption, MissingPackage, UnsafeModel
from edgeprune.frontends import ultralytics, ultralytics_package, zoo
from edgeprune.frontends.checkpoint import Source, load
from edgeprune.frontends.families import READABLE
from edgeprune.model import ModelSpec
from edgeprune.tracing import trace

needed = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
NETWORKS = ["yolov8n.yaml", "yolo11n", "yolov5n", "yolov3-tiny"]
SUPPORTED = "edgeprune compiles detectors of YOLOv3, YOLOv5u, YOLOv8 and YOLO11"


def package(network: str, classes: int | None = 3) -> Any:
    """Return the package's own network, every number in its norms drawn."""
    torch.manual_seed(0)
    found = ultralytics_package.build(network, classes)
    for part in found.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return found.eval()


def raw(found: Any, images: Tensor) -> Tensor:
    """Return what the package's head gives before it decodes it."""
    with torch.no_grad():
        told = found(images)[1]
    return torch.cat((told["boxes"], told["scores"]), 1)


def agree(wanted: Tensor, got: Tensor, share: float = 1e-5) -> bool:
    return wanted.shape == got.shape and bool((wanted - got).abs().max() <= share * wanted.abs().max())


# --- with the package -------------------------------------------------------------------------------------------------


@needed
@pytest.mark.parametrize("network", NETWORKS)
def test_the_rebuilt_network_computes_what_the_package_computes(network: str) -> None:
    found = package(network)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    wanted = raw(found, images)
    before = {key: tensor.clone() for key, tensor in found.state_dict().items()}
    detector, spec = ultralytics.build(found, {"imgsz": 320}, "it")
    with torch.no_grad():
        got = detector(images)
        assert wanted[:, :64].std() > 0.05 and wanted[:, 64:].std() > 0.05
        assert agree(wanted, got)
        assert torch.equal(copy.deepcopy(detector)(images), got)
    strides = [16, 32] if network == "yolov3-tiny" else [8, 16, 32]
    assert got.shape == (2, 4 * 16 + 3, sum(64 // s * (96 // s) for s in strides))
    assert spec == ModelSpec((1, 3, 320, 320), (0.0,) * 3, (1.0,) * 3, "letterbox 114", "RGB", ("0", "1", "2"),
                             {"format": "yolov8", "strides": strides, "bins": 16})  # fmt: skip
    assert not any(type(part).__module__.startswith("ultralytics") for part in detector.modules())
    for parameter in detector.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in found.state_dict().items())


@needed
def test_layers_of_other_yaml_files_have_twins() -> None:
    block = ultralytics_package._imported("ultralytics.nn.modules.block", "it")
    images = torch.rand(2, 128, 5, 4)
    for layer in (block.PSA(128, 128), block.C2(128, 64, 2), block.C2fPSA(128, 128), block.SPP(128, 64),
                  block.C3k2(128, 64, 2, c3k=True)):  # fmt: skip
        layer.train()
        twin = ultralytics._layer(layer).train()
        with torch.no_grad():
            assert agree(layer(images), twin(images)), type(layer).__name__
            assert agree(layer.eval()(images), twin.eval()(images)), type(layer).__name__


@needed
def test_weights_are_random_by_the_seed() -> None:
    def first(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return next(zoo.build("ultralytics:yolov8n")[0].parameters())

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


@needed
def test_the_number_of_classes_is_the_head_s() -> None:
    for classes, built in ((None, 80), (5, 5)):
        module, spec = zoo.build("ultralytics:yolo11n", classes)
        assert spec is not None and len(spec.classes) == built
        layer = zoo.head(module, "ultralytics:yolo11n")
        assert layer == "model.23.cv3.0.2" and module.get_submodule(layer).weight.shape[0] == built


@needed
@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        ("yolov8n-seg", BadOption, f"--arch ultralytics:yolov8n-seg is not a plain detector, it ends in Segment; "
                                   f"{SUPPORTED}"),
        ("yolo11n-pose.yaml", BadOption, f"--arch ultralytics:yolo11n-pose.yaml is not a plain detector, it ends in "
                                         f"Pose; {SUPPORTED}"),
        ("rtdetr-l", BadOption, f"--arch ultralytics:rtdetr-l is not a plain detector, it ends in RTDETRDecoder; "
                                f"{SUPPORTED}"),
        ("yolov8", BadOption, "ultralytics has no model 'yolov8'; it comes as yolov8l, yolov8m, yolov8n, yolov8s, "
                              "yolov8x"),
        ("yolo11-seg.yaml", BadOption, "ultralytics has no model 'yolo11-seg.yaml'; it comes as yolo11l-seg, "
                                       "yolo11m-seg, yolo11n-seg, yolo11s-seg, yolo11x-seg"),
        ("yolov8nn", BadOption, "ultralytics has no model 'yolov8nn'; did you mean 'yolov8n'?"),
        ("../../../etc/passwd", BadOption, "ultralytics has no model '../../../etc/passwd'; among the "),
        ("yolov9t", BadModel, f"--arch ultralytics:yolov9t is not a detector edgeprune can read (it has a ELAN1 "
                              f"layer); {SUPPORTED}"),
        ("yolov8n-ghost", BadModel, f"--arch ultralytics:yolov8n-ghost is not a detector edgeprune can read (it has "
                                    f"a GhostConv layer); {SUPPORTED}"),
    ],
)  # fmt: skip
def test_other_networks_are_named_and_refused(network: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        zoo.build(f"ultralytics:{network}")
    assert str(caught.value).startswith(message)


@needed
def test_a_yaml_file_beside_is_not_the_package_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package would take it, and evaluate what it names as activation."""
    (tmp_path / "yolov8n.yaml").write_text("activation: open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    zoo.build("ultralytics:yolov8n.yaml")
    assert os.listdir(tmp_path) == ["yolov8n.yaml"]  # noqa: PTH208


@needed
def test_the_package_is_imported_quietly(tmp_path: Path) -> None:
    code = (
        "import os, torch; save, before = torch.save, dict(os.environ)\n"
        "from edgeprune.frontends import zoo; zoo.build('ultralytics:yolov8n')\n"
        "assert torch.save is save and dict(os.environ) == before"
    )
    kept = {key: value for key, value in os.environ.items() if key != "YOLO_CONFIG_DIR"}
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "TMPDIR": str(tmp_path),
            "YOLO_OFFLINE": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=kept | home, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.rglob("*ltralytics*"))


def checkpoint(found: Any, path: Path, **entries: Any) -> Path:
    """Write what the package's trainer writes: the averaged network in half precision, and its options."""
    found.names = {0: "car", 1: "bus", 2: "tram"}
    found.args = ultralytics_package._imported("ultralytics.utils", "it").IterableSimpleNamespace(box=7.5, imgsz=64)
    torch.save({"epoch": 3, "model": None, "ema": copy.deepcopy(found).half(), "best_fitness": 0.5,
                "train_args": {"imgsz": 160, "task": "detect"}, "date": "today", **entries}, path)  # fmt: skip
    return path


@needed
@pytest.mark.parametrize("network", ["yolov8n", "yolo11n"])
def test_a_checkpoint_is_read(network: str, tmp_path: Path) -> None:
    found = package(network)
    loaded = load(Source(checkpoint(found, tmp_path / "best.pt"), None), None)
    assert (loaded.kind, loaded.notes) == ("ultralytics", (f"took the weights under 'ema' of {tmp_path / 'best.pt'}",))
    assert loaded.model.spec.classes == ("car", "bus", "tram") and loaded.model.spec.input_shape == (1, 3, 160, 160)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert agree(raw(found.half().float(), images), loaded.model.module(images))
    assert {parameter.dtype for parameter in loaded.model.module.parameters()} == {torch.float32}
    with pytest.raises(BadOption) as caught:
        load(Source(tmp_path / "best.pt", f"ultralytics:{network}"), None)
    told = "is an Ultralytics checkpoint and holds its own architecture; leave --arch away"
    assert str(caught.value) == f"{tmp_path / 'best.pt'} {told}"


@needed
def test_a_checkpoint_of_an_interrupted_training_is_read(tmp_path: Path) -> None:
    found = package("yolov8n")
    checkpoint(found, tmp_path / "last.pt")
    found.criterion = found.init_criterion()
    loaded = load(Source(checkpoint(found, tmp_path / "last.pt"), None), (1, 3, 64, 64))
    assert loaded.kind == "ultralytics"


@needed
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.model[-1], "nc", 4), "3 class names for 4 classes"),
        (lambda m: setattr(m.model[-1], "reg_max", 1), "its head gives distances, not their distributions (YOLO26)"),
        (lambda m: setattr(m.model[-1], "reg_max", 8), "the rows of its head do not fit its classes and bins"),
        (lambda m: setattr(m.model[-1], "stride", 8), "a head without strides"),
        (lambda m: setattr(m.model[-1], "one2one_cv2", m.model[-1].cv2),
         "its head is trained to need no suppression (YOLOv10, YOLO26)"),
        (lambda m: setattr(m.model[9], "n", 4), "it has an SPPF layer of another make (YOLO26)"),
        (lambda m: setattr(m.model[11], "d", 2), "Concat along dimension 2"),
        (lambda m: setattr(m.model[11], "f", [-1, 40]), "layer 11 reads layer 40"),
        (lambda m: delattr(m.model[2], "cv1"), "a C2f without 'cv1'"),
        (lambda m: delattr(m.model[0], "f"), "'Conv' object has no attribute 'f'"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_itself_is_refused(change: Any, message: str) -> None:
    found = package("yolov8n")
    change(found)
    with pytest.raises(BadModel) as caught:
        ultralytics.build(found, None, "x.pt")
    assert str(caught.value) == f"x.pt is not a detector edgeprune can read ({message}); {SUPPORTED}"


@needed
def test_every_name_is_a_class_of_the_package() -> None:
    for text in ultralytics_package.NAMES:
        found = ultralytics_package.resolve(text)
        assert isinstance(found, type) and found.__module__.startswith("ultralytics.")
        assert found.__name__ == text.rpartition(".")[2]
    older = {"ultralytics.nn.modules.Detect", "ultralytics.yolo.utils.loss.v8DetectionLoss"}
    assert older < ultralytics_package.NAMES.keys()
    assert {n.rpartition(".")[2] for n in ultralytics_package.NAMESPACES} == {"IterableSimpleNamespace"}


@needed
@pytest.mark.slow
@pytest.mark.parametrize("network", ["yolov8n", "yolo11n"])
def test_all_but_heads_and_attention_can_be_cut(network: str) -> None:
    model = load(Source(None, f"ultralytics:{network}"), (1, 3, 64, 64)).model
    cost = trace(model, (8,))
    assert cost.cost([group.ladder[-1] for group in cost.groups])["macs"] < 0.1 * cost.full["macs"]
    locked = {group.name for group in cost.groups if group.locked}
    assert all(name.endswith((".attn.v.conv", ".cv2.0.2")) for name in locked) and 1 <= len(locked) <= 2


# --- without it, and against it ---------------------------------------------------------------------------------------


def test_without_the_package_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    told = "needs ultralytics; install it with: pip install 'edgeprune[ultralytics]'"
    with pytest.raises(MissingPackage) as caught:
        zoo.build("ultralytics:yolov8n")
    assert str(caught.value) == f"--arch ultralytics:yolov8n {told}"
    path = torch_zip(tmp_path / "m.pt", pickled(name("ultralytics.nn.tasks", "DetectionModel") + b")\x81}b"))
    with pytest.raises(MissingPackage) as caught:
        load(Source(path, None), None)
    assert str(caught.value) == f"a checkpoint of YOLOv8 or YOLO11 {told}"


MODEL = name("ultralytics.nn.tasks", "DetectionModel")
HOSTILE = name("posix", "system")
DOWNLOAD = name("ultralytics.utils.downloads", "attempt_download_asset")


@pytest.mark.parametrize("installed", [False, pytest.param(True, marks=needed)], ids=["without", "with the package"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (MODEL + HOSTILE + b"\x86", "is a pickle that would run code of its own when loaded: it names "
                                          "posix.system; save its weights alone with "),
        (MODEL + DOWNLOAD + b"\x86",
         f"is an Ultralytics checkpoint of another task or family, which edgeprune cannot read (it names "
         f"ultralytics.utils.downloads.attempt_download_asset); {READABLE}"),
        (MODEL + name("ultralytics.nn.modules.block", "A2C2f") + b"\x86",
         f"is a YOLO12 checkpoint, which edgeprune cannot read (it names ultralytics.nn.modules.block.A2C2f); "
         f"{READABLE}"),
        (name("ultralytics.nn.tasks", "SegmentationModel"),
         f"is an Ultralytics segmentation checkpoint, which edgeprune cannot read (it names "
         f"ultralytics.nn.tasks.SegmentationModel); {READABLE}"),
        (MODEL + name("ultralytics.nn.modules.head", "v10Detect") + b"\x86",
         f"is a YOLOv10 checkpoint, which edgeprune cannot read (it names ultralytics.nn.modules.head.v10Detect); "
         f"{READABLE}"),
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused_by_name(
    body: bytes, message: str, installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "ultralytics", None)
    path = torch_zip(tmp_path / "m.pt", pickled(body))
    with pytest.raises(UnsafeModel) as caught:
        load(Source(path, None), None)
    assert str(caught.value).startswith(f"{path} {message}")


@needed
def test_classes_of_the_package_are_made_empty_or_not_at_all(tmp_path: Path) -> None:
    build = name("ultralytics.nn.tasks", "DetectionModel") + b"X\x0c\x00\x00\x00yolov8n.yaml\x85"
    namespace = name("ultralytics.utils", "IterableSimpleNamespace") + b"K\x01\x85R"
    for body, told in (
        (build + b"R", "its pickle calls ultralytics.nn.tasks.DetectionModel, which a checkpoint has no need to do"),
        (build + b"\x81", "its pickle makes an object that is not an empty layer"),
        (namespace, "its pickle calls ultralytics.utils.IterableSimpleNamespace, which a checkpoint has no need to do"),
    ):
        with pytest.raises(BadModel) as caught:
            load(Source(torch_zip(tmp_path / "m.pt", pickled(body)), None), None)
        assert told in str(caught.value)
