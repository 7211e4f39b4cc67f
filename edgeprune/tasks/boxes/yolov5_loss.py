"""The label loss of YOLOv5 heads: anchors matched by shape, CIoU, objectness and classes.

The method is that of YOLOv5 v6 and v7 (Jocher et al., 2020, doi 10.5281/zenodo.3908559), which has no paper; the
several cells an object is given to, and the decoding that lets them reach it, are the same as in Scaled-YOLOv4 (Wang
et al., 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.boxes.overlap import complete_iou, ignored_cells

BOX, CLASS, OBJECT = 0.05, 0.5, 1.0
"""Gains of the official training from scratch, for 3 levels, 80 classes and 640x640 pixels."""
RATIO = 4.0
"""An anchor suits an object if neither side is this many times the other's."""
BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
"""What the objectness of each level weighs, finest first: few of a fine level's many cells hold an object."""


@dataclass(frozen=True)
class Assignment:
    """Which cells answer for which objects, m' pairs: ``image``, ``anchor``, ``position`` and ``target`` (row of the
    targets), each int64 (m',).
    """

    image: Tensor
    anchor: Tensor
    position: Tensor
    target: Tensor


def assign(head: Head, targets: Tensor) -> Assignment:
    """Give each target (m, 6), see ``loss``, to anchors of like shape, in its own cell and up to two next to it.

    The neighbours are the nearer one left or right and the nearer one above or below, if they exist.
    """
    device = targets.device
    parts, first = [], 0
    rings = torch.tensor([[0, 0], [-1, 0], [0, -1], [1, 0], [0, 1]], device=device)
    for stride, anchors, (rows, columns) in zip(head.strides, head.anchors, head.grids(), strict=True):
        shapes = torch.tensor(anchors, device=device)
        ratio = targets[None, :, 4:] / shapes[:, None]
        fits = torch.maximum(ratio, 1 / ratio).amax(-1) < RATIO  # (A, m)
        edge = torch.tensor([columns, rows], device=device)
        at = targets[:, 2:4] / stride
        cell = torch.minimum(at.long().clamp(min=0), edge - 1)
        within = at - cell
        near = torch.stack([torch.ones_like(fits[0]), *(within < 0.5).T, *(within > 0.5).T])  # (5, m), as in rings
        cells = cell + rings[:, None]  # (5, m, 2)
        near &= ((cells >= 0) & (cells < edge)).all(-1)
        anchor, neighbour, target = torch.nonzero(fits[:, None] & near, as_tuple=True)
        x, y = cells[neighbour, target].unbind(-1)
        parts.append(torch.stack([targets[target, 0].long(), anchor, first + y * columns + x, target]))
        first += rows * columns
    return Assignment(*torch.cat(parts, 1))


def loss(head: Head, raw: Tensor, targets: Tensor, ignored: Tensor) -> Tensor:
    """Return the loss of raw heads (n, C, P), a scalar, times n as officially.

    ``targets`` (m, 6): image index, class, and cx, cy, w, h in pixels of the letterboxed input, w and h above 0;
    ``ignored`` (k, 5): image index and xyxy, regions whose cells are not taught that nothing is there. Both may be
    empty.

    Each level gives the mean of 1 − CIoU and of the class cross-entropy over its assigned cells, and that of the
    objectness cross-entropy over all, towards the CIoU of the box predicted, at least 0. The objectness gain grows
    with the area, (size / 640)²: size² is height times width for an input that is not square. Unlike officially, a
    lone class is taught too, as its logit is part of the score.
    """
    box, objectness, classes = head.split(raw.float())
    assert objectness is not None
    found = assign(head, targets)
    at = (found.image, found.anchor, found.position)
    centre, half = targets[:, 2:4], targets[:, 4:] / 2
    truth = torch.cat([centre - half, centre + half], 1)[found.target]
    agreement = complete_iou(head.boxes(box)[at], truth)
    labels = F.one_hot(targets[:, 1].long(), head.classes).float()[found.target]
    taught = F.binary_cross_entropy_with_logits(classes[at], labels, reduction="none").mean(1)

    wanted = torch.zeros_like(objectness)
    n, anchors, positions = wanted.shape
    flat = (found.image * anchors + found.anchor) * positions + found.position
    # two objects may share a cell and anchor: the better box decides, whatever the order
    wanted.view(-1).scatter_reduce_(0, flat, agreement.detach().clamp(min=0), "amax")
    counted = torch.ones_like(wanted)
    counted.masked_fill_(ignored_cells(head.centres.to(raw.device), ignored, n)[:, None], 0.0)
    counted.view(-1)[flat] = 1.0
    objects = F.binary_cross_entropy_with_logits(objectness, wanted, weight=counted, reduction="none")

    cells = [rows * columns for rows, columns in head.grids()]
    levels = torch.repeat_interleave(torch.arange(len(cells)), torch.tensor(cells)).to(raw.device)[found.position]
    scale = 3 / len(cells)
    parts = [
        weight * one.sum() / kept.sum().clamp(min=1)
        for weight, one, kept in zip(balance(head), head.levels(objects), head.levels(counted), strict=True)
    ]
    total = object_gain(head) * torch.stack(parts).sum()
    total = total + BOX * _means(1 - agreement, levels, len(cells))
    total = total + CLASS * head.classes / 80 * _means(taught, levels, len(cells))
    return n * scale * total


def object_gain(head: Head) -> float:
    """Return the gain of the objectness for the input's area."""
    return OBJECT * head.height * head.width / 640**2


def balance(head: Head) -> tuple[float, ...]:
    """Return the weight of each level's objectness, in the order of the head's strides."""
    table = BALANCE.get(len(head.strides), BALANCE[4])
    rank = {stride: number for number, stride in enumerate(sorted(head.strides))}
    return tuple(table[min(rank[stride], len(table) - 1)] for stride in head.strides)


def _means(values: Tensor, levels: Tensor, count: int) -> Tensor:
    """Return the sum over levels of the mean of a level's values; a level without any gives 0."""
    members = torch.bincount(levels, minlength=count).clamp(min=1)
    return (values / members[levels]).sum()
