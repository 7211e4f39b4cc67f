"""What a pickled detector says, layer by layer: numbers are checked, and torch's own layers are made anew from them.

Every function takes an object a safe loader filled (see ``archive``), whose attributes may hold anything, and raises
ValueError, TypeError or AttributeError where they are not what such a layer has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from edgeprune.frontends.detector import PREVIOUS
from edgeprune.frontends.yolov5_layers import Conv

_ACTIVATIONS = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Mish, nn.ELU, nn.Identity)
_MOST = 2**16
"""No width, kernel or layer number of a network that is one goes beyond this."""
_LARGEST_IMAGE = 4096
"""No side of an image that a detector was trained on is longer: what a file says is allocated to try it."""
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading a pickled network raises where it is not what such a network is."""


def kind(shell: nn.Module) -> str:
    """Return the name of an object's class."""
    return type(shell).__name__


def child(shell: nn.Module, name: str) -> nn.Module:
    """Return the named layer of a pickled one."""
    part = dict(shell.named_children()).get(name)
    if part is None:
        raise ValueError(f"a {kind(shell)} without {name!r}")
    return part


def require_tree(found: nn.Module) -> None:
    """Raise ValueError where a layer or its weights stand in two places; those without weights (activations) may.

    A pickle can name one layer any number of times at no cost, and nest what it named: built anew, every one of them
    would take memory of its own.
    """
    seen = set()
    for part in _everything(found):
        if id(part) in seen:
            raise ValueError("a layer or its weights stand in two places")
        seen.add(id(part))


def _everything(found: nn.Module) -> Iterator[nn.Module | Tensor]:
    """Yield layers that hold something, and the tensors they hold, as often as they are held."""
    waiting = [found]
    while waiting:
        part = waiting.pop()
        held = [t for tensors in (part._parameters, part._buffers) for t in tensors.values() if t is not None]
        inner = [one for one in part._modules.values() if one is not None]
        if held or inner:
            yield part
        yield from held
        waiting += inner


def checked(value: object) -> int:
    """Return a number of a pickled layer as an integer, if it is one that a layer may have."""
    if not isinstance(value, int | float):
        raise ValueError(f"a {type(value).__name__} where a number belongs")
    if not 0 <= value < _MOST or value != int(value):
        raise ValueError(f"the number {str(value)[:20]}")
    return int(value)


def number(shell: nn.Module, name: str) -> int:
    """Return the named number of a pickled layer."""
    return checked(getattr(shell, name))


def sources(shell: nn.Module, index: int) -> tuple[int, ...]:
    """Return the numbers of the layers that feed layer ``index``; counted back from it in the file, from 0 here."""
    raw = shell.f
    found = []
    for source in raw if isinstance(raw, list | tuple) else [raw]:
        if source == PREVIOUS:
            found.append(PREVIOUS)
            continue
        absolute = source + index if isinstance(source, int) and source < 0 else checked(source)
        if not 0 <= absolute < index:
            raise ValueError(f"layer {index} reads layer {absolute}")
        found.append(absolute)
    return tuple(found)


def names(found: nn.Module) -> tuple[str, ...]:
    """Return the class names of a pickled network, in the order of its outputs."""
    raw: Any = found.names
    said = [raw[i] for i in range(len(raw))]
    if not isinstance(raw, Mapping | list | tuple) or not all(isinstance(name, str | int) for name in said):
        raise ValueError("class names that are no list of texts")
    return tuple(str(name) for name in said)


def image_size(training: object, stride: int) -> tuple[int, int]:
    """Return (height, width) of the images a network was trained on, as its training's options tell; else 640 × 640."""
    size: Any = training.get("imgsz", training.get("img_size")) if isinstance(training, Mapping) else None
    sizes = size if isinstance(size, list | tuple) and size else (size,)
    if not all(isinstance(s, int) and 0 < s <= _LARGEST_IMAGE and s % stride == 0 for s in sizes):
        return 640, 640
    return int(sizes[0]), int(sizes[-1])


def conv(shell: nn.Module) -> Conv:
    """Return a convolution with its norm and activation, of the shape of what was pickled; no weights yet."""
    inner = convolution(child(shell, "conv"))
    act = child(shell, "act")
    if not isinstance(act, _ACTIVATIONS):
        raise ValueError(f"its activation is a {type(act).__name__}")
    norm = dict(shell.named_children()).get("bn")  # none in a checkpoint whose batch norms were folded
    if norm is None:
        return Conv(inner, nn.Identity(), _activation(act))
    eps, momentum = float(getattr(norm, "eps", 1e-3)), float(getattr(norm, "momentum", 0.03))
    return Conv(inner, nn.BatchNorm2d(inner.out_channels, eps, momentum), _activation(act))


def _activation(act: nn.Module) -> nn.Module:
    if isinstance(act, nn.LeakyReLU):
        return nn.LeakyReLU(float(act.negative_slope))
    if isinstance(act, nn.ELU):
        return nn.ELU(float(act.alpha))
    return type(act)()


def convolution(shell: nn.Module) -> nn.Conv2d:
    """Return a convolution of the shape of what was pickled; its weights are not loaded."""
    weight = shell._parameters["weight"]
    if not isinstance(shell, nn.Conv2d) or not isinstance(weight, Tensor) or weight.ndim != 4 or not weight.numel():
        raise ValueError("a convolution without filters")
    groups, (out, each, *kernel) = number(shell, "groups"), weight.shape
    rest: dict[str, Any] = {"groups": groups, "bias": shell._parameters.get("bias") is not None}
    for name in ("stride", "padding", "dilation"):
        rest[name] = tuple(map(checked, getattr(shell, name)))
    if any(p >= k * d for p, k, d in zip(rest["padding"], kernel, rest["dilation"], strict=True)):
        raise ValueError("a convolution whose padding is larger than its filters")
    return nn.Conv2d(each * groups, out, (kernel[0], kernel[1]), **rest)


def pool(shell: nn.Module) -> nn.MaxPool2d:
    """Return a max pooling as it was pickled."""
    if not isinstance(shell, nn.MaxPool2d):
        raise ValueError(f"a {kind(shell)} where a max pooling belongs")
    kernel, stride, padding = (checked(getattr(shell, name)) for name in ("kernel_size", "stride", "padding"))
    return nn.MaxPool2d(kernel, stride, padding)


def upsample(shell: nn.Upsample) -> nn.Upsample:
    """Return an upsampling as it was pickled: by 2 or 4, nearest neighbour."""
    factor = float(shell.scale_factor)  # type: ignore[arg-type]
    if shell.mode != "nearest" or factor not in (2.0, 4.0):
        raise ValueError(f"an upsampling by {factor} in mode {shell.mode!r}")
    return nn.Upsample(scale_factor=factor, mode="nearest")
