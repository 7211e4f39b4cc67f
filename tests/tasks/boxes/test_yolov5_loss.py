from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from box_makers import NOTHING_IGNORED, YOLOV5, head, random_raw, targets
from torchvision.ops import complete_box_iou_loss

from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.boxes.yolov5_loss import assign, balance, loss

ONE_LEVEL = {"format": "yolov5", "strides": [8], "anchors": [[[10, 10], [100, 100]]]}


def assigned(of: Head, *rows: tuple[float, ...]) -> set[tuple[int, int, int, int]]:
    """Return (image, anchor, position, target) of every pair."""
    found = assign(of, targets(*rows))
    return set(zip(*(x.tolist() for x in (found.image, found.anchor, found.position, found.target)), strict=True))


def test_an_object_goes_to_its_cell_and_the_two_nearest() -> None:
    of = head(ONE_LEVEL, size=(32, 40))  # 4 rows of 5 columns
    # centre (18, 22): cell (2, 2), in its upper left quarter in x and the lower in y; 10 x 8 pixels suit 10 x 10 alone
    assert assigned(of, (1, 0, 13, 18, 23, 26)) == {(1, 0, 12, 0), (1, 0, 11, 0), (1, 0, 17, 0)}


def test_the_ratio_of_sides_chooses_the_anchors() -> None:
    of = head(ONE_LEVEL, size=(128, 128))
    assert {a for _, a, *_ in assigned(of, (0, 0, 20, 20, 59, 59))} == {0, 1}  # 3.9 times and 2.6 times
    assert {a for _, a, *_ in assigned(of, (0, 0, 20, 20, 61, 61))} == {1}  # 4.1 times is too much
    assert {a for _, a, *_ in assigned(of, (0, 0, 20, 20, 59, 61))} == {1}  # of either side
    assert {a for _, a, *_ in assigned(of, (0, 0, 20, 20, 30, 30))} == {0}  # a tenth of the other
    assert assigned(of, (0, 0, 20, 20, 120, 22)) == set()


@pytest.mark.parametrize(
    ("corner", "expected"),
    [((-5.0, -5.0), {0}), ((35.0, 27.0), {19}), ((-4.0, 27.0), {15}), ((35.0, -3.0), {4}), ((34.0, 11.0), {9, 14})],
)
def test_objects_on_the_border_stay_inside(corner: tuple[float, float], expected: set[int]) -> None:
    of = head(ONE_LEVEL, size=(32, 40))
    x, y = corner
    found = assigned(of, (0, 0, x, y, x + 10, y + 10))
    assert (
        expected
        <= {position for _, _, position, _ in found}
        <= expected | {p - 1 for p in expected} | {p - 5 for p in expected}
    )
    raw = random_raw(of, 1, 0).requires_grad_()
    loss(of, raw, targets((0, 0, x, y, x + 10, y + 10)), NOTHING_IGNORED).backward()
    assert raw.grad is not None and raw.grad.isfinite().all()


def test_levels_follow_each_other() -> None:
    of = head(YOLOV5)  # 96, 24 and 6 cells; 60 x 50 suits the second level's and third's smallest anchors
    found = assigned(of, (0, 0, 16, 4, 76, 54))  # centre (46, 29): cells (2, 1) of 16 pixels and (1, 0) of 32
    cells = {position for _, _, position, _ in found}
    assert {96 + 1 * 6 + 2, 96 + 24 + 1} <= cells
    assert cells - set(range(96)) == {96 + 8, 96 + 9, 96 + 14, 120 + 1, 120 + 0, 120 + 4}


@pytest.mark.parametrize(("corners", "cells"), [((21.0, 18, 33, 29), 3), ((15.0, 15, 25, 25), 1)])
def test_the_value_term_by_term(corners: tuple[float, ...], cells: int) -> None:
    """One object, worked out again from the definition, with torchvision's CIoU."""
    of = head(ONE_LEVEL, classes=4, size=(64, 64))
    raw = random_raw(of, 2, 1)
    box = (1.0, 2, *corners)
    pairs = sorted(assigned(of, box))
    boxes, objectness, classes = of.split(raw)
    decoded = of.boxes(boxes)
    agreement = 1 - torch.stack(
        [complete_box_iou_loss(decoded[i, a, p], torch.tensor(corners)) for i, a, p, _ in pairs]
    )
    wanted = torch.zeros_like(objectness)
    label = torch.tensor([0.0, 0, 1, 0])
    taught = 0.0
    for (i, a, p, _), one in zip(pairs, agreement, strict=True):
        wanted[i, a, p] = one.clamp(min=0)
        taught += F.binary_cross_entropy_with_logits(classes[i, a, p], label).item() / len(pairs)
    objects = F.binary_cross_entropy_with_logits(objectness, wanted).item()
    scale = 3 / 1
    expected = 0.05 * scale * (1 - agreement).mean().item()
    expected += 0.5 * 4 / 80 * scale * taught
    expected += 1.0 * (64 / 640) ** 2 * scale * 4.0 * objects  # a lone level weighs as the finest
    assert len(pairs) == cells
    assert loss(of, raw, targets(box), NOTHING_IGNORED).item() == pytest.approx(2 * expected, rel=1e-5)


def test_the_levels_weigh_by_fineness() -> None:
    assert balance(head(YOLOV5)) == (4.0, 1.0, 0.4)
    four = {"format": "yolov5", "strides": [64, 8, 16, 32], "anchors": [[[9, 9]]] * 4}
    assert balance(head(four, size=(64, 64))) == (0.06, 4.0, 1.0, 0.25)


def test_without_objects_all_that_counts_is_objectness() -> None:
    of = head(YOLOV5)
    raw = random_raw(of, 2, 0).requires_grad_()
    value = loss(of, raw, targets(), NOTHING_IGNORED)
    value.backward()
    levels = of.split(raw.detach())[1].split([96, 24, 6], 2)
    negative = [F.binary_cross_entropy_with_logits(one, torch.zeros_like(one)).item() for one in levels]
    expected = 2 * (64 * 96 / 640**2) * (4 * negative[0] + negative[1] + 0.4 * negative[2])
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert raw.grad is not None and raw.grad.isfinite().all()
    box, objectness, classes = of.split(raw.grad)
    assert not box.any() and not classes.any() and (objectness > 0).all()


def test_an_image_without_objects_among_others() -> None:
    of = head(YOLOV5)
    raw = random_raw(of, 3, 0).requires_grad_()
    loss(of, raw, targets((2, 1, 10, 10, 40, 40)), NOTHING_IGNORED).backward()
    assert raw.grad is not None and raw.grad.isfinite().all()
    assert not of.split(raw.grad[:2])[0].any() and of.split(raw.grad[2:])[0].any()


def test_ignored_cells_are_not_taught_to_be_empty() -> None:
    of = head(YOLOV5)
    raw = random_raw(of, 2, 0).requires_grad_()
    ignored = torch.tensor([[1.0, 0, 0, 40, 40]])
    loss(of, raw, targets((1, 0, 10, 10, 35, 32)), ignored).backward()
    assert raw.grad is not None
    gradient = of.split(raw.grad)[1]
    covered = ((of.centres > 0) & (of.centres < 40)).all(1)
    positive = of.split(raw.grad)[0].any(-1)
    assert (gradient[0] != 0).all()
    assert (gradient[1][:, ~covered] != 0).all()
    assert ((gradient[1] != 0) == (positive[1] | ~covered)).all()
    assert positive[1].any() and (positive[1] & covered).any()


def test_everything_may_be_ignored() -> None:
    of = head(YOLOV5)
    raw = random_raw(of, 1, 0).requires_grad_()
    value = loss(of, raw, targets(), torch.tensor([[0.0, -10, -10, 200, 200]]))
    value.backward()
    assert value.item() == 0.0 and raw.grad is not None and not raw.grad.any()


def test_two_objects_in_one_cell_need_no_order() -> None:
    of = head(ONE_LEVEL, size=(32, 40))
    raw = random_raw(of, 1, 0)
    one, other = (0.0, 0.0, 13.0, 18.0, 23.0, 26.0), (0.0, 1.0, 13.0, 17.0, 25.0, 27.0)
    first = loss(of, raw, targets(one, other), NOTHING_IGNORED)
    second = loss(of, raw, targets(other, one), NOTHING_IGNORED)
    assert first.item() == pytest.approx(second.item(), rel=1e-6)


def test_an_object_listed_twice_is_the_same_object() -> None:
    of = head(ONE_LEVEL, size=(32, 40))
    raw, row = random_raw(of, 1, 0), (0.0, 0.0, 13.0, 18.0, 23.0, 26.0)
    once, twice = loss(of, raw, targets(row), NOTHING_IGNORED), loss(of, raw, targets(row, row), NOTHING_IGNORED)
    assert once.item() == pytest.approx(twice.item(), rel=1e-6)


def test_objectness_follows_the_box_and_not_the_box_objectness() -> None:
    of = head(ONE_LEVEL, size=(32, 40))
    gradients = []
    for logit in (-3.0, 3.0):
        raw = random_raw(of, 1, 0)
        of.split(raw)[1].fill_(logit)
        raw.requires_grad_()
        loss(of, raw, targets((0, 0, 13, 18, 23, 26)), NOTHING_IGNORED).backward()
        assert raw.grad is not None
        gradients.append(of.split(raw.grad)[0])
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


def test_extreme_logits_stay_finite() -> None:
    of = head(YOLOV5)
    raw = (random_raw(of, 1, 0).sign() * 200).requires_grad_()
    value = loss(of, raw, targets((0, 0, 0, 0, 96, 64), (0, 2, 90, 60, 96, 64)), NOTHING_IGNORED)
    value.backward()
    assert math.isfinite(value.item()) and raw.grad is not None and raw.grad.isfinite().all()
