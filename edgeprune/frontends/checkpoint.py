"""How what the user named becomes a TorchModel.

    file ── sniff ──> safetensors ───────────────────────┐
                └───> torch zip, legacy ── archive.read ──┴─> state dict or module ──> TorchModel
    --arch ── zoo.build ─────────────────────────────────────────────┘
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel, BadOption
from edgeprune.frontends import archive, state_dict, ultralytics, yolov5, zoo
from edgeprune.frontends.sniff import sniff
from edgeprune.model import ModelSpec, TorchModel, file_digest, first_line

Kind = Literal["state-dict", "safetensors", "pickle", "yolov5", "ultralytics", "random"]

_ARCH_FORMS = "--arch timm:NAME, torchvision:NAME, ultralytics:NAME or file.py:factory"
_RANDOM = "the weights are random, so the figures say nothing about accuracy"

_DETECTORS: Mapping[Any, tuple[str, Kind, str]] = {
    yolov5: ("a YOLOv5", "yolov5", "opt"),
    ultralytics: ("an Ultralytics", "ultralytics", "train_args"),
}
"""Front ends of whole detectors: what to call their checkpoints, and where those keep the training's options."""


@dataclass(frozen=True)
class Source:
    """What the user named: a file, an architecture, or both. Goes into the recipe and the cache key."""

    model: Path | None
    arch: str | None
    trust_pickle: bool = False


@dataclass(frozen=True)
class Loaded:
    """A loaded model with where it came from. ``notes`` are warnings to show; ``files`` maps a role to a sha256."""

    model: TorchModel
    kind: str
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def load(
    source: Source, input_shape: tuple[int, ...] | None, spec: ModelSpec | None = None, classes: int | None = None
) -> Loaded:
    """Load a model: in eval mode, on the CPU, in float32, with every parameter trainable, and verified.

    ``input_shape`` is (N, C, H, W) as the user gave it, ``spec`` what the data says, see ``merge``. ``classes`` is
    the number the data has: an architecture without weights is built for it, and a model with another number of
    outputs is refused. Nothing a file holds is executed unless ``source.trust_pickle`` is set and the file needs it.

    Raises BadOption (nothing named, unknown architecture, no input shape), MissingPackage, UnsafeModel and BadModel.
    """
    if source.model is None:
        if source.arch is None:
            raise BadOption(f"name a model file, or an architecture with {_ARCH_FORMS}")
        module, declared = zoo.build(source.arch, classes)
        kind: Kind = "random"
        notes: tuple[str, ...] = (f"--arch {source.arch} without a model file: {_RANDOM}",)
    else:
        module, declared, kind, notes = _with_weights(source.model, source)
    return Loaded(_finish(module, merge(input_shape, spec, declared), classes), kind, notes, _digests(source))


def skeleton(arch: str, state: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> TorchModel:
    """Return an architecture with random weights and as many classes as the head in ``state`` has.

    For weights that fit only once the module was cut as theirs was. Raises as ``load`` does.
    """
    module, declared = _fitting(arch, state)
    return _finish(module, merge(input_shape, None, declared), None)


def merge(input_shape: tuple[int, ...] | None, data: ModelSpec | None, arch: ModelSpec | None) -> ModelSpec:
    """Return the spec of the model from what the user, the data and the architecture say.

    The shape is the user's, else the data's, else the architecture's; everything else is the data's, else the
    architecture's. Without either, and where the normalisation is for another number of channels, it is ImageNet's
    for three channels and 0.5 for any other number. Raises BadOption when nobody knows the shape.
    """
    known = data or arch
    if input_shape is None and known is None:
        raise BadOption("neither data nor architecture tell the input shape; give it with --input, such as 1x3x224x224")
    shape = input_shape if input_shape is not None else known.input_shape if known else ()
    if len(shape) != 4 or min(shape) < 1:
        raise BadOption(f"the input shape is four numbers above zero (batch, channels, height, width), not {shape}")
    merged = dataclasses.replace(known, input_shape=shape) if known else ModelSpec(shape)
    stride = max(merged.head.get("strides", (1,)))
    if shape[2] % stride or shape[3] % stride:
        raise BadOption(
            f"height and width of --input must be multiples of {stride} for this detector, not {shape[2]}x{shape[3]}"
        )
    if len(merged.mean) == len(merged.std) == shape[1]:
        return merged
    neutral = (0.5,) * shape[1]
    return dataclasses.replace(merged, mean=neutral, std=neutral)


def _with_weights(path: Path, source: Source) -> tuple[nn.Module, ModelSpec | None, Kind, tuple[str, ...]]:
    """Return network, declared spec, kind and notes for a model file, put into the architecture if one is named."""
    found, kind, notes = _read(path, source.trust_pickle)
    content, wrapped_in = state_dict.unwrap(found, str(path))
    if wrapped_in:
        notes += (f"took the weights under {'.'.join(wrapped_in)!r} of {path}",)
    for family, (title, kind_of_file, options) in _DETECTORS.items():
        if isinstance(content, nn.Module) and family.is_checkpoint(content):
            if source.arch is not None:
                raise BadOption(f"{path} is {title} checkpoint and holds its own architecture; leave --arch away")
            training = found.get(options) if isinstance(found, Mapping) else None
            return *family.build(content, training, str(path)), kind_of_file, notes
    if isinstance(content, nn.Module):
        kind = "pickle"
        with _incomplete(path):
            if source.arch is None:
                if yolov5.is_part(content):
                    raise BadModel(f"{path} holds layers of a YOLOv5 network, not the whole; give its own checkpoint")
                notes += state_dict.to_float32(content)
                return content.eval(), zoo.declared(content, str(path)), kind, notes
            content = content.state_dict()
    if source.arch is None:
        raise BadModel(f"{path} holds the weights of a network but not the network; name it with {_ARCH_FORMS}")
    module, declared = _fitting(source.arch, content)
    return module, declared, kind, notes + state_dict.load(module, content, source.arch, str(path))


@contextmanager
def _incomplete(path: Path) -> Iterator[None]:
    """Answer for a pickled module that lacks what the installed version of its class expects."""
    try:
        yield
    except BadModel:
        raise
    except Exception as error:  # whatever its code does without its attributes
        raise BadModel(
            f"{path} holds a module of another version of its class ({type(error).__name__}: {first_line(error)}); "
            f"save its state_dict() where it works and give --arch"
        ) from error


def _read(path: Path, trust_pickle: bool) -> tuple[Any, Kind, tuple[str, ...]]:
    """Open a file once, so that what is checked is what is loaded, and return what it holds."""
    if not path.exists():
        raise BadModel(f"there is no model file {path}; check the path")
    if path.is_dir():
        raise BadModel(f"{path} is a folder; name the model file in it")
    if not path.is_file():
        raise BadModel(f"{path} is not a regular file; copy it to one")
    try:
        with path.open("rb") as file:
            sniffed = sniff(file, path)
            if sniffed.kind == "safetensors":
                return read_safetensors(path), "safetensors", ()
            found, trusted = archive.read(file, sniffed, path, trust_pickle)
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from error
    note = f"--trust-pickle: {path} was free to run code of its own while it was loaded"
    return found, "state-dict", (note,) if trusted else ()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name. Raises BadModel when it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)  # checks the header against the file before it allocates
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BadModel(f"{path} is truncated or damaged ({first_line(error)}); copy or download it again") from error


def _fitting(arch: str, state: Mapping[str, Tensor]) -> tuple[nn.Module, ModelSpec | None]:
    """Build an architecture, with as many classes as the checkpoint's head has where the zoo lets us choose."""
    module, declared = zoo.build(arch)
    head = zoo.head(module, arch)
    stored = state_dict.head_size(state, module, head)
    own = state_dict.head_size(module.state_dict(), module, head)
    return zoo.build(arch, stored) if stored not in (None, own) else (module, declared)


def _finish(module: nn.Module, spec: ModelSpec, classes: int | None) -> TorchModel:
    inputs = torch.randn(spec.input_shape, generator=torch.Generator().manual_seed(0))
    model = TorchModel(module.eval().requires_grad_(True), spec, (inputs,))
    model.verify()
    if classes is not None:
        with torch.no_grad():
            outputs = module(inputs)[0].numel()
        if outputs != classes:
            raise BadModel(f"the model gives {outputs} classes but the data has {classes}; give the data it is for")
    return model


def _digests(source: Source) -> dict[str, str]:
    """Return the sha256 of the model file and of a user's architecture file, by role."""
    named = {"model": source.model, "arch": zoo.Arch.parse(source.arch).file if source.arch else None}
    return {role: file_digest(path) for role, path in named.items() if path is not None}
