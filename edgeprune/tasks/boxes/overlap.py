"""How well two boxes agree, as a quantity to train on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-7


def complete_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the complete IoU of boxes xyxy (..., 4) that broadcast against each other: at most 1, and 1 if equal.

    Distance-IoU Loss, Zheng et al., 2020 (arXiv 1911.08287), equations 8 to 11: IoU − ρ²/c² − αv, α held constant.
    Equal to 1 − torchvision's ``complete_box_iou_loss`` but with finite gradients for boxes of no size.
    """
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    size, other = boxes[..., 2:] - boxes[..., :2], others[..., 2:] - others[..., :2]
    iou = shared / (size.prod(-1) + other.prod(-1) - shared + _EPS)
    hull = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])
    apart = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    angle = torch.atan2(size[..., 0] + _EPS, size[..., 1] + _EPS)
    aspect = 4 / math.pi**2 * (angle - torch.atan2(other[..., 0] + _EPS, other[..., 1] + _EPS)) ** 2
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + _EPS)
    return iou - apart.square().sum(-1) / (hull.square().sum(-1) + _EPS) - weight * aspect


def inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return (k, P) bool: which of the points (P, 2) lie strictly inside which of the boxes xyxy (k, 4)."""
    return ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(-1)


def ignored_cells(centres: Tensor, ignored: Tensor, images: int) -> Tensor:
    """Return (images, P) bool: which cells' centres (P, 2) lie in a region (k, 5): image index and xyxy in pixels."""
    covered = torch.zeros(images, len(centres), device=centres.device)
    covered.index_add_(0, ignored[:, 0].long(), inside(centres, ignored[:, 1:]).float())
    return covered > 0
