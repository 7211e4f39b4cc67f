"""What a detector is trained on, whatever its head: the only place that chooses by format."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from edgeprune.tasks.boxes import distance as distances
from edgeprune.tasks.boxes import yolov5_loss, yolov8_loss
from edgeprune.tasks.boxes.heads import Head

_LOSSES: dict[str, Callable[[Head, Tensor, Tensor, Tensor], Tensor]] = {
    "yolov5": yolov5_loss.loss,
    "yolov8": yolov8_loss.loss,
}
_DISTANCES: dict[str, Callable[[Head, Tensor, Tensor], Tensor]] = {
    "yolov5": distances.yolov5,
    "yolov8": distances.yolov8,
}


def loss(head: Head, raw: Tensor, targets: Tensor, ignored: Tensor) -> Tensor:
    """Return the label loss of raw heads (n, C, P), a scalar.

    ``targets`` (m, 6): image index, class, and cx, cy, w, h in pixels of the letterboxed input; ``ignored`` (k, 5):
    image index and xyxy of regions where nothing is taught to be absent. Raises BadModel for another shape of raw.
    """
    return _LOSSES[head.format](head, raw, targets.to(raw.device), ignored.to(raw.device))


def distance(head: Head, student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the student's raw heads (n, C, P) are from the teacher's, a scalar, at least 0.

    Raises BadModel for another shape of either.
    """
    return _DISTANCES[head.format](head, student, teacher)
