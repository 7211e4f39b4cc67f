"""From a request to an original and its task: what the model and the data say about each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.compiler.request import Request, configure
from edgeprune.errors import BadData, BadOption
from edgeprune.frontends.checkpoint import Loaded, Source, load
from edgeprune.frontends.detector import with_classes
from edgeprune.model import ModelSpec, Surgery, TorchModel, file_digest
from edgeprune.tasks import sources
from edgeprune.tasks.base import Task
from edgeprune.tasks.boxes.dataset import is_detection
from edgeprune.tasks.classification import Classification
from edgeprune.tasks.custom import load_task
from edgeprune.tasks.detection import Detection
from edgeprune.tasks.synthetic import Synthetic, warm_batchnorm


@dataclass(frozen=True)
class Opened:
    """An original with the task it is judged by. ``files`` maps roles to sha256, for keys, recipe and manifest.

    ``transfer`` says that the original's head is new and must be trained before it is worth anything.
    """

    original: TorchModel
    task: Task
    kind: str
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    transfer: bool = False

    @cached_property
    def inputs(self) -> dict[str, str]:
        """All that a build is made from, by role, as sha256. The original is exported for its own, so it is done once.
        """
        return {**self.files, "original": self.original.digest(), "data": self.task.digest()}

    @property
    def has_data(self) -> bool:
        """Whether the task rests on real data."""
        return self.task.name != "synthetic"


def open_request(request: Request, module: nn.Module | TorchModel | None = None, task: Task | None = None) -> Opened:
    """Load model and data. Raises BadInput subclasses for anything that cannot be used together."""
    if task is not None or ":" in request.task:
        _require_no_options(request)
    with torch.random.fork_rng(devices=[]):  # an architecture without a model file draws its weights
        torch.manual_seed(request.seed)
        loaded = _given(module, task, request) if module is not None else _load(request)
    notes = list(loaded.notes)
    original, transfer = loaded.model, False
    if task is None and _kind(request, original.spec) == "detection" and request.data is not None:
        task = _detection(request, original.spec)
    if isinstance(task, Detection):
        notes += task.notes()
        transfer = task.foreign
        if transfer:
            original = with_classes(original, task.spec().classes, request.seed)
    if task is None:
        task = _task(request, original)
    if task is None:
        if warm_batchnorm(original, request.seed):
            notes.append("the model is untrained: its batch norms were warmed up on synthetic input")
        task = Synthetic(original, request.seed)
        done = "trained or searched, and int8 is what that build made of it"
        done = done if loaded.kind == "build" else "trained, searched or lowered to int8"
        notes.append(f"no --data: the accuracy floor is unchecked; nothing is {done}")
    else:
        original = dataclasses.replace(original, spec=_merged(original.spec, task.spec()))
        check = getattr(task, "check_model", None)
        if check is not None:
            check(int(original.module(*original.inputs).shape[1]))
    files = dict(loaded.files)
    if ":" in request.task:
        files["task"] = file_digest(Path(request.task.rpartition(":")[0]))
    return Opened(original, task, loaded.kind, files, tuple(notes), transfer)


def _load(request: Request) -> Loaded:
    if request.model is not None and (request.model / "manifest.json").is_file():
        return _reopened(request, request.model)
    source = Source(request.model, request.arch, request.trust_pickle)
    try:
        return load(source, request.input_shape)
    except BadOption:
        # Neither the option nor the architecture knows the input shape: the task may.
        spec = None if request.input_shape else _told_by_task(request)
        if spec is None:
            raise
        return load(source, spec.input_shape, spec)


def _reopened(request: Request, folder: Path) -> Loaded:
    """Return the model of an earlier build: what that build made is the original of this one."""
    from edgeprune.compiler.load import reopen  # recipes hold requests, so reading one comes after this file

    model = reopen(folder, request.arch)
    if request.input_shape is not None:
        inputs = torch.randn(request.input_shape, generator=torch.Generator().manual_seed(0))
        spec = dataclasses.replace(model.spec, input_shape=request.input_shape)
        model = dataclasses.replace(model, spec=spec, inputs=(inputs,))
    model.module.requires_grad_(True)
    model.verify()
    notes = (f"{folder} is a build: its model, in float32, is the original here, and drops are counted from it",)
    files = {"model": file_digest(folder / "model.safetensors")}
    if request.arch is not None and ".py:" in request.arch:
        files["arch"] = file_digest(Path(request.arch.rpartition(":")[0]))
    return Loaded(model, "build", notes, files)


def _told_by_task(request: Request) -> ModelSpec | None:
    """Return what the data says about the model's input, where no model has been asked yet."""
    if ":" in request.task:
        return load_task(request.task, request.data, request.seed).spec()
    if request.data is None or _kind(request, None) == "detection":  # boxes do not say how large an image is
        return None
    return _classification(request, None).spec()


def _given(module: nn.Module | TorchModel, task: Task | None, request: Request) -> Loaded:
    if isinstance(module, TorchModel):
        # What it was cut from is not here: it counts as uncut, and only its zeros are to stay.
        model = dataclasses.replace(module.clone(), surgery=Surgery(masks=module.surgery.masks))
    else:
        spec = task.spec() if task else _told_by_task(request)
        shape = request.input_shape or (spec.input_shape if spec else None)
        if shape is None:
            raise BadOption("give input_shape=(1, C, H, W), or data or a task that tell it")
        inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
        model = TorchModel(module, spec or ModelSpec(tuple(shape)), inputs).clone()
    model.module.eval().requires_grad_(True)
    model.verify()
    return Loaded(model, "module", (), {})


def _task(request: Request, original: TorchModel) -> Task | None:
    if ":" in request.task:
        return load_task(request.task, request.data, request.seed)
    return None if request.data is None else _classification(request, original.spec)


def _require_no_options(request: Request) -> None:
    """Raise BadOption for options of a task that is not opened here."""
    for name in request.settings.get("task", {}):
        raise BadOption(f"task.{name} is for a task that edgeprune opens; one that is given says itself what it does")


def _kind(request: Request, spec: ModelSpec | None) -> str:
    """Return which task is meant: the one that is named, else what the model's head says, else what the data looks
    like.

    Raises BadOption for an unknown name and BadData when model and data are for different things.
    """
    if ":" in request.task:
        return request.task
    if request.task not in ("auto", "classification", "detection"):
        raise BadOption(
            f"unknown task {request.task!r}; known: auto, classification, detection, or file.py:Name for your own"
        )
    boxes = request.data is not None and is_detection(sources.resolve(request.data))
    detector = spec is not None and "format" in spec.head
    if boxes and spec is not None and not detector:
        raise BadData(f"{request.data} holds boxes, but the model is no detector; give a detector, or other data")
    if detector and request.task == "classification":
        raise BadOption("the model is a detector; leave --task away")
    if request.task == "auto":
        return "detection" if boxes or detector else "classification"
    return request.task


def _classification(request: Request, spec: ModelSpec | None) -> Classification:
    assert request.data is not None
    return Classification.open(request.data, spec, seed=request.seed, **_asked(request, Classification(request.data)))


def _detection(request: Request, spec: ModelSpec) -> Detection:
    assert request.data is not None
    return Detection.open(request.data, spec, seed=request.seed, **_asked(request, Detection(request.data, spec)))


def _asked(request: Request, defaults: Classification | Detection) -> dict[str, Any]:
    """Return the task's options that the user set. Raises BadOption for one that is not the user's to set."""
    settings = request.settings.get("task", {})
    for name in ("data", "seed"):
        if name in settings:
            raise BadOption(f"task.{name} is the build's own; give it with --{name}")
    if "model" in settings:
        raise BadOption("task.model is what the model file says of itself; leave it away")
    asked = configure(defaults, settings, "task") if settings else None
    return {name: getattr(asked, name) for name in settings}


def _merged(model: ModelSpec, data: ModelSpec) -> ModelSpec:
    """The data's view wins (it was opened with the model's), the model keeps its own input shape and head."""
    return dataclasses.replace(data, input_shape=model.input_shape, head=model.head)
