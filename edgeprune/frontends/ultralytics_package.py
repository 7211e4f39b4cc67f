"""The installed package ultralytics: imported quietly, and asked for the classes and networks it has names for."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import BadOption, MissingPackage, nearest
from edgeprune.frontends.ultralytics import SUPPORTED

_LAYERS: Mapping[str, tuple[str, ...]] = {
    "ultralytics.nn.modules.block": (
        "Attention", "Bottleneck", "C2", "C2PSA", "C2f", "C2fPSA", "C3", "C3k", "C3k2", "DFL", "PSA", "PSABlock", "SPP",
        "SPPF",
    ),
    "ultralytics.nn.modules.conv": ("Concat", "Conv", "DWConv"),
    "ultralytics.nn.modules.head": ("Detect",),
}
_OTHERS: Mapping[str, tuple[str, ...]] = {
    "ultralytics.nn.tasks": ("DetectionModel",),
    "ultralytics.utils": ("IterableSimpleNamespace",),  # the training's options
    "ultralytics.utils.loss": ("BboxLoss", "DFLoss", "v8DetectionLoss"),  # of a training that was interrupted
    "ultralytics.utils.tal": ("TaskAlignedAssigner",),
}


def _qualified() -> dict[str, tuple[str, str]]:
    here = {f"{module}.{n}": (module, n) for m in (_LAYERS, _OTHERS) for module, found in m.items() for n in found}
    flat = {f"ultralytics.nn.modules.{n}": (module, n) for module, found in _LAYERS.items() for n in found}
    moved = {name.replace("ultralytics.utils", "ultralytics.yolo.utils"): home for name, home in here.items()}
    return here | flat | moved


NAMES: Mapping[str, tuple[str, str]] = _qualified()
"""What a detector's checkpoint may name: the name in the file -> (module, attribute) of today's package.

Releases before 8.0.67 had all layers in one module, those before 8.0.136 their helpers below ``yolo``.
"""

NAMESPACES = frozenset(name for name in NAMES if name.endswith(".IterableSimpleNamespace"))
"""Those of NAMES that a checkpoint makes by a call, without arguments."""


def resolve(name: str) -> Any:
    """Return the class one of NAMES stands for, or None where the installed release has none. Raises MissingPackage."""
    module, attribute = NAMES[name]
    try:
        return getattr(_imported(module, f"a checkpoint that names {name}"), attribute, None)
    except ModuleNotFoundError:
        return None


def build(name: str, classes: int | None) -> nn.Module:
    """Return the package's DetectionModel of one of its own yaml files, ``yolov8n`` or ``yolov8n.yaml``, with random
    weights from torch's generator.

    ``classes`` None takes the file's number. Raises BadOption for a name the package has no file for, or a size that is
    missing, or another task than detection; MissingPackage.
    """
    purpose = f"--arch ultralytics:{name}"
    tasks = _imported("ultralytics.nn.tasks", purpose)
    known = _known(sys.modules["ultralytics.utils"])
    described = known.get(name.removesuffix(".yaml"))
    if described is None:
        raise BadOption(f"ultralytics has no model {name!r}{_hint(name.removesuffix('.yaml'), known)}")
    head = described["head"][-1][2]
    if head != "Detect":
        raise BadOption(f"{purpose} is not a plain detector, it ends in {head}; {SUPPORTED}")
    network: nn.Module = tasks.DetectionModel(described, nc=classes, verbose=False)
    return network


def _known(utils: Any) -> dict[str, dict[str, Any]]:
    """Return the description of every network the package has a file for, by the name with its size, ``yolov8n-p2``."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((Path(utils.ROOT) / "cfg" / "models").rglob("*.yaml")):
        raw = utils.YAML.load(file)
        family = re.fullmatch(r"(yolov?\d+)(-.*)?", file.stem)
        if family and "scales" in raw:  # one file for all sizes; in others the size is in the file's name
            found.update({f"{family[1]}{size}{family[2] or ''}": {**raw, "scale": size} for size in raw["scales"]})
        else:
            size = re.match(r"yolov?\d+([a-z])", file.stem)
            found[file.stem] = {**raw, "scale": size[1] if size and size[1] in raw.get("scales", ()) else ""}
    return found


def _hint(stem: str, known: Mapping[str, object]) -> str:
    sizes = sorted(name for name in known if re.sub(r"^(yolov?\d+)[a-z]", r"\1", name) == stem)
    if sizes:
        return f"; it comes as {', '.join(sizes)}"
    hint = nearest(stem, known)
    return hint if hint.startswith("; did") else f"; among the {len(known)} it has are {', '.join(sorted(known)[:5])}"


def _imported(module: str, purpose: str) -> Any:
    """Import a module of the package. Raises MissingPackage, with what needs it, where the package is not there."""
    if find_spec("ultralytics") is None:
        raise MissingPackage("ultralytics", "ultralytics", purpose)
    try:
        if "ultralytics" in sys.modules:
            return importlib.import_module(module)
        with _quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ultralytics."):
            raise
        raise MissingPackage(str(error.name), "ultralytics", purpose) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """While it is imported the first time, the package writes a settings file, asks for the network, prints, and
    replaces torch.save: it is given a folder that goes, told it is offline, and torch is put back.
    """
    saved, before = torch.save, dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not os.environ.get("YOLO_CONFIG_DIR"):
            os.environ["YOLO_CONFIG_DIR"] = folder
        os.environ.update(YOLO_OFFLINE="true", YOLO_VERBOSE="false")
        try:
            yield
        finally:
            torch.save = saved
            for name in [n for n, value in os.environ.items() if before.get(n) != value]:
                del os.environ[name]
            os.environ.update(before)
