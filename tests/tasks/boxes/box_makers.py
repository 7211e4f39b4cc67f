"""Heads, raw outputs whose answer is known, and scenes of detections, for the tests of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.model import ModelSpec
from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.boxes.matching import Truth
from edgeprune.tasks.boxes.suppression import Detections

ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
YOLOV5 = {"format": "yolov5", "strides": [8, 16, 32], "anchors": ANCHORS}
YOLOV8 = {"format": "yolov8", "strides": [8, 16, 32], "bins": 16}


def spec(head: dict[str, Any], classes: int = 3, size: tuple[int, int] = (64, 96)) -> ModelSpec:
    return ModelSpec((1, 3, *size), classes=tuple(f"kind {i}" for i in range(classes)), head=head)


def head(described: dict[str, Any], classes: int = 3, size: tuple[int, int] = (64, 96)) -> Head:
    return Head.of(spec(described, classes, size))


def random_raw(of: Head, n: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(n, of.channels(), of.positions(), generator=torch.Generator().manual_seed(seed)) * scale


def targets(*rows: tuple[float, ...]) -> Tensor:
    """Rows of (image, class, x1, y1, x2, y2) as the losses take them: image, class, cx, cy, w, h."""
    corners = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    centre, size = (corners[:, 2:4] + corners[:, 4:]) / 2, corners[:, 4:] - corners[:, 2:4]
    return torch.cat([corners[:, :2], centre, size], 1)


NOTHING_IGNORED = torch.zeros(0, 5)


def truth(boxes: Any = (), classes: Any = (), ignored: Any = ()) -> Truth:
    return Truth(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int64),
        np.asarray(ignored, np.float32).reshape(-1, 4),
    )


def found(boxes: Any = (), scores: Any = (), classes: Any = ()) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32), np.asarray(classes, np.int64)
    )


def scene(n: int, seed: int, classes: int = 4, detections: int = 20) -> tuple[list[Detections], list[Truth]]:
    """Return random images: some empty, some with regions to ignore, scores with ties, boxes near objects and not.

    The last class is detected and never there.
    """
    rng = np.random.default_rng(seed)
    seen, real = [], []
    for _ in range(n):
        objects = int(rng.integers(0, 6)) if rng.random() < 0.8 else 0
        boxes, labels = _boxes(rng, objects), rng.integers(0, classes - 1, objects)
        ignored = _boxes(rng, int(rng.integers(0, 3)) if rng.random() < 0.5 else 0, 80)
        around = np.concatenate([boxes, ignored, _boxes(rng, 3)])
        near = rng.integers(0, len(around), int(rng.integers(0, detections)))
        guesses = around[near] + rng.normal(0, 4, (len(near), 4))
        low, high = np.minimum(guesses[:, :2], guesses[:, 2:]), np.maximum(guesses[:, :2], guesses[:, 2:])
        known = np.concatenate([labels, rng.integers(0, classes - 1, len(around) - objects)])
        kinds = np.where(rng.random(len(near)) < 0.8, known[near], rng.integers(0, classes, len(near)))
        scores = np.round(rng.random(len(near)), 1 + seed % 2)
        order = np.argsort(-scores, kind="stable")
        seen.append(found(np.concatenate([low, high], 1)[order], scores[order], kinds[order]))
        real.append(truth(boxes, labels, ignored))
    return seen, real


def _boxes(rng: np.random.Generator, count: int, size: float = 50) -> np.ndarray[Any, Any]:
    corner = rng.uniform(0, 200, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(12, size, (count, 2))], 1)
