"""Architectures by name: ``timm:NAME``, ``torchvision:NAME``, ``ultralytics:NAME`` or ``file.py:factory``.

Weights are never downloaded.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from torch import nn

from edgeprune.errors import BadModel, BadOption, MissingPackage, nearest
from edgeprune.frontends import ultralytics, ultralytics_package
from edgeprune.model import ModelSpec, first_line

_IMAGENET_CLASSES = 1000
_FORMS = "timm:NAME, torchvision:NAME, ultralytics:NAME or file.py:factory"
_user_folders: set[Path] = set()  # whose files were imported: tells their siblings from other modules


@dataclass(frozen=True)
class Arch:
    """A parsed ``--arch``: where the network comes from and its name there. ``file`` is the user's own file, if it is
    one."""

    origin: Literal["timm", "torchvision", "ultralytics", "file"]
    name: str
    file: Path | None = None

    @staticmethod
    def parse(text: str) -> Arch:
        """Read the text form. Raises BadOption for another form and for a file that is not there."""
        left, colon, name = text.rpartition(":")
        if not colon or not left or not name:
            raise BadOption(f"--arch {text!r} is not understood; give {_FORMS}")
        if left == "timm":
            return Arch("timm", name)
        if left == "torchvision":
            return Arch("torchvision", name)
        if left == "ultralytics":
            return Arch("ultralytics", name)
        if not left.endswith(".py"):
            raise BadOption(
                f"--arch {text!r}: {left!r} is neither timm, torchvision, ultralytics nor a .py file; give {_FORMS}"
            )
        path = Path(left)
        if not path.is_file():
            raise BadOption(f"--arch {text!r}: there is no file {left}")
        return Arch("file", name, path)


def build(arch: str, classes: int | None = None) -> tuple[nn.Module, ModelSpec | None]:
    """Return a randomly initialised network and what its origin says about its input, None where that is nothing.

    ``classes`` is the number of outputs asked of timm, torchvision and ultralytics (None: their own, 1000 or 80); a
    user's factory decides alone. Raises BadOption for an unknown name, MissingPackage, and BadModel when the factory
    fails.

    The spec comes from timm's or the user's ``pretrained_cfg``, or from the transforms of torchvision's first published
    weights; its shape is (1, C, H, W).
    """
    parsed = Arch.parse(arch)
    if parsed.file is not None:
        return _from_file(parsed.file, parsed.name)
    if parsed.origin == "timm":
        module = _from_timm(parsed.name, classes)
        return module, declared(module, arch)
    if parsed.origin == "ultralytics":
        return ultralytics.build(ultralytics_package.build(parsed.name, classes), None, f"--arch {arch}")
    return _from_torchvision(parsed.name, classes), _torchvision_spec(parsed.name)


def declared(module: object, label: str) -> ModelSpec | None:
    """Return what the attribute ``pretrained_cfg`` of a network, or of the file that defines it, says about its input.

    It is a mapping in timm's convention: input_size (C, H, W), and, where they are not ImageNet's, mean and std (one
    number a channel, for pixels in [0, 1]); crop_pct, crop_mode and interpolation (without crop_pct, images are taken
    as they are). None without the attribute. Raises BadModel, beginning with ``label``, when it is something else.
    """
    cfg = getattr(module, "pretrained_cfg", None)
    if cfg is None:
        return None
    if not isinstance(cfg, Mapping) or "input_size" not in cfg:
        raise BadModel(f"{label}: pretrained_cfg must be a mapping with input_size (C, H, W)")
    try:
        return _from_cfg(cfg)
    except (TypeError, ValueError) as error:
        raise BadModel(
            f"{label}: pretrained_cfg is not in timm's convention ({first_line(error)}); it holds input_size "
            f"(C, H, W), mean, std, crop_pct and interpolation"
        ) from error


def head(module: nn.Module, arch: str) -> str | None:
    """Return the qualified name of the layer of a timm or torchvision network that gives the class scores, if there
    is one."""
    origin = Arch.parse(arch).origin
    if origin == "file":
        return None
    if origin == "ultralytics":
        return ultralytics.class_layer(module)
    declared = getattr(module, "pretrained_cfg", {}).get("classifier")
    if isinstance(declared, str):
        return declared
    layers = [name for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return layers[-1] if layers else None


# --- timm and torchvision ---------------------------------------------------------------------------------------------


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingPackage("timm", "timm", f"--arch timm:{name}") from error
    if not timm.is_model(name):
        raise BadOption(f"timm has no model {name!r}{_nearest(name, timm.list_models())}")
    return timm


def _from_timm(name: str, classes: int | None) -> nn.Module:
    options = {} if classes is None else {"num_classes": classes}
    return _call(lambda: _timm(name).create_model(name, pretrained=False, **options), f"timm:{name}")


def _torchvision(name: str) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingPackage("torchvision", "vision", f"--arch torchvision:{name}") from error
    known = models.list_models(module=models)
    if name not in known:
        raise BadOption(f"torchvision has no classification model {name!r}{_nearest(name, known)}")
    return models


def _from_torchvision(name: str, classes: int | None) -> nn.Module:
    count = _IMAGENET_CLASSES if classes is None else classes
    return _call(lambda: _torchvision(name).get_model(name, weights=None, num_classes=count), f"torchvision:{name}")


def _torchvision_spec(name: str) -> ModelSpec:
    """The evaluation transform of the first published weights: 224 pixels out of 256, bilinear, unless they say
    otherwise."""
    published = list(_torchvision(name).get_model_weights(name))
    keywords = published[0].transforms.keywords if published else {}
    crop, resize = keywords.get("crop_size", 224), keywords.get("resize_size", 256)
    filter_ = getattr(keywords.get("interpolation"), "value", "bilinear")
    return _from_cfg({"input_size": (3, crop, crop), "crop_pct": crop / resize, "interpolation": filter_})


def _nearest(name: str, known: list[str]) -> str:
    """As ``errors.nearest``, without printing a thousand names when nothing is near."""
    hint = nearest(name, known)
    return hint if hint.startswith("; did") else f"; among the {len(known)} it has are {', '.join(sorted(known)[:5])}"


# --- a user's file ----------------------------------------------------------------------------------------------------


def _from_file(path: Path, factory: str) -> tuple[nn.Module, ModelSpec | None]:
    label = f"{path}:{factory}"
    with _importing(path) as user:
        function = getattr(user, factory, None)
        if not callable(function):
            names = [n for n, v in vars(user).items() if callable(v) and getattr(v, "__module__", "") == user.__name__]
            hint = nearest(factory, names) if names else "; it defines no function"
            raise BadOption(f"{path} has no function {factory!r}{hint}")
        module = _call(function, label)
    return module, declared(module, label) or declared(user, str(path))


@contextmanager
def _importing(path: Path) -> Iterator[ModuleType]:
    """Import a user's file under a private name; while the block runs, it may import the files beside it.

    Files beside it stay imported under their own names, so those of another folder are forgotten first.
    """
    folder = path.resolve().parent
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin).parent in _user_folders - {folder}:
            del sys.modules[name]
    _user_folders.add(folder)
    private = f"_edgeprune_user_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    location = importlib.util.spec_from_file_location(private, path.resolve())
    assert location is not None and location.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(location)
    sys.modules[private] = module
    sys.path.insert(0, str(folder))
    try:
        try:
            location.loader.exec_module(module)
        except Exception as error:
            raise BadModel(f"{path} cannot be imported ({type(error).__name__}: {first_line(error)})") from error
        yield module
    finally:
        sys.path.remove(str(folder))


def _call(function: Any, label: str) -> nn.Module:
    """Call a factory without arguments. Raises BadModel when it fails or returns no module."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of the zoo's own are no news to its user
            module = function()
    except (BadOption, MissingPackage):
        raise
    except Exception as error:
        raise BadModel(
            f"--arch {label} failed ({type(error).__name__}: {first_line(error)}); it must return a network when "
            f"called without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise BadModel(f"--arch {label} returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _from_cfg(cfg: Mapping[str, Any]) -> ModelSpec:
    channels, height, width = (int(n) for n in cfg["input_size"])
    if min(channels, height, width) < 1:
        raise ValueError(f"input_size is {cfg['input_size']}")
    default = ModelSpec((1, channels, height, width))
    mean = tuple(float(v) for v in cfg.get("mean") or default.mean)
    std = tuple(float(v) for v in cfg.get("std") or default.std)
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(f"mean {mean} and std {std} for {channels} channels")
    interpolation = cfg.get("interpolation")
    filter_ = interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
    if cfg.get("crop_pct") is None:
        resize = "none"
    elif cfg.get("crop_mode") == "squash":
        resize = f"squash {filter_}"
    else:
        resize = f"crop {float(cast(float, cfg['crop_pct'])):.9g} {filter_}"
    return ModelSpec((1, channels, height, width), mean, std, resize)
