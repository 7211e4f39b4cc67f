"""YOLOv5 checkpoints (v6 and v7) without running their pickle and without the yolov5 package.

A checkpoint is a pickle of the author's own classes. Their names are mapped to empty *shells* that hold what the file
says and can do nothing; from the shells' weights and numbers a network of the layers in ``yolov5_layers`` is built
anew, so that nothing of the file survives but tensors.

    models.yolo.*, models.common.*  ──shells──>  weights, f, stride, ... ──build──>  Detector
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel
from edgeprune.frontends.detector import Concat, Detector
from edgeprune.frontends.pickled import (
    MALFORMED,
    checked,
    child,
    conv,
    convolution,
    image_size,
    kind,
    names,
    number,
    pool,
    require_tree,
    sources,
    upsample,
)
from edgeprune.frontends.yolov5_layers import C3, SPP, SPPF, Bottleneck, Detect, Focus
from edgeprune.model import ModelSpec, first_line

_MODELS = ("Model", "DetectionModel")
_LARGEST_ANCHOR = 1e6
_LAYERS = ("Conv", "DWConv", "Bottleneck", "C3", "SPP", "SPPF", "Focus", "Concat")


class Shell(nn.Module):
    """What a pickled YOLOv5 object becomes: its attributes, and none of its behaviour."""


def _shells() -> dict[str, type[Shell]]:
    names = [*(f"models.yolo.{name}" for name in (*_MODELS, "Detect")), *(f"models.common.{name}" for name in _LAYERS)]
    return {name: type(name.rpartition(".")[2], (Shell,), {"__module__": __name__}) for name in names}


SHELLS = _shells()
"""The class that stands in for each name of a checkpoint."""


def is_checkpoint(found: object) -> bool:
    """Whether an object read from a file is the shell of a whole YOLOv5 network."""
    return isinstance(found, Shell) and kind(found) in _MODELS


def is_part(found: nn.Module) -> bool:
    """Whether a network read from a file is made of shells, which compute nothing."""
    return any(isinstance(part, Shell) for part in found.modules())


def build(found: nn.Module, training: object, label: str) -> tuple[Detector, ModelSpec]:
    """Return the network and its spec: float32, in eval mode.

    ``found`` is the shell of the network, ``training`` whatever the checkpoint kept of the training's options (its
    image size is taken from there, 640 otherwise). Raises BadModel, beginning with ``label``, when a layer is none of
    YOLOv5's or when numbers and weights do not fit each other.
    """
    try:
        require_tree(found)
        shells = list(child(found, "model").children())
        if not shells or kind(shells[-1]) != "Detect":
            raise ValueError("its last layer is no Detect")
        detector = Detector([_layer(shell) for shell in shells], [sources(s, i) for i, s in enumerate(shells)])
        state = {name: tensor.float() for name, tensor in _weights(found).items()}
        _require_same(detector.state_dict(), state)
        detector.load_state_dict(state)
        head, classes = shells[-1], names(found)
        strides, anchors = _geometry(head)
        if len(classes) != number(head, "nc"):
            raise ValueError(f"{len(classes)} class names for {number(head, 'nc')} classes")
    except MALFORMED as error:
        raise BadModel(
            f"{label} is not a YOLOv5 detector edgeprune can read ({first_line(error)}); checkpoints of releases v6 "
            f"and v7 are"
        ) from error
    size = image_size(training, max(strides))
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
    if isinstance(shell, nn.Sequential):
        return nn.Sequential(*(_layer(part) for part in shell.children()))
    if isinstance(shell, nn.Upsample):
        return upsample(shell)
    if isinstance(shell, nn.Conv2d):
        return convolution(shell)
    if isinstance(shell, nn.MaxPool2d):
        return pool(shell)
    if kind(shell) == "Concat":
        if number(shell, "d") != 1:
            raise ValueError(f"Concat along dimension {number(shell, 'd')}")
        return Concat()
    build = {"Conv": conv, "DWConv": conv, "Bottleneck": _bottleneck, "C3": _c3, "SPP": _spp, "SPPF": _sppf,
             "Focus": _focus, "Detect": _detect}.get(kind(shell))  # fmt: skip
    if build is None:
        raise ValueError(f"it has a {kind(shell)} layer")
    return build(shell)


def _bottleneck(shell: nn.Module) -> Bottleneck:
    return Bottleneck(conv(child(shell, "cv1")), conv(child(shell, "cv2")), bool(number(shell, "add")))


def _c3(shell: nn.Module) -> C3:
    one, two, three = (conv(child(shell, name)) for name in ("cv1", "cv2", "cv3"))
    parts = [_layer(part) for part in child(shell, "m").children()]
    if not all(isinstance(part, Bottleneck) for part in parts):
        raise ValueError("it has a C3 layer of another make (transformer, ghost or cross convolutions)")
    return C3(one, two, three, nn.Sequential(*parts))


def _spp(shell: nn.Module) -> SPP:
    pools = [pool(part) for part in child(shell, "m").children()]
    return SPP(conv(child(shell, "cv1")), conv(child(shell, "cv2")), pools)


def _sppf(shell: nn.Module) -> SPPF:
    return SPPF(conv(child(shell, "cv1")), conv(child(shell, "cv2")), pool(child(shell, "m")))


def _focus(shell: nn.Module) -> Focus:
    return Focus(conv(child(shell, "conv")))


def _detect(shell: nn.Module) -> Detect:
    classes, anchors = number(shell, "nc"), number(shell, "na")
    convolutions = [convolution(part) for part in child(shell, "m").children()]
    fits = all(c.out_channels == anchors * (5 + classes) and c.kernel_size == (1, 1) for c in convolutions)
    if not fits or not classes or not convolutions:
        raise ValueError("the rows of its head do not fit its classes and anchors")
    return Detect(convolutions, anchors)


# --- what the shells say ----------------------------------------------------------------------------------------------


def _weights(shell: nn.Module) -> Mapping[str, Tensor]:
    return {name: t for name, t in shell.state_dict().items() if not name.endswith((".anchors", ".anchor_grid"))}


def _require_same(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the first, unless names and shapes are the same."""
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise ValueError(f"its layers and weights differ, first in {name!r}")


def _geometry(head: nn.Module) -> tuple[list[int], list[list[list[float]]]]:
    """Return the strides and, in pixels, the anchors (w, h) of each level; the file holds them in units of stride."""
    stride, anchors = head.stride, head._buffers["anchors"]
    if not isinstance(stride, Tensor) or not isinstance(anchors, Tensor):
        raise ValueError("a head without strides and anchors")
    strides = [checked(float(s)) for s in stride]
    pixels = anchors.double() * torch.tensor(strides, dtype=torch.float64)[:, None, None]
    if len(strides) != len(list(child(head, "m").children())) or 0 in strides:
        raise ValueError("strides that do not fit the head")
    sound = bool(((pixels > 0) & (pixels < _LARGEST_ANCHOR)).all())
    if pixels.shape != (len(strides), number(head, "na"), 2) or not sound:
        raise ValueError("anchors that do not fit the head")
    return strides, [[[float(n) for n in pair] for pair in level] for level in pixels]
