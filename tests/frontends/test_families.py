"""Detectors that are not read are called by their name; nothing of what they name is imported or run."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from pathlib import Path

import pytest
import tiny_detector as tiny
import torch
from click.testing import CliRunner
from crafted import Call, name, number, pickled, text, torch_zip

from edgeprune.cli import main
from edgeprune.errors import BadModel, MissingPackage, UnsafeModel
from edgeprune.frontends import families
from edgeprune.frontends.checkpoint import Source, load

READABLE = "it reads checkpoints of YOLOv5 v6 and v7, and of YOLOv8 and YOLO11 with the extra ultralytics"


def naming(path: Path, *names: str) -> Path:
    """Write a checkpoint whose model is made of classes of these names."""
    layers = b"".join(name(*full.rpartition(".")[::2]) + b")\x81" for full in names)
    return torch_zip(path, pickled(b"}" + text("model") + b"(" + layers + b"ts"))


FAMILIES = {
    "a YOLOv7 checkpoint": ("models.yolo.Model", "models.common.Conv", "models.common.MP", "models.yolo.IDetect"),
    "a YOLOv9 checkpoint": ("models.yolo.DetectionModel", "models.common.RepNCSPELAN4", "models.yolo.DualDDetect"),
    "a YOLOv5 segmentation checkpoint": ("models.yolo.SegmentationModel", "models.yolo.Segment", "models.common.C3"),
    "a YOLOv5 classification checkpoint": ("models.yolo.ClassificationModel", "models.common.Classify"),
    "a YOLOR checkpoint": ("models.models.Darknet", "utils.layers.MixConv2d"),
    "a YOLOX checkpoint": ("yolox.models.yolox.YOLOX", "yolox.models.darknet.CSPDarknet"),
    "a YOLOv6 checkpoint": ("yolov6.models.yolo.Model", "yolov6.layers.common.RepVGGBlock"),
    "a YOLO-NAS checkpoint": ("super_gradients.training.models.detection_models.yolo_nas.YoloNAS_S",),
    "an RT-DETR checkpoint": ("ultralytics.nn.tasks.RTDETRDetectionModel", "ultralytics.nn.modules.head.Detect"),
    "an Ultralytics pose checkpoint": ("ultralytics.nn.tasks.PoseModel",),
    "an Ultralytics checkpoint of another task or family": ("ultralytics.nn.tasks.YOLOEModel",),
    "a YOLO detector checkpoint": ("models.yolo.DetectionModel", "models.common.GhostConv"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_is_not_read_is_named(family: str, tmp_path: Path) -> None:
    path = naming(tmp_path / "m.pt", *FAMILIES[family])
    with pytest.raises(UnsafeModel) as caught:
        load(Source(path, None), None)
    said = str(caught.value)
    assert said.startswith(f"{path} is {family}, which edgeprune cannot read (it names ")
    assert said.endswith(f"); {READABLE}")
    assert not {"models", "yolox", "yolov6", "super_gradients"} & sys.modules.keys()


def test_the_command_line_says_so_with_exit_code_2(tmp_path: Path) -> None:
    path = naming(tmp_path / "yolov7.pt", *FAMILIES["a YOLOv7 checkpoint"])
    result = CliRunner().invoke(main, ["inspect", str(path), "--quiet"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert " ".join(result.stderr.split()) == (
        f"error: {path} is a YOLOv7 checkpoint, which edgeprune cannot read (it names models.common.MP, "
        f"models.yolo.IDetect); {READABLE}"
    )


@pytest.mark.parametrize(
    ("family", "mark"),
    [
        *(("a YOLOv7 checkpoint", f"models.{one}") for one in ("yolo.IDetect", "yolo.IAuxDetect", "common.RepConv",
                                                              "common.MP")),
        *(("a YOLOv9 checkpoint", f"models.{one}") for one in ("common.RepNCSPELAN4", "yolo.DDetect",
                                                              "yolo.DualDDetect")),
        ("an RT-DETR checkpoint", "src.zoo.rtdetr.rtdetr.RTDETR"),
    ],
)  # fmt: skip
def test_one_mark_is_enough(family: str, mark: str) -> None:
    assert families.of({mark, "models.yolo.Model", "models.common.Conv", "torch.nn.modules.conv.Conv2d"}) == family


@pytest.mark.parametrize("names", [("torch.nn.modules.conv.Conv2d",), ("mymodels.yolo.Model",), ("yoloxy.A",), ()])
def test_other_names_are_no_family(names: tuple[str, ...]) -> None:
    assert families.of(names) == ""


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="the extra is installed here")
def test_an_ultralytics_checkpoint_without_the_extra(tmp_path: Path) -> None:
    path = naming(tmp_path / "m.pt", "ultralytics.nn.tasks.DetectionModel", "ultralytics.nn.modules.block.C2f")
    with pytest.raises(MissingPackage) as caught:
        load(Source(path, None), None)
    wanted = (
        "a checkpoint of YOLOv8 or YOLO11 needs ultralytics; install it with: pip install 'edgeprune[ultralytics]'"
    )
    assert str(caught.value) == wanted
    result = CliRunner().invoke(main, ["inspect", str(path), "--quiet"])
    assert (result.exit_code, " ".join(result.stderr.split())) == (4, f"error: {wanted}")


def test_a_state_dict_of_a_detector_asks_for_its_network(tmp_path: Path) -> None:
    """YOLOX keeps weights alone: there is nothing to tell a family by."""
    path = tmp_path / "yolox_s.pth"
    torch.save({"start_epoch": 300, "model": {"backbone.stem.conv.weight": torch.zeros(2, 3, 3, 3)}}, path)
    with pytest.raises(BadModel) as caught:
        load(Source(path, None), None)
    assert str(caught.value) == (
        f"{path} holds the weights of a network but not the network; name it with --arch timm:NAME, torchvision:NAME, "
        f"ultralytics:NAME or file.py:factory"
    )


# --- hostile ones -----------------------------------------------------------------------------------------------------


def test_a_call_beside_a_real_network_is_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    path = tiny.save(tmp_path / "m.pt", tiny.seeded(), git=Call(os.system, f"touch {sentinel}"))
    with pytest.raises(UnsafeModel) as caught:
        load(Source(path, None), None)
    assert str(caught.value) == (
        f"{path} is a pickle that would run code of its own when loaded: it names posix.system; save its weights alone "
        f"with torch.save(module.state_dict(), ...) and give --arch, or, if you trust who made it, give --trust-pickle"
    )
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (name("models.yolo", "Model") + b")R", "its pickle calls models.yolo.Model, which a checkpoint has no need"),
        (name("models.yolo", "Model") + text("yolov5n.yaml") + b"\x85R", "its pickle calls models.yolo.Model, which"),
        (name("models.common", "Conv") + number(10**6) + number(10**6) + b"\x86R", "its pickle calls models.common.Co"),
        (name("models.common", "Conv") + number(10**6) + b"\x85\x81", "its pickle makes an object that is not an empt"),
        (name("models.yolo", "Model") + b"}" + text("x") + b"Nsb", "its pickle sets the state of something that has"),
    ],
    ids=["called", "called with a file", "called with sizes", "made with a size", "the class given a state"],
)
def test_layers_are_neither_called_nor_given_anything(body: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel) as caught:
        load(Source(torch_zip(tmp_path / "m.pt", pickled(body)), None), None)
    assert str(caught.value).startswith(f"{tmp_path / 'm.pt'} cannot be loaded: {said}")


@pytest.mark.parametrize("full", ["models.yolo.Model.forward", "models.yolo.os.system", "models.common.C3.__init__",
                                  "models.yolo.Shell", "models.common.getattr"])  # fmt: skip
def test_names_beside_the_known_ones_are_refused(full: str, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "m.pt", pickled(name("models." + full.split(".")[1], full.split(".", 2)[2])))
    with pytest.raises(UnsafeModel, match=r"is a YOLO detector checkpoint, which edgeprune cannot read \(it names "):
        load(Source(path, None), None)


def test_getattr_does_not_reach_through_a_layer(tmp_path: Path) -> None:
    body = name("__builtin__", "getattr") + name("models.yolo", "Model") + text("forward") + b"\x86R"
    with pytest.raises(UnsafeModel, match=r"it names builtins\.getattr"):
        load(Source(torch_zip(tmp_path / "m.pt", pickled(body)), None), None)


def test_a_checkpoint_in_a_newer_protocol_is_named(tmp_path: Path) -> None:
    with tiny.pretending():
        data = pickle.dumps({"model": tiny.Concat()}, 4)
    with pytest.raises(BadModel, match="it was saved with pickle protocol 4, and torch's safe loader reads 2"):
        load(Source(torch_zip(tmp_path / "m.pt", data), None), None)
