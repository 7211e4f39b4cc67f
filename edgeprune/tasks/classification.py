"""Image classification: top-1 accuracy on image folders and arrays."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.errors import BadData, BadModel, BadOption, nearest
from edgeprune.model import ModelSpec, Predict
from edgeprune.report import Score
from edgeprune.tasks import sampling, sources
from edgeprune.tasks.base import Batch, Split, SplitInfo, Task
from edgeprune.tasks.images import DecodedImages, Images, Resize, StackedImages
from edgeprune.tasks.sources import Found, Source

AUGMENTS = ("none", "crop", "flip", "crop+flip")
CHUNK = 250
"""Images scored at a time; also the most images the evaluator holds as floats."""
_DEFAULTS = {1: ((0.5,), (0.5,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """A labelled image set: see ``sources.LAYOUTS``. Options left at None follow the model's spec, then the data.

    - ``size``: height and width the model takes, in pixels (one number for square images).
    - ``mean``, ``std``: one number a channel, for pixels in [0, 1]; by default ImageNet's for colour, 0.5 for grey.
    - ``resize``: the evaluation transform, see ``images.Resize``; by default ``crop 0.875 bicubic`` for folders and
      ``none`` for arrays.
    - ``augment``: ``crop`` (zero padding of an eighth of the size, then a random crop), ``flip`` (left-right, half of
      the images), ``crop+flip`` or ``none``. By default ``crop+flip`` for colour and ``crop`` for grey images: a
      mirrored digit is no digit.
    - ``batch``: images a training batch. ``calibration``: images for quantizer and BatchNorm statistics, stratified.
    - ``seed``: fixes which half of an evaluation split judges inside a build, and the calibration images.
    - ``label_smoothing``: of the cross entropy, in [0, 1).
    """

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "top-1 accuracy"
    searching: ClassVar[Mapping[str, Any]] = {"objective": "agreement"}
    training: ClassVar[Mapping[str, Any]] = {"hints": 1.0}

    data: Path
    size: int | tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str | None = None
    augment: str | None = None
    batch: int = 128
    calibration: int = 256
    seed: int = 0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        size = 1 if self.size is None else self.size
        smallest = min(size) if isinstance(size, tuple) else size
        for option, value in (("batch", self.batch), ("calibration", self.calibration), ("size", smallest)):
            if value < 1:
                raise BadOption(f"task.{option} must be at least 1, not {value}")
        if self.channels not in (None, 1, 3):
            raise BadOption(f"the model takes {self.channels} channels; classification reads images of 1 or 3")
        if self.augment is not None and self.augment not in AUGMENTS:
            raise BadOption(f"unknown task.augment {self.augment!r}{nearest(self.augment, AUGMENTS)}")
        if self.resize is not None:
            Resize.parse(self.resize)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise BadOption(f"task.label_smoothing is a fraction in [0, 1), not {self.label_smoothing}")
        if self.std is not None and min(self.std, default=0.0) <= 0.0:
            raise BadOption(f"task.std must be above zero in every channel, not {self.std}")

    @classmethod
    def open(cls, data: Path, spec: ModelSpec | None = None, seed: int = 0, **options: Any) -> Classification:
        """Read the dataset; what ``options`` (the fields) leave open is taken from the model's spec.

        Raises BadData for a dataset that cannot be used and BadOption for an option that cannot.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"data", "seed"}
        for option in options:
            if option not in known:
                raise BadOption(f"unknown option task.{option}{nearest(option, known)}")
        path = sources.resolve(Path(data))
        task = cls(path, seed=seed, **{**_from_spec(spec), **{k: v for k, v in options.items() if v is not None}})
        task._splits  # noqa: B018  (a dataset that cannot be used is refused here, not in the middle of a build)
        return task

    # --- what the data is ---------------------------------------------------------------------------------------------

    def spec(self) -> ModelSpec:
        """Return input shape, normalisation, evaluation transform and class names."""
        shape, (mean, std) = self._shape, self._normalisation
        return ModelSpec((1, *shape), mean, std, self._resize, "RGB" if shape[0] == 3 else "L", self._source.classes)

    def splits(self) -> tuple[SplitInfo, ...]:
        """Return train, search and test with their sizes and origins."""
        train, whole = self._source.train, self._source.evaluation
        if len(whole) == 2:
            origins = [f"{found.name}, whole; apart from train" for found in whole]
        else:
            origins = [f"{half} half of {whole[0].name}, stratified by class, seed {self.seed}; apart from train"
                       for half in ("one", "the other")]
        sizes = [len(indices) for _, _, indices in self._splits.values()]
        return (
            SplitInfo("train", len(train.labels), f"{train.name}, whole"),
            SplitInfo("search", sizes[0], origins[0]),
            SplitInfo("test", sizes[1], origins[1]),
        )

    def check_model(self, outputs: int) -> None:
        """Raise BadData if a model of so many outputs cannot name every class of the data."""
        classes = len(self._source.classes)
        if classes > outputs:
            raise BadData(
                f"{self.data} has {classes} classes but the model has {outputs} outputs; give the data the model was "
                f"trained for, or a model with {classes} outputs"
            )

    def digest(self) -> str:
        """Return the sha256 over the content of every image, its label and name, and all options but the path."""
        return self._digest

    # --- training -----------------------------------------------------------------------------------------------------

    def train_steps(self) -> int:
        """Return the number of whole batches in the training split, at least one."""
        return max(1, len(self._source.train.labels) // self.batch)

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield shuffled, augmented batches; targets are int64 (n,).

        Images that do not fill a last batch are left out of this epoch: another shuffle brings them back, and
        BatchNorm cannot train on a batch of one.
        """
        rng = np.random.default_rng([seed, epoch])
        labels = self._source.train.labels
        order = rng.permutation(len(labels))
        for step in range(self.train_steps()):
            chosen = order[step * self.batch : (step + 1) * self.batch]
            pixels = sampling.augmented(self._train.read(chosen), self._augment, rng)
            yield Batch(torch.from_numpy(self._normalised(pixels)), torch.from_numpy(labels[chosen]))

    def calibration_batches(self) -> Iterator[Tensor]:
        """Yield batches of up to 128 training images, not augmented; every prefix holds the classes about evenly."""
        order = sampling.round_robin(self._source.train.labels, self.seed)[: self.calibration]
        for start in range(0, len(order), 128):
            yield torch.from_numpy(self._normalised(self._train.read(order[start : start + 128])))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy."""
        return F.cross_entropy(output, batch.targets, label_smoothing=self.label_smoothing)

    # --- scoring ------------------------------------------------------------------------------------------------------

    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        """Return top-1 accuracy; ``per_item`` is 1 where the largest output is the label's, else 0.

        An output row that is not finite counts as wrong. Raises BadModel unless the outputs have shape (n, k) with k at
        least the number of classes.
        """
        images, labels, members = self._splits[split]
        chosen = members if indices is None else members[np.asarray(indices, np.int64)]
        right = np.zeros(len(chosen))
        for start in range(0, len(chosen), CHUNK):
            chunk = chosen[start : start + CHUNK]
            outputs = predict(self._normalised(images.read(chunk)))
            if outputs.ndim != 2 or len(outputs) != len(chunk) or outputs.shape[1] < len(self._source.classes):
                raise BadModel(
                    f"a classifier of this data gives outputs of shape ({len(chunk)}, {len(self._source.classes)} or "
                    f"more) for {len(chunk)} images, but this model gave {outputs.shape}"
                )
            hits = (outputs.argmax(1) == labels[chunk]) & np.isfinite(outputs).all(1)
            right[start : start + len(chunk)] = hits
        return Score(float(right.mean()) if len(right) else 0.0, len(right), right)

    # --- the data, read once ------------------------------------------------------------------------------------------

    @cached_property
    def _source(self) -> Source:
        return sources.read(self.data)

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        pixels = self._source.train.pixels
        if self.size is not None:
            height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        elif pixels is not None:
            height, width = pixels.shape[1:3]
        else:
            raise BadOption("the files of an image folder have no common size; give one with --set task.size=224")
        channels = self.channels or (3 if pixels is None else pixels.shape[3])
        return channels, height, width

    @cached_property
    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        channels = self._shape[0]
        mean, std = self.mean or _DEFAULTS[channels][0], self.std or _DEFAULTS[channels][1]
        if {len(mean), len(std)} != {channels}:
            raise BadOption(f"the images have {channels} channels but task.mean has {len(mean)} numbers and task.std "
                            f"{len(std)}; give one a channel")
        return mean, std

    @property
    def _resize(self) -> str:
        return self.resize or ("none" if self._source.train.pixels is not None else "crop 0.875 bicubic")

    @property
    def _augment(self) -> str:
        return self.augment or ("crop+flip" if self._shape[0] == 3 else "crop")

    @cached_property
    def _train(self) -> Images:
        return self._images(self._source.train)

    @cached_property
    def _splits(self) -> dict[Split, tuple[Images, NDArray[np.int64], NDArray[np.int64]]]:
        """Images, all labels and this split's members of them, for search and test."""
        first, *rest = self._source.evaluation
        images = self._images(first)
        if rest:
            test_images, labels = self._images(rest[0]), rest[0].labels
            return {
                "search": (images, first.labels, np.arange(len(first.labels))),
                "test": (test_images, labels, np.arange(len(labels))),
            }
        search, test = sampling.halves(first.labels, self.seed, first.name)
        return {"search": (images, first.labels, search), "test": (images, first.labels, test)}

    def _images(self, found: Found) -> Images:
        channels, height, width = self._shape
        if found.pixels is None:
            return DecodedImages(found.files, self._shape, Resize.parse(self._resize))
        pixels = found.pixels
        if pixels.shape[3] > channels:
            raise BadData(f"{found.name} holds colour images but the model takes grey ones; convert the images")
        pixels = np.broadcast_to(pixels, (*pixels.shape[:3], channels))  # a model for colour sees grey three times
        if self._resize != "none":
            return DecodedImages(pixels, self._shape, Resize.parse(self._resize))
        if pixels.shape[1:3] != (height, width):
            raise BadData(
                f"{found.name} holds {pixels.shape[1]}x{pixels.shape[2]} images but the model takes {height}x{width}; "
                f"resize them with --set task.resize='squash bilinear', or give the model's real --input"
            )
        return StackedImages(pixels)

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = (np.asarray(v, np.float32)[:, None, None] for v in self._normalisation)
        scaled = np.multiply(pixels, 1 / (255 * std), dtype=np.float32)
        scaled -= mean / std
        return scaled

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "data"}
        digest.update(repr((sorted(options.items()), self.spec(), self._augment)).encode())
        for found in (self._source.train, *self._source.evaluation):
            found.update(digest)
        return digest.hexdigest()


def _from_spec(spec: ModelSpec | None) -> dict[str, Any]:
    """Return the options a model's spec decides. A normalisation of another channel count is nobody's and left out."""
    if spec is None:
        return {}
    _, channels, height, width = spec.input_shape
    options: dict[str, Any] = {"channels": channels, "size": (height, width)}
    if len(spec.mean) == len(spec.std) == channels:
        options |= {"mean": spec.mean, "std": spec.std}
    if spec.resize != "none":
        options["resize"] = spec.resize
    return options
