from __future__ import annotations

from typing import Any

import pytest
import torch
from box_makers import YOLOV5, YOLOV8, head, random_raw

from edgeprune.tasks.boxes.objective import distance

FORMATS = pytest.mark.parametrize("described", [YOLOV5, YOLOV8], ids=["yolov5", "yolov8"])


@FORMATS
def test_agreement_is_zero_and_flat(described: dict[str, Any]) -> None:
    of = head(described)
    teacher = random_raw(of, 2, 0, 3)
    student = teacher.clone().requires_grad_()
    value = distance(of, student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad is not None and student.grad.abs().max() < 1e-6


@FORMATS
@pytest.mark.parametrize("seed", range(5))
def test_it_is_above_zero_and_points_home(described: dict[str, Any], seed: int) -> None:
    of = head(described)
    teacher, away = random_raw(of, 2, seed), random_raw(of, 2, seed + 50, 0.05)
    student = (teacher + away).requires_grad_()
    value = distance(of, student, teacher)
    value.backward()
    assert student.grad is not None and not teacher.requires_grad
    assert value.item() > 0 and (student.grad * away).sum() > 0
    assert distance(of, (teacher + 2 * away), teacher) > value


@FORMATS
def test_every_channel_is_taught(described: dict[str, Any]) -> None:
    of = head(described)
    teacher = random_raw(of, 1, 0)
    for channel in range(of.channels()):
        student = teacher.clone()
        student[:, channel] += 1
        assert distance(of, student, teacher) > 1e-6


@FORMATS
def test_boxes_count_where_the_teacher_sees_something(described: dict[str, Any]) -> None:
    of = head(described)
    teacher = torch.full((1, of.channels(), of.positions()), -30.0)
    seen = slice(4, 8) if described is YOLOV5 else slice(64, 67)
    teacher[:, seen, 5] = 3.0
    boxes = slice(0, 4) if described is YOLOV5 else slice(0, 64, 3)
    at, elsewhere = teacher.clone(), teacher.clone()
    at[:, boxes, 5] += 29
    elsewhere[:, boxes, 6] += 29
    assert distance(of, at, teacher) > 1e-3
    assert distance(of, elsewhere, teacher).item() == pytest.approx(0.0, abs=1e-6)


@FORMATS
def test_it_grows_with_the_batch_as_the_label_loss_does(described: dict[str, Any]) -> None:
    of = head(described)
    student, teacher = random_raw(of, 1, 0), random_raw(of, 1, 1, 3)
    one, two = distance(of, student, teacher), distance(of, student.repeat(2, 1, 1), teacher.repeat(2, 1, 1))
    assert two.item() == pytest.approx(2 * one.item(), rel=1e-4)


@FORMATS
@pytest.mark.parametrize("scale", [200.0, 0.0])
def test_sure_heads_stay_finite(described: dict[str, Any], scale: float) -> None:
    of = head(described)
    student = random_raw(of, 1, 0, scale).requires_grad_()
    value = distance(of, student, random_raw(of, 1, 1, 200.0))
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()
