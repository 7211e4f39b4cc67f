"""YOLOv5 checkpoints (v6 and v7) without running their pickle and without the yolov5 package.

A checkpoint is a pickle of the author's own classes. Their names are mapped to empty *shells* that hold what the file
says and can do nothing; from the shells' weights and numbers a network of the layers in ``yolov5_layers`` is built
anew, so that nothing of the file survives but tensors.

    models.yolo.*, models.common.*  ──shells──>  weights, f, stride, ... ──build──>  Detector
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel
from edgeprune.frontends.detector import PREVIOUS, Concat, Detector
from edgeprune.frontends.yolov5_layers import C3, SPP, SPPF, Bottleneck, Conv, Detect, Focus
from edgeprune.model import ModelSpec, first_line

_MODELS = ("Model", "DetectionModel")
_LAYERS = ("Conv", "DWConv", "Bottleneck", "C3", "SPP", "SPPF", "Focus", "Concat")
_ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Mish, nn.ELU, nn.Identity)
_MOST = 2**16
"""No width, kernel or layer number of a network that is one goes beyond this."""


class Shell(nn.Module):
    """What a pickled YOLOv5 object becomes: its attributes, and none of its behaviour."""


def _shells() -> dict[str, type[Shell]]:
    names = [*(f"models.yolo.{name}" for name in (*_MODELS, "Detect")), *(f"models.common.{name}" for name in _LAYERS)]
    return {name: type(name.rpartition(".")[2], (Shell,), {"__module__": __name__}) for name in names}


SHELLS = _shells()
"""The class that stands in for each name of a checkpoint."""


def is_checkpoint(found: object) -> bool:
    """Whether an object read from a file is the shell of a whole YOLOv5 network."""
    return isinstance(found, Shell) and _kind(found) in _MODELS


def build(found: nn.Module, training: object, label: str) -> tuple[Detector, ModelSpec]:
    """Return the network and its spec: float32, in eval mode.

    ``found`` is the shell of the network, ``training`` whatever the checkpoint kept of the training's options (its
    image size is taken from there, 640 otherwise). Raises BadModel, beginning with ``label``, when a layer is none of
    YOLOv5's or when numbers and weights do not fit each other.
    """
    try:
        shells = list(_child(found, "model").children())
        detector = Detector([_layer(shell) for shell in shells], [_sources(s, i) for i, s in enumerate(shells)])
        state = {name: tensor.float() for name, tensor in _weights(found).items()}
        detector.load_state_dict(state)
        head, classes = shells[-1], _names(found)
        strides, anchors = _geometry(head)
        if len(classes) != _number(head, "nc"):
            raise ValueError(f"{len(classes)} class names for {_number(head, 'nc')} classes")
    except BadModel:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise BadModel(
            f"{label} is not a YOLOv5 detector edgeprune can read ({first_line(error)}); checkpoints of releases v6 "
            f"and v7 are"
        ) from error
    size = _image_size(training, max(strides))
    spec = ModelSpec(
        (1, 3, *size),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        resize="letterbox 114",
        classes=classes,
        head={"format": "yolov5", "strides": strides, "anchors": anchors},
    )
    return detector.eval(), spec


# --- layers -----------------------------------------------------------------------------------------------------------


def _layer(shell: nn.Module) -> nn.Module:
    """Return our layer of the shell's shape; its weights are loaded later, all at once."""
    kind = _kind(shell)
    if isinstance(shell, nn.Sequential):
        return nn.Sequential(*(_layer(part) for part in shell.children()))
    if isinstance(shell, nn.Upsample):
        return _upsample(shell)
    if isinstance(shell, nn.Conv2d):
        return _convolution(shell)
    if isinstance(shell, nn.MaxPool2d):
        return _pool(shell)
    if kind == "Concat":
        if _number(shell, "d") != 1:
            raise ValueError(f"Concat along dimension {_number(shell, 'd')}")
        return Concat()
    build = {"Conv": _conv, "DWConv": _conv, "Bottleneck": _bottleneck, "C3": _c3, "SPP": _spp, "SPPF": _sppf,
             "Focus": _focus, "Detect": _detect}.get(kind)  # fmt: skip
    if build is None:
        raise ValueError(f"it has a {kind} layer")
    return build(shell)


def _conv(shell: nn.Module) -> Conv:
    convolution = _convolution(_child(shell, "conv"))
    act = _child(shell, "act")
    if not isinstance(act, _ACTIVATIONS):
        raise ValueError(f"its activation is a {type(act).__name__}")
    norm = dict(shell.named_children()).get("bn")  # none in a checkpoint whose batch norms were folded
    if norm is None:
        return Conv(convolution, nn.Identity(), _activation(act))
    eps, momentum = float(getattr(norm, "eps", 1e-3)), float(getattr(norm, "momentum", 0.03))
    return Conv(convolution, nn.BatchNorm2d(convolution.out_channels, eps, momentum), _activation(act))


def _activation(act: nn.Module) -> nn.Module:
    if isinstance(act, nn.LeakyReLU):
        return nn.LeakyReLU(float(act.negative_slope))
    if isinstance(act, nn.ELU):
        return nn.ELU(float(act.alpha))
    return type(act)()


def _convolution(shell: nn.Module) -> nn.Conv2d:
    weight = shell._parameters["weight"]
    if not isinstance(shell, nn.Conv2d) or not isinstance(weight, Tensor) or weight.ndim != 4:
        raise ValueError("a convolution without filters")
    groups, (out, each, *kernel) = _number(shell, "groups"), weight.shape
    rest: dict[str, Any] = {"groups": groups, "bias": shell._parameters.get("bias") is not None}
    for name in ("stride", "padding", "dilation"):
        rest[name] = tuple(map(_checked, getattr(shell, name)))
    return nn.Conv2d(each * groups, out, (kernel[0], kernel[1]), **rest)


def _bottleneck(shell: nn.Module) -> Bottleneck:
    return Bottleneck(_conv(_child(shell, "cv1")), _conv(_child(shell, "cv2")), bool(_number(shell, "add")))


def _c3(shell: nn.Module) -> C3:
    one, two, three = (_conv(_child(shell, name)) for name in ("cv1", "cv2", "cv3"))
    parts = [_layer(part) for part in _child(shell, "m").children()]
    if not all(isinstance(part, Bottleneck) for part in parts):
        raise ValueError("it has a C3 layer of another make (transformer, ghost or cross convolutions)")
    return C3(one, two, three, nn.Sequential(*parts))


def _spp(shell: nn.Module) -> SPP:
    pools = [_pool(part) for part in _child(shell, "m").children()]
    return SPP(_conv(_child(shell, "cv1")), _conv(_child(shell, "cv2")), pools)


def _sppf(shell: nn.Module) -> SPPF:
    return SPPF(_conv(_child(shell, "cv1")), _conv(_child(shell, "cv2")), _pool(_child(shell, "m")))


def _focus(shell: nn.Module) -> Focus:
    return Focus(_conv(_child(shell, "conv")))


def _detect(shell: nn.Module) -> Detect:
    rows = _number(shell, "na") * (5 + _number(shell, "nc"))
    convolutions = [_convolution(part) for part in _child(shell, "m").children()]
    if not convolutions or any(c.out_channels != rows or c.kernel_size != (1, 1) for c in convolutions):
        raise ValueError("the rows of its head do not fit its classes and anchors")
    return Detect(convolutions, _number(shell, "na"))


def _pool(shell: nn.Module) -> nn.MaxPool2d:
    if not isinstance(shell, nn.MaxPool2d):
        raise ValueError(f"a {_kind(shell)} where a max pooling belongs")
    kernel, stride, padding = (_checked(getattr(shell, name)) for name in ("kernel_size", "stride", "padding"))
    return nn.MaxPool2d(kernel, stride, padding)


def _upsample(shell: nn.Upsample) -> nn.Upsample:
    factor = float(shell.scale_factor)  # type: ignore[arg-type]
    if shell.mode != "nearest" or factor not in (2.0, 4.0):
        raise ValueError(f"an upsampling by {factor} in mode {shell.mode!r}")
    return nn.Upsample(scale_factor=factor, mode="nearest")


# --- what the shells say ----------------------------------------------------------------------------------------------


def _kind(shell: nn.Module) -> str:
    return type(shell).__name__


def _child(shell: nn.Module, name: str) -> nn.Module:
    part = dict(shell.named_children()).get(name)
    if part is None:
        raise ValueError(f"a {_kind(shell)} without {name!r}")
    return part


def _checked(value: object) -> int:
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value < _MOST:
        raise ValueError(f"the number {str(value)[:20]!r}")
    return int(value)


def _number(shell: nn.Module, name: str) -> int:
    return _checked(getattr(shell, name))


def _sources(shell: nn.Module, index: int) -> tuple[int, ...]:
    """Return the numbers of the layers that feed layer ``index``; counted back from it in the file, from 0 here."""
    raw = shell.f
    found = []
    for source in raw if isinstance(raw, list | tuple) else [raw]:
        if source == PREVIOUS:
            found.append(PREVIOUS)
            continue
        absolute = source + index if isinstance(source, int) and source < 0 else _checked(source)
        if not 0 <= absolute < index:
            raise ValueError(f"layer {index} reads layer {absolute}")
        found.append(absolute)
    return tuple(found)


def _weights(shell: nn.Module) -> Mapping[str, Tensor]:
    return {name: t for name, t in shell.state_dict().items() if not name.endswith((".anchors", ".anchor_grid"))}


def _names(found: nn.Module) -> tuple[str, ...]:
    raw: Any = found.names
    return tuple(str(raw[i]) for i in range(len(raw)))


def _geometry(head: nn.Module) -> tuple[list[int], list[list[list[float]]]]:
    """Return the strides and, in pixels, the anchors (w, h) of each level; the file holds them in units of stride."""
    stride, anchors = head.stride, head._buffers["anchors"]
    if not isinstance(stride, Tensor) or not isinstance(anchors, Tensor):
        raise ValueError("a head without strides and anchors")
    strides = [_checked(float(s)) for s in stride]
    pixels = anchors.double() * torch.tensor(strides, dtype=torch.float64)[:, None, None]
    if pixels.shape != (len(strides), _number(head, "na"), 2) or not bool((pixels > 0).all()):
        raise ValueError("anchors that do not fit the head")
    return strides, [[[float(n) for n in pair] for pair in level] for level in pixels]


def _image_size(training: object, stride: int) -> tuple[int, int]:
    size: Any = training.get("imgsz", training.get("img_size")) if isinstance(training, Mapping) else None
    sizes = size if isinstance(size, list | tuple) and size else (size,)
    if not all(isinstance(s, int) and 0 < s < _MOST and s % stride == 0 for s in sizes):
        return 640, 640
    return int(sizes[0]), int(sizes[-1])
