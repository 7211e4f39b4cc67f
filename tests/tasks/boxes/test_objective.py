"""Heads that learn: free logits trained by each objective must decode to what they were taught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from box_makers import NOTHING_IGNORED, YOLOV5, YOLOV8, head, random_raw, targets
from torch import Tensor
from torchvision.ops import box_iou

from edgeprune.errors import BadModel
from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.boxes.objective import distance, loss
from edgeprune.tasks.boxes.suppression import Detections, Suppression

FORMATS = pytest.mark.parametrize("described", [YOLOV5, YOLOV8], ids=["yolov5", "yolov8"])
ROWS = ((0, 0, 10, 8, 34, 30), (0, 2, 50, 5, 92, 60), (1, 1, 30, 20, 70, 55))


def trained(raw: Tensor, objective: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    raw = raw.clone().requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(raw).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return raw.detach()


def seen(of: Head, raw: Tensor) -> list[Detections]:
    return Suppression(confidence=0.3)(*of.decode(raw))


@FORMATS
def test_labels_teach_boxes_and_classes(described: dict[str, Any]) -> None:
    of = head(described)
    wanted = targets(*ROWS)
    raw = trained(random_raw(of, 2, 0, 0.5), lambda x: loss(of, x, wanted, NOTHING_IGNORED), 250)
    for image, found in enumerate(seen(of, raw)):
        own = [row for row in ROWS if row[0] == image]
        overlap = box_iou(torch.tensor([row[2:] for row in own]).float(), torch.from_numpy(found.boxes))
        assert overlap.amax(1).min() > 0.8
        assert found.classes[overlap.argmax(1).numpy()].tolist() == [row[1] for row in own]
        assert (overlap.amax(0) > 0.5).all()  # and nothing was found elsewhere


@FORMATS
def test_a_teacher_teaches_without_labels(described: dict[str, Any]) -> None:
    of = head(described)
    wanted = targets(*ROWS)
    teacher = trained(random_raw(of, 2, 0, 0.5), lambda x: loss(of, x, wanted, NOTHING_IGNORED), 250)
    student = trained(random_raw(of, 2, 9, 0.5), lambda x: distance(of, x, teacher), 250)
    for ours, theirs in zip(seen(of, student), seen(of, teacher), strict=True):
        for box, label in zip(theirs.boxes, theirs.classes, strict=True):
            overlap = box_iou(torch.from_numpy(box)[None], torch.from_numpy(ours.boxes[ours.classes == label]))
            assert overlap.numel() and overlap.max() > 0.8


@FORMATS
def test_both_are_pure(described: dict[str, Any]) -> None:
    of = head(described)
    raw, other, wanted = random_raw(of, 2, 1), random_raw(of, 2, 2), targets(*ROWS)
    before = raw.clone(), wanted.clone()
    values = {loss(of, raw, wanted, NOTHING_IGNORED).item() for _ in range(3)}
    values |= {distance(of, raw, other).item() for _ in range(3)}
    assert len(values) == 2
    np.testing.assert_array_equal(raw, before[0])
    np.testing.assert_array_equal(wanted, before[1])


@FORMATS
def test_outputs_of_another_shape_are_refused(described: dict[str, Any]) -> None:
    of = head(described)
    raw = random_raw(of, 1, 0)
    with pytest.raises(BadModel, match="but this model gave"):
        loss(of, raw[:, :-1], targets(), NOTHING_IGNORED)
    with pytest.raises(BadModel, match="but this model gave"):
        distance(of, raw, raw[..., :-1])
