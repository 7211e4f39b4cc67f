from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from box_makers import NOTHING_IGNORED, YOLOV8, head, random_raw, targets
from torchvision.ops import complete_box_iou_loss

from edgeprune.tasks.boxes.overlap import complete_iou
from edgeprune.tasks.boxes.yolov8_loss import CELLS, assign, loss


def grid(columns: int = 8, rows: int = 8) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * 8


def test_the_best_aligned_cells_inside_answer() -> None:
    centres, truth = grid(), torch.tensor([[0.0, 0, 40, 40]])  # 25 cells lie inside
    boxes = truth.repeat(64, 1) + torch.arange(64)[:, None] * torch.tensor([0, 0, 0, 0.1])  # ever worse
    cells, objects, weights = assign(torch.full((64, 2), 0.5), boxes, centres, torch.tensor([1]), truth)
    inside = [row * 8 + column for row in range(5) for column in range(5)]
    assert sorted(cells.tolist()) == inside[:CELLS] and not objects.any()
    # the best one's weight is its IoU; the others fall as the power of theirs
    overlap = complete_iou(boxes, truth)[cells]
    torch.testing.assert_close(weights, overlap**6 / overlap.max() ** 6 * overlap.max())


def test_scores_of_the_object_s_class_align_too() -> None:
    centres, truth = grid(), torch.tensor([[0.0, 0, 40, 40]])
    scores = torch.full((64, 2), 0.01)
    best = [9, 10, 11, 12, 17, 18, 19, 20, 25, 26]
    scores[best, 1] = 0.9
    cells, _, _ = assign(scores, truth.repeat(64, 1), centres, torch.tensor([1]), truth)
    assert sorted(cells.tolist()) == best
    assert sorted(assign(scores, truth.repeat(64, 1), centres, torch.tensor([0]), truth)[0].tolist()) != best


def test_a_cell_wanted_twice_goes_to_the_object_it_overlaps_most() -> None:
    centres = grid()
    truth = torch.tensor([[0.0, 0, 24, 24], [0, 0, 30, 30]])
    boxes = torch.where((torch.arange(64) % 2 == 0)[:, None], truth[0], truth[1])
    cells, objects, weights = assign(torch.full((64, 1), 0.5), boxes, centres, torch.tensor([0, 0]), truth)
    assert len(set(cells.tolist())) == len(cells)
    assert (objects == cells % 2).all() and {0, 1} == set(objects.tolist())
    torch.testing.assert_close(weights, torch.ones_like(weights))


def test_an_object_without_a_cell_s_centre_has_none() -> None:
    cells, objects, weights = assign(
        torch.full((64, 1), 0.5), torch.zeros(64, 4), grid(), torch.tensor([0]), torch.tensor([[5.0, 5, 7, 7]])
    )
    assert len(cells) == len(objects) == len(weights) == 0


def test_the_value_term_by_term() -> None:
    of = head(YOLOV8, classes=2)
    raw = random_raw(of, 2, 4)
    row = (1.0, 1, 20, 10, 70, 50)
    truth = torch.tensor([20.0, 10, 70, 50])
    sides, _, classes = of.split(raw)
    boxes = of.boxes(sides)
    cells, _, weights = assign(classes[1].sigmoid(), boxes[1], of.centres, torch.tensor([1]), truth[None])
    wanted = torch.zeros_like(classes)
    wanted[1, cells, 1] = weights
    total = wanted.sum().clamp(min=1)
    taught = F.binary_cross_entropy_with_logits(classes, wanted, reduction="sum")
    missed = sum(w * complete_box_iou_loss(boxes[1, c], truth) for c, w in zip(cells.tolist(), weights, strict=True))
    spread = torch.tensor(0.0)
    for cell, weight in zip(cells.tolist(), weights, strict=True):
        (x, y), step = of.centres[cell], of.steps[cell]
        for side, pixels in enumerate((x - 20, y - 10, 70 - x, 50 - y)):
            at = min((pixels / step).item(), 15 - 0.01)
            low, logp = int(at), sides[1, cell, side].log_softmax(0)
            spread -= weight * ((low + 1 - at) * logp[low] + (at - low) * logp[low + 1]) / 4
    expected = 2 * (7.5 * missed + 0.5 * taught + 1.5 * spread) / total
    assert len(cells) == CELLS
    torch.testing.assert_close(loss(of, raw, targets(row), NOTHING_IGNORED), expected, rtol=1e-4, atol=1e-4)


def test_without_objects_every_class_is_taught_to_be_absent() -> None:
    of = head(YOLOV8)
    raw = random_raw(of, 2, 0).requires_grad_()
    value = loss(of, raw, targets(), NOTHING_IGNORED)
    value.backward()
    classes = of.split(raw.detach())[2]
    expected = 2 * 0.5 * F.binary_cross_entropy_with_logits(classes, torch.zeros_like(classes), reduction="sum")
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert raw.grad is not None
    sides, _, taught = of.split(raw.grad)
    assert not sides.any() and (taught > 0).all()


def test_ignored_cells_are_not_taught_to_be_empty() -> None:
    of = head(YOLOV8)
    raw = random_raw(of, 2, 0).requires_grad_()
    loss(of, raw, targets((1, 0, 8, 8, 36, 36)), torch.tensor([[1.0, 0, 0, 60, 60]])).backward()
    assert raw.grad is not None
    sides, _, classes = of.split(raw.grad)
    covered = ((of.centres > 0) & (of.centres < 60)).all(1)
    positive = sides[1].flatten(1).any(1)
    assert (classes[0] != 0).all()
    assert ((classes[1] != 0).all(1) == (positive | ~covered)).all()
    assert positive.sum() == CELLS and covered[positive].all()


def test_the_order_of_the_objects_is_nothing() -> None:
    of = head(YOLOV8)
    raw, one, other = random_raw(of, 2, 0), (0, 0, 8, 8, 36, 36), (1, 2, 30, 5, 80, 60)
    first = loss(of, raw, targets(one, other), NOTHING_IGNORED)
    second = loss(of, raw, targets(other, one), NOTHING_IGNORED)
    assert first.item() == pytest.approx(second.item(), rel=1e-5)


def test_sides_longer_than_the_bins_reach_as_far_as_they_can() -> None:
    of = head({**YOLOV8, "bins": 4})
    raw = random_raw(of, 1, 0).requires_grad_()
    loss(of, raw, targets((0, 0, 0, 0, 96, 64)), NOTHING_IGNORED).backward()
    assert raw.grad is not None and raw.grad.isfinite().all() and of.split(raw.grad)[0].any()


@pytest.mark.parametrize(
    "row", [(0, 0, -20, -20, 30, 30), (0, 2, 60, 40, 96, 64), (0, 1, 0, 0, 96, 64), (0, 1, 9, 9, 9.5, 9.5)]
)
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_any_box_gives_finite_gradients(row: tuple[float, ...], scale: float) -> None:
    of = head(YOLOV8)
    raw = random_raw(of, 2, 0, scale).requires_grad_()
    value = loss(of, raw, targets(row), NOTHING_IGNORED)
    value.backward()
    assert math.isfinite(value.item()) and raw.grad is not None and raw.grad.isfinite().all()
