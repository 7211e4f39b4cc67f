"""Mean average precision as COCO defines it, and what it needs to compare two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import BadData, MissingPackage
from edgeprune.tasks.boxes.matching import IOUS, MOST, RECALLS, Matches, Truth, match, resamples, weighted_map
from edgeprune.tasks.boxes.suppression import Detections
from edgeprune.threads import silenced

__all__ = ["Precision", "Truth", "precision"]


@dataclass(frozen=True, eq=False)
class Precision:
    """The average precision of a detector on n images, fractions in [0, 1].

    ``map`` is COCO's mAP at IoU 0.50:0.05:0.95, ``map50`` at 0.50; ``per_class`` gives the first for every class
    that has an object. ``replicates`` (B,) is ``map`` of B bootstrap resamples of the images, in the same order for
    every model, or None; NaN marks a resample without any object.

    ``per_image`` float64 (n,) is each image's F1 = 2 TP / (2 TP + FP + FN) at IoU 0.50 over detections of at least
    the given confidence, 1 where there is neither object nor detection. Its mean is not ``map``, which is no mean
    over images.
    """

    map: float
    map50: float
    per_class: dict[int, float]
    per_image: NDArray[np.float64]
    replicates: NDArray[np.float64] | None = None


def precision(
    found: Sequence[Detections],
    truth: Sequence[Truth],
    classes: int,
    replicates: int = 0,
    seed: int = 0,
    confidence: float = 0.25,
) -> Precision:
    """Judge the detections of n images, boxes in the same pixels as the truth's.

    COCO looks at 100 detections an image and class, so that is what is counted here: a higher limit would not be
    comparable with published values. Ignored regions are crowds of every class. ``replicates`` bootstrap resamples
    cost little beside inference, but can be left out where only the value is wanted; ``confidence`` is that of
    ``per_image``.

    Raises BadData when no image holds an object, MissingPackage without torchmetrics and faster-coco-eval.
    """
    if not any(len(one.classes) for one in truth):
        raise BadData(
            f"none of these {len(truth)} images holds a labelled object, so there is no mAP; use images with objects"
        )
    value, value50, per_class = _coco(found, truth, classes)
    matches = match(found, truth, classes)
    drawn = weighted_map(matches, resamples(len(truth), replicates, seed)) if replicates else None
    return Precision(value, value50, per_class, _f1(matches, len(truth), confidence), drawn)


def _coco(found: Sequence[Detections], truth: Sequence[Truth], classes: int) -> tuple[float, float, dict[int, float]]:
    try:
        import faster_coco_eval  # noqa: F401
        import torchvision  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise MissingPackage("torchmetrics and faster-coco-eval", "detection", "measuring mAP") from error

    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        iou_thresholds=IOUS.tolist(),
        rec_thresholds=RECALLS.tolist(),
        max_detection_thresholds=[1, 10, MOST],
        extended_summary=True,
    )
    metric.warn_on_many_detections = False
    with silenced():
        metric.update([_prediction(f) for f in found], [_target(t, classes) for t in truth])
        summary = metric.compute()
    tables = summary["precision"][:, :, :, 0, -1].numpy()  # (IoU, recall, class) over objects of all sizes; -1: none
    labels = np.atleast_1d(summary["classes"].numpy()).tolist()  # torchmetrics gives a lone class as a scalar
    known = {label: tables[:, :, i] for i, label in enumerate(labels) if tables[:, :, i].min() >= 0}
    per_class = {label: float(table.mean()) for label, table in known.items()}
    at50 = [table[0].mean() for table in known.values()]
    return float(np.mean(list(per_class.values()))), float(np.mean(at50)), per_class


def _prediction(found: Detections) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.as_tensor(found.boxes),
        "scores": torch.as_tensor(found.scores),
        "labels": torch.as_tensor(found.classes),
    }


def _target(truth: Truth, classes: int) -> dict[str, torch.Tensor]:
    crowds = np.repeat(truth.ignored.reshape(-1, 4), classes, axis=0)
    labels = np.concatenate([truth.classes, np.tile(np.arange(classes), len(truth.ignored))])
    return {
        "boxes": torch.as_tensor(np.concatenate([truth.boxes.reshape(-1, 4), crowds]).astype(np.float32)),
        "labels": torch.as_tensor(labels.astype(np.int64)),
        "iscrowd": torch.as_tensor((np.arange(len(labels)) >= len(truth.classes)).astype(np.int64)),
    }


def _f1(matches: Sequence[Matches], images: int, confidence: float) -> NDArray[np.float64]:
    hits, found, objects = (np.zeros(images) for _ in range(3))
    for one in matches:
        sure = one.score >= confidence
        hits += np.bincount(one.image[sure & one.hit[0]], minlength=images)
        found += np.bincount(one.image[sure & ~one.ignored[0]], minlength=images)
        objects += one.objects
    both = found + objects
    return np.divide(2 * hits, both, out=np.ones(images), where=both > 0)
