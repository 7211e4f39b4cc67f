"""Object detection: COCO's mAP50-95 on YOLO data.yaml datasets and on KITTI's own tree."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.errors import BadData, BadOption, nearest
from edgeprune.model import ModelSpec, Predict
from edgeprune.report import Score
from edgeprune.tasks import sources
from edgeprune.tasks.base import Batch, Split, SplitInfo, Task
from edgeprune.tasks.boxes import dataset, objective
from edgeprune.tasks.boxes.annotations import Found, Source
from edgeprune.tasks.boxes.augment import Augment, augmented
from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.boxes.holding import halves, held_out
from edgeprune.tasks.boxes.letterbox import Letterbox
from edgeprune.tasks.boxes.pictures import Picture, Pictures
from edgeprune.tasks.boxes.precision import Truth, precision
from edgeprune.tasks.boxes.scenes import scenes
from edgeprune.tasks.boxes.suppression import Detections, Suppression

Transfer = Literal["auto", "always", "never", "done"]

CHUNK = 32
"""Images scored at a time."""
REPLICATES = 1000
"""Bootstrap resamples behind the interval of a drop."""


@dataclass(frozen=True, eq=False)
class Detection(Task):
    """Boxes in images: see ``boxes.dataset.LAYOUTS``. Everything about the input is the model's: ``model`` is its spec.

    - ``transfer``: whether the model's head is for other classes than the data's and must be trained first; by default
      it is where the class names differ. A model trained here has seen none of the data before, so its search split is
      cut from train, by drive where drives are known and else by scene (images that look alike), and the evaluation
      split is test as it stands. ``done`` says that such a model is given: the same splits, nothing to train.
    - ``batch``: images a training batch. ``calibration``: images for quantizer and BatchNorm statistics.
    - ``confidence``, ``iou``: of the suppression behind mAP. A user's own application will want a higher confidence.
    - ``mosaic``: share of training images made of four; ``scale`` and ``translate``: largest change of size and place,
      as fractions; ``flip``: share mirrored; ``hue``, ``saturation``, ``value``: largest change of colour.
    - ``seed``: fixes the splits that are drawn, the calibration images and the bootstrap.
    """

    name: ClassVar[str] = "detection"
    metric: ClassVar[str] = "mAP50-95"
    training: ClassVar[Mapping[str, Any]] = {"lr": 0.01, "momentum": 0.937, "average": 0.998, "hints": 0.5}
    searching: ClassVar[Mapping[str, Any]] = {"recalibration": 32}  # large images: each holds thousands of samples
    epochs: ClassVar[Mapping[str, int]] = {"quick": 5, "normal": 15, "long": 50}

    data: Path
    model: ModelSpec
    transfer: Transfer = "auto"
    batch: int = 8
    calibration: int = 96
    confidence: float = 0.001
    iou: float = 0.6
    mosaic: float = 0.5
    scale: float = 0.4
    translate: float = 0.1
    flip: float = 0.5
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        for option in ("batch", "calibration"):
            if getattr(self, option) < 1:
                raise BadOption(f"task.{option} must be at least 1, not {getattr(self, option)}")
        if self.transfer not in get_args(Transfer):
            raise BadOption(f"task.transfer is auto, always, never or done, not {str(self.transfer)[:40]!r}")
        try:
            self._augment, self._suppression  # noqa: B018  (their own ranges are theirs to check)
        except ValueError as error:
            raise BadOption(f"task: {error}") from error

    @classmethod
    def open(cls, data: Path, model: ModelSpec, seed: int = 0, **options: Any) -> Detection:
        """Read the dataset. Raises BadData for one that cannot be used and BadOption for an option that cannot."""
        known = {f.name for f in dataclasses.fields(cls)} - {"data", "model", "seed"}
        for option in options:
            if option not in known:
                raise BadOption(f"unknown option task.{option}{nearest(option, known)}")
        task = cls(sources.resolve(Path(data)), model, seed=seed, **options)
        task._splits  # noqa: B018  (a dataset that cannot be used is refused here, not in the middle of a build)
        return task

    # --- what the data is ---------------------------------------------------------------------------------------------

    @property
    def foreign(self) -> bool:
        """Whether the model's head must be changed for the data's classes and trained."""
        if self.transfer != "auto":
            if self.transfer in ("never", "done") and len(self.model.classes) != len(self._source.classes):
                raise BadData(
                    f"{self.data} has {len(self._source.classes)} classes but the model {len(self.model.classes)}; "
                    f"leave task.transfer at auto to train a head for them"
                )
            return self.transfer == "always"
        ours, theirs = ([name.casefold() for name in names] for names in (self.model.classes, self._source.classes))
        return ours != theirs

    def spec(self) -> ModelSpec:
        """Return the model's spec with the data's class names."""
        return dataclasses.replace(self.model, classes=self._source.classes)

    def splits(self) -> tuple[SplitInfo, ...]:
        """Return train, search and test with their sizes and origins."""
        return tuple(SplitInfo(name, len(found.files), found.name) for name, found in self._splits.items())

    def notes(self) -> tuple[str, ...]:
        """Return what was mended in the data, and what will be done with the model, a sentence each."""
        if not self.foreign:
            return self._source.notes
        known = {name.casefold() for name in self.model.classes}
        kept = [name for name in self._source.classes if name.casefold() in known]
        rows = f"; it goes on from the model's own {', '.join(kept)}" if kept else ""
        return (
            *self._source.notes,
            f"the model's {len(self.model.classes)} classes are not the data's ({', '.join(self._source.classes[:8])}"
            f"{', …' if len(self._source.classes) > 8 else ''}): its head is trained for them first{rows}",
        )

    def digest(self) -> str:
        """Return the sha256 over the content of every image, its labels and name, and all options but the path."""
        return self._digest

    # --- training -----------------------------------------------------------------------------------------------------

    def train_steps(self) -> int:
        """Return the number of whole batches in the training split, at least one."""
        return max(1, len(self._splits["train"].files) // self.batch)

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield shuffled, augmented batches; targets are the two tensors that ``boxes.objective.loss`` takes.

        Images that do not fill a last batch are left out of this epoch: another shuffle brings them back.
        """
        pictures = self._pictures["train"]
        order = np.random.default_rng([seed, epoch]).permutation(len(pictures))
        for step in range(self.train_steps()):
            chosen = order[step * self.batch : (step + 1) * self.batch].tolist()
            draws = [np.random.default_rng([seed, epoch, index]) for index in chosen]
            items = [augmented(pictures, i, rng, self._augment) for i, rng in zip(chosen, draws, strict=True)]
            inputs = self._normalised(np.stack([item.pixels for item in items]))
            yield Batch(torch.from_numpy(inputs), _targets(items))

    def calibration_batches(self) -> Iterator[Tensor]:
        """Yield batches of training images, letterboxed and not augmented."""
        pictures = self._pictures["train"]
        order = np.random.default_rng([self.seed, 0xCA11B]).permutation(len(pictures))[: self.calibration]
        for start in range(0, len(order), CHUNK):
            yield torch.from_numpy(self._normalised(pictures.pixels(order[start : start + CHUNK])))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the label loss of the head's format."""
        return objective.loss(self._head, output, *batch.targets)

    def distance(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the distance of raw heads, weighed by where the teacher sees objects; nothing is softened."""
        return objective.distance(self._head, output, taught)

    # --- scoring ------------------------------------------------------------------------------------------------------

    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        """Return mAP50-95; ``per_item`` is each image's F1 (see ``boxes.precision``).

        The score carries its bootstrap replicates. Raises BadModel unless the outputs are raw heads
        of this data's classes.
        """
        pictures = self._pictures[split]
        chosen = np.asarray(range(len(pictures)) if indices is None else indices, np.int64)
        found: list[Detections] = []
        for start in range(0, len(chosen), CHUNK):
            members = chosen[start : start + CHUNK]
            raw = predict(self._normalised(pictures.pixels(members)))
            self._head.check(raw.shape)
            found += self._suppression(*self._head.decode(torch.from_numpy(raw)))
        truth = [Truth(*pictures.labels(index)) for index in chosen.tolist()]
        judged = precision(found, truth, len(self._source.classes), REPLICATES, self.seed)
        return Score(judged.map, len(chosen), judged.per_image, judged.replicates)

    # --- the data, read once ------------------------------------------------------------------------------------------

    @cached_property
    def _source(self) -> Source:
        return dataset.read(self.data, self.seed)

    @cached_property
    def _head(self) -> Head:
        return Head.of(self.spec())

    @cached_property
    def _splits(self) -> dict[str, Found]:
        train, (first, *rest) = self._source.train, self._source.evaluation
        if rest:
            return {"train": train, "search": first, "test": rest[0]}
        if self.foreign or self.transfer == "done":
            unit = "drive" if any(train.drives) else "scene"
            if unit == "scene":
                train = dataclasses.replace(train, drives=scenes(train.files))
            train, search = held_out(train, self.seed, unit)
            return {"train": train, "search": search, "test": first}
        search, test = halves(first, self.seed)
        return {"train": train, "search": search, "test": test}

    @cached_property
    def _pictures(self) -> dict[str, Pictures]:
        size, fill = (self._head.height, self._head.width), Letterbox.parse(self.model.resize).fill
        return {name: Pictures(found, *size, fill) for name, found in self._splits.items()}

    @property
    def _augment(self) -> Augment:
        return Augment(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Augment)})

    @property
    def _suppression(self) -> Suppression:
        return Suppression(self.confidence, self.iou)

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (self.model.mean, self.model.std))
        scaled = np.multiply(pixels, 1 / (255 * std), dtype=np.float32)
        scaled -= mean / std
        return scaled

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("data", "model")}
        digest.update(repr((sorted(options.items()), self.spec().to_json(), self.foreign)).encode())
        for name, found in self._splits.items():
            digest.update(name.encode())
            found.update(digest)
        return digest.hexdigest()


def _targets(items: Sequence[Picture]) -> tuple[Tensor, Tensor]:
    """Return (m, 6) objects: image, class, cx, cy, w, h; and (k, 5) ignored regions: image, xyxy. In pixels."""
    objects, regions = [np.zeros((0, 6), np.float32)], [np.zeros((0, 5), np.float32)]
    for number, item in enumerate(items):
        corner, far = item.boxes[:, :2], item.boxes[:, 2:]
        first = np.full((len(item.boxes), 1), number, np.float32)
        objects.append(np.concatenate([first, item.classes[:, None], (corner + far) / 2, far - corner], 1))
        regions.append(np.concatenate([np.full((len(item.ignored), 1), number, np.float32), item.ignored], 1))
    return tuple(torch.from_numpy(np.concatenate(rows).astype(np.float32)) for rows in (objects, regions))  # type: ignore[return-value]
