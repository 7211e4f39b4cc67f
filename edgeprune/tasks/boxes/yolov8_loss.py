"""The label loss of anchor-free heads (YOLOv8, YOLO11): task-aligned assignment, CIoU and distributed box sides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.boxes.overlap import complete_iou, ignored_cells, inside

BOX, CLASS, SIDES = 7.5, 0.5, 1.5
"""Gains of the official training."""
ALPHA, BETA, CELLS = 0.5, 6.0, 10
"""Task alignment is score^ALPHA IoU^BETA; at most CELLS cells answer for an object."""

_EPS = 1e-9


def assign(
    scores: Tensor, boxes: Tensor, centres: Tensor, classes: Tensor, truth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (cells, objects, weights), each (q,): which cells answer for which object of one image, how strongly.

    Task-aligned One-stage Object Detection, Feng et al., 2021 (arXiv 2108.07755), equation 3 and section 3.2: of the
    cells centred in an object the CELLS best aligned, by predicted ``scores`` (P, classes) and ``boxes`` (P, 4); a
    cell wanted by several goes to the one it overlaps most. The weight is the alignment, scaled so that an object's
    best cell has its best IoU. ``centres`` (P, 2), ``classes`` (m,) and ``truth`` (m, 4), in pixels as the boxes.
    """
    near = inside(centres, truth)
    overlap = torch.where(near, complete_iou(truth[:, None], boxes).clamp(min=0), 0.0)  # (m, P)
    aligned = scores.T[classes] ** ALPHA * overlap**BETA
    chosen = torch.zeros_like(near)
    chosen.scatter_(1, aligned.topk(min(CELLS, aligned.shape[1]), 1).indices, True)
    chosen &= near
    if len(truth):
        best = torch.where(chosen, overlap, -1.0).argmax(0)
        chosen &= best == torch.arange(len(truth), device=best.device)[:, None]
    aligned, overlap = torch.where(chosen, aligned, 0.0), torch.where(chosen, overlap, 0.0)
    highest = overlap.amax(1, keepdim=True) / (aligned.amax(1, keepdim=True) + _EPS)
    objects, cells = torch.nonzero(chosen, as_tuple=True)
    return cells, objects, (aligned * highest)[objects, cells]


def loss(head: Head, raw: Tensor, targets: Tensor, ignored: Tensor) -> Tensor:
    """Return the loss of raw heads (n, C, P), a scalar, times n as officially.

    ``targets`` (m, 6): image index, class, and cx, cy, w, h in pixels of the letterboxed input, w and h above 0;
    ``ignored`` (k, 5): image index and xyxy, regions whose cells are not taught that nothing is there. Both may be
    empty.

    Binary cross-entropy of the classes towards the assignment's weights, 1 − CIoU of the boxes and the cross-entropy
    of each side's two nearest bins (Generalized Focal Loss, Li et al., 2020, equation 6), the latter two weighted
    as assigned; all over the sum of the weights, at least 1.
    """
    sides, _, classes = head.split(raw.float())
    boxes, centres = head.boxes(sides), head.centres.to(raw.device)
    n = len(raw)
    half = targets[:, 4:] / 2
    truth = torch.cat([targets[:, 2:4] - half, targets[:, 2:4] + half], 1)
    labels = targets[:, 1].long()
    wanted = torch.zeros_like(classes)
    found = []
    with torch.no_grad():
        scores = classes.sigmoid()
        for image in range(n):
            own = torch.nonzero(targets[:, 0].long() == image)[:, 0]
            cells, objects, weights = assign(scores[image], boxes[image], centres, labels[own], truth[own])
            wanted[image, cells, labels[own][objects]] = weights
            found.append((torch.full_like(cells, image), cells, own[objects], weights))
    images, cells, objects, weights = (torch.cat(part) for part in zip(*found, strict=True))

    counted = (~ignored_cells(centres, ignored, n)).float()
    counted[images, cells] = 1.0
    taught = F.binary_cross_entropy_with_logits(classes, wanted, weight=counted[..., None], reduction="sum")
    missed = ((1 - complete_iou(boxes[images, cells], truth[objects])) * weights).sum()
    spread = (_sides(head, sides[images, cells], centres[cells], cells, truth[objects]) * weights).sum()
    return n * (BOX * missed + CLASS * taught + SIDES * spread) / wanted.sum().clamp(min=1)


def _sides(head: Head, logits: Tensor, centres: Tensor, cells: Tensor, truth: Tensor) -> Tensor:
    """Return the mean over the four sides of the cross-entropy (q,) for the two bins nearest to each distance."""
    steps = head.steps.to(logits.device)[cells, None]
    distance = torch.cat([centres - truth[:, :2], truth[:, 2:] - centres], 1) / steps
    distance = distance.clamp(0, head.bins - 1 - 0.01)
    lower = distance.long()
    share = distance - lower
    flat = logits.flatten(0, 1)
    below = F.cross_entropy(flat, lower.flatten(), reduction="none").view_as(distance)
    above = F.cross_entropy(flat, lower.flatten() + 1, reduction="none").view_as(distance)
    return (below * (1 - share) + above * share).mean(1)
