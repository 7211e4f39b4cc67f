"""From scored boxes to detections: class-aware non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.errors import MissingPackage


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, highest score first.

    ``boxes`` float32 (k, 4) xyxy in pixels, ``scores`` float32 (k,) in [0, 1], ``classes`` int64 (k,).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Suppression:
    """Non-maximum suppression within each class, as YOLOv5's own validation does it.

    Every class of a box whose score lies above ``confidence`` is a candidate of its own; of an image's candidates the
    ``candidates`` highest are looked at, and at most ``most`` survivors are kept. A box falls if it overlaps a higher
    one of its class by more than ``iou``. Equal scores keep the order of the boxes, so the answer is deterministic.
    """

    confidence: float = 0.001
    iou: float = 0.6
    most: int = 300
    candidates: int = 30_000

    def __post_init__(self) -> None:
        for name in ("confidence", "iou"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a fraction in [0, 1], not {getattr(self, name)}")
        for name in ("most", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def __call__(self, boxes: Tensor, scores: Tensor) -> list[Detections]:
        """Return the detections of each image, for boxes (n, K, 4) xyxy and scores (n, K, classes).

        Raises MissingPackage without torchvision.
        """
        return [self._one(b, s) for b, s in zip(boxes, scores, strict=True)]

    def _one(self, boxes: Tensor, scores: Tensor) -> Detections:
        try:
            from torchvision.ops import batched_nms
        except ImportError as error:
            raise MissingPackage("torchvision", "detection", "suppressing overlapping boxes") from error

        owners, classes = torch.nonzero(scores > self.confidence, as_tuple=True)
        ranked, order = scores[owners, classes].sort(descending=True, stable=True)
        ranked, order = ranked[: self.candidates], order[: self.candidates]
        found, classes = boxes[owners[order]], classes[order]
        if len(ranked):
            # batched_nms keeps classes apart by shifting them, which only boxes right of and below zero survive
            kept = batched_nms(found - found.min(), ranked, classes, self.iou)
            # candidates are in order of score: sorting what is kept by number undoes an unstable sort
            kept = kept.sort().values[: self.most]
            found, ranked, classes = found[kept], ranked[kept], classes[kept]
        return Detections(
            found.float().cpu().numpy().reshape(-1, 4), ranked.float().cpu().numpy(), classes.cpu().numpy()
        )
