from __future__ import annotations

import pytest
import torch
from torchvision.ops import complete_box_iou_loss

from edgeprune.tasks.boxes.overlap import complete_iou, ignored_cells, inside


def test_it_is_torchvision_s() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 400, 2, generator=generator) * 40, torch.rand(2, 400, 2, generator=generator) * 30 + 1
    boxes, others = torch.cat([corner, corner + size], -1)
    boxes.requires_grad_()
    own, expected = complete_iou(boxes, others), 1 - complete_box_iou_loss(boxes, others)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)
    [gradient] = torch.autograd.grad(own.sum(), boxes, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), boxes)[0], atol=1e-5, rtol=1e-4)


def test_equal_boxes_agree_and_distant_ones_are_below_zero() -> None:
    box = torch.tensor([10.0, 10, 30, 20])
    assert complete_iou(box, box).item() == pytest.approx(1.0)
    assert complete_iou(box, box + 100).item() < -0.5


def test_boxes_of_no_size_have_finite_gradients() -> None:
    box = torch.tensor([[5.0, 5, 5, 5], [0, 0, 0, 4]], requires_grad=True)
    complete_iou(box, torch.tensor([[5.0, 5, 9, 9], [0, 0, 0, 4]])).sum().backward()
    assert box.grad is not None and box.grad.isfinite().all()


def test_every_box_against_every_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [5, 5, 9, 9]])
    table = complete_iou(boxes[:, None], boxes)
    assert table.shape == (3, 3)
    torch.testing.assert_close(table[0], complete_iou(boxes[:1].expand(3, 4), boxes))


def test_points_inside_boxes() -> None:
    points = torch.tensor([[4.0, 4], [12, 4], [4, 12], [8, 4]])
    assert inside(points, torch.tensor([[0.0, 0, 8, 8], [0, 0, 16, 8]])).tolist() == [
        [True, False, False, False],
        [True, True, False, True],
    ]


def test_ignored_regions_cover_cells_of_their_own_image() -> None:
    centres = torch.tensor([[4.0, 4], [12, 4]])
    regions = torch.tensor([[1.0, 0, 0, 8, 8], [1, 0, 0, 6, 6], [2, 0, 0, 16, 8]])
    assert ignored_cells(centres, regions, 3).tolist() == [[False, False], [True, False], [True, True]]
    assert not ignored_cells(centres, torch.zeros(0, 5), 2).any()
