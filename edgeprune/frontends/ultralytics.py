"""YOLOv8 and YOLO11 (and v3 and v5u) detectors of the package ultralytics, read from checkpoints or built by name.

The package's classes only carry what a checkpoint says, or what its own ``.yaml`` makes of random numbers. The network
that leaves here is built anew of edgeprune's layers, the ones that split a tensor as their split-free twins, and gives
raw heads. So it needs no package to run, to be copied, or to be loaded from a build.

    ultralytics.nn.*  ──classes of the package──>  weights, f, stride, ... ──build──>  Detector
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
    sources,
    upsample,
)
from edgeprune.frontends.split_free import C2PSA, Attention, C2f, Detect, PSABlock, c2
from edgeprune.frontends.yolov5_layers import C3, SPP, SPPF, Bottleneck, Conv
from edgeprune.model import ModelSpec, first_line

SUPPORTED = "edgeprune compiles detectors of YOLOv3, YOLOv5u, YOLOv8 and YOLO11"


def is_checkpoint(found: object) -> bool:
    """Whether an object read from a file is a detector of the package."""
    here = type(found).__module__ == "ultralytics.nn.tasks"
    return isinstance(found, nn.Module) and here and kind(found) == "DetectionModel"


def build(found: nn.Module, training: object, label: str) -> tuple[Detector, ModelSpec]:
    """Return the network and its spec: float32, in eval mode, sharing nothing with ``found``.

    ``found`` is a DetectionModel of the package, ``training`` whatever the checkpoint kept of the training's options
    (its image size is taken from there, 640 otherwise). The spec's head has the format ``yolov8``: 4 × ``bins`` rows of
    box logits and one a class. Raises BadModel, beginning with ``label``, for another head or a layer that has no
    twin, and when numbers and weights do not fit each other.
    """
    try:
        layers = list(child(found, "model").children())
        head, classes = layers[-1], names(found)
        bins, strides = _bins(head), _strides(head)
        detector = Detector(
            [*map(_layer, layers[:-1]), _detect(head, bins, len(classes))],
            [sources(layer, index) for index, layer in enumerate(layers)],
        )
    except MALFORMED as error:
        raise BadModel(f"{label} is not a detector edgeprune can read ({first_line(error)}); {SUPPORTED}") from error
    spec = ModelSpec(
        (1, 3, *image_size(training, max(strides))),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        resize="letterbox 114",
        classes=classes,
        head={"format": "yolov8", "strides": strides, "bins": bins},
    )
    return detector.eval(), spec


def class_layer(module: nn.Module) -> str | None:
    """Return the qualified name of a layer of the head that has a row a class; None for another network's."""
    for name, part in module.named_modules():
        if isinstance(part, Detect):
            stack = f"{name}.cv3.0"
            return f"{stack}.{len(list(module.get_submodule(stack).children())) - 1}"
    return None


# --- the head ---------------------------------------------------------------------------------------------------------


def _bins(head: nn.Module) -> int:
    """Return the number of bins of a side's distribution. Raises ValueError, naming what it is, for another head."""
    if kind(head) != "Detect":
        raise ValueError(f"its head is {kind(head)}, not Detect")
    if getattr(head, "one2one_cv2", None) is not None:
        raise ValueError("its head is trained to need no suppression (YOLOv10, YOLO26)")
    bins = number(head, "reg_max")
    if bins < 2:
        raise ValueError("its head gives distances, not their distributions (YOLO26)")
    return bins


def _strides(head: nn.Module) -> list[int]:
    if not isinstance(head.stride, Tensor):
        raise ValueError("a head without strides")
    return [checked(float(s)) for s in head.stride]


def _detect(head: nn.Module, bins: int, classes: int) -> Detect:
    boxes, scores = ([_stack(part) for part in child(head, name).children()] for name in ("cv2", "cv3"))
    if number(head, "nc") != classes:
        raise ValueError(f"{classes} class names for {number(head, 'nc')} classes")
    for rows, stacks in ((4 * bins, boxes), (classes, scores)):
        if not stacks or any(not isinstance(s[-1], nn.Conv2d) or s[-1].out_channels != rows for s in stacks):
            raise ValueError("the rows of its head do not fit its classes and bins")
    return Detect(boxes, scores)


# --- layers -----------------------------------------------------------------------------------------------------------


def _layer(found: nn.Module) -> nn.Module:
    """Return our layer with the numbers and weights of the package's."""
    make = _LAYERS.get(kind(found))
    if make is None:
        raise ValueError(f"it has a {kind(found)} layer")
    return make(found)


def _conv(found: nn.Module) -> Conv:
    made = conv(found)
    made.load_state_dict(found.state_dict())  # which converts to float32
    return made


def _convolution(found: nn.Module) -> nn.Conv2d:
    made = convolution(found)
    made.load_state_dict(found.state_dict())  # which converts to float32
    return made


def _stack(found: nn.Module) -> nn.Sequential:
    return nn.Sequential(*map(_layer, found.children()))


def _blocks(found: nn.Module) -> list[nn.Module]:
    return [_layer(part) for part in child(found, "m").children()]


def _ends(found: nn.Module) -> tuple[Conv, Conv]:
    return _conv(child(found, "cv1")), _conv(child(found, "cv2"))


def _flag(found: nn.Module, name: str) -> bool:
    return bool(number(found, name))


def _concat(found: nn.Module) -> Concat:
    if number(found, "d") != 1:
        raise ValueError(f"Concat along dimension {number(found, 'd')}")
    return Concat()


def _pad(found: nn.Module) -> nn.ZeroPad2d:
    sides: Any = found.padding
    left, right, top, bottom = map(checked, sides)
    return nn.ZeroPad2d((left, right, top, bottom))


def _c3(found: nn.Module) -> C3:
    return C3(*_ends(found), _conv(child(found, "cv3")), nn.Sequential(*_blocks(found)))


def _c2(found: nn.Module) -> C3:
    cv1, cv2 = _ends(found)
    return c2(cv1, nn.Sequential(*_blocks(found)), cv2)


def _c2f(found: nn.Module) -> C2f:
    cv1, cv2 = _ends(found)
    return C2f.whole(cv1, _blocks(found), cv2)


def _c2psa(found: nn.Module) -> C2PSA:
    cv1, cv2 = _ends(found)
    return C2PSA.whole(cv1, nn.Sequential(*_blocks(found)), cv2)


def _psa(found: nn.Module) -> C2PSA:
    cv1, cv2 = _ends(found)
    block = PSABlock(_attention(child(found, "attn")), _stack(child(found, "ffn")), add=True)
    return C2PSA.whole(cv1, nn.Sequential(block), cv2)


def _psa_block(found: nn.Module) -> PSABlock:
    return PSABlock(_attention(child(found, "attn")), _stack(child(found, "ffn")), _flag(found, "add"))


def _attention(found: nn.Module) -> Attention:
    if kind(found) != "Attention":
        raise ValueError(f"it has a {kind(found)} layer")
    qkv, proj, pe = (_conv(child(found, name)) for name in ("qkv", "proj", "pe"))
    return Attention.whole(qkv, proj, pe, number(found, "num_heads"), number(found, "key_dim"))


def _sppf(found: nn.Module) -> SPPF:
    if getattr(found, "n", 3) != 3 or getattr(found, "add", False):
        raise ValueError("it has an SPPF layer of another make (YOLO26)")
    return SPPF(*_ends(found), pool(child(found, "m")))


_LAYERS: Mapping[str, Callable[[Any], nn.Module]] = {
    "Attention": _attention,
    "Bottleneck": lambda found: Bottleneck(*_ends(found), _flag(found, "add")),
    "C2": _c2,
    "C2PSA": _c2psa,
    "C2f": _c2f,
    "C2fPSA": _c2f,
    "C3": _c3,
    "C3k": _c3,
    "C3k2": _c2f,
    "Concat": _concat,
    "Conv": _conv,
    "Conv2d": _convolution,
    "DWConv": _conv,
    "MaxPool2d": pool,
    "PSA": _psa,
    "PSABlock": _psa_block,
    "SPP": lambda found: SPP(*_ends(found), [pool(part) for part in child(found, "m").children()]),
    "SPPF": _sppf,
    "Sequential": _stack,
    "Upsample": upsample,
    "ZeroPad2d": _pad,
}
