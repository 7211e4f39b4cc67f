"""How far a student's raw heads are from a teacher's: what distillation of a detector minimises.

A detector's output is mostly background, and imitating that everywhere teaches little (Chen et al., Learning
Efficient Object Detection Models with Knowledge Distillation, 2017). So boxes and classes count as much as the
teacher believes that something is there: objectness scaled distillation (Mehta & Ozturk, Object Detection at 200
Frames Per Second, 2018, section 3.2). Both distances are 0, with zero gradient, where student and teacher agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.tasks.boxes import yolov5_loss, yolov8_loss
from edgeprune.tasks.boxes.heads import Head


def yolov5(head: Head, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance of anchor heads (n, C, P), a scalar, at least 0.

    The terms of ``yolov5_loss.loss``, with its gains and balance and times n like it, so that the two can be mixed:
    the divergence of the objectness everywhere; and, as means over each level weighted by the teacher's objectness,
    that of the classes and the squared error of the box as the head parametrises it. That is 2 σ of its four logits:
    the offset in cells and the root of the size in anchors, whose squared error does not let large boxes drown small
    ones (You Only Look Once, Redmon et al., 2016, equation 3).
    """
    box, objectness, classes = head.split(student.float())
    with torch.no_grad():
        wanted_box, wanted_objectness, wanted_classes = head.split(teacher.float())
    assert objectness is not None and wanted_objectness is not None
    belief = wanted_objectness.sigmoid()
    apart = (2 * box.sigmoid() - 2 * wanted_box.sigmoid()).square().sum(-1)
    kinds = _divergence(classes, wanted_classes).mean(-1)
    objects = _divergence(objectness, wanted_objectness)
    weighted = yolov5_loss.BOX * apart + yolov5_loss.CLASS * head.classes / 80 * kinds

    parts = [
        yolov5_loss.object_gain(head) * balance * one.mean() + (held * other).sum() / held.sum().clamp(min=1)
        for balance, one, held, other in zip(
            yolov5_loss.balance(head), head.levels(objects), head.levels(belief), head.levels(weighted),
            strict=True,
        )
    ]  # fmt: skip
    return len(student) * 3 / len(parts) * torch.stack(parts).sum()


def yolov8(head: Head, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance of anchor-free heads (n, C, P), a scalar, at least 0.

    With the gains of ``yolov8_loss.loss`` and times n like it, so that the two can be mixed: the divergence of the
    classes everywhere; and, weighted by the teacher's highest class probability, the Kullback-Leibler divergence of
    each side's distribution over the bins, mean over the sides (Localization Distillation, Zheng et al., 2022, arXiv
    2102.12252, at temperature 1). All over the sum of those probabilities, at least 1.
    """
    sides, _, classes = head.split(student.float())
    with torch.no_grad():
        wanted_sides, _, wanted_classes = head.split(teacher.float())
        belief = wanted_classes.sigmoid().amax(-1)
    spread = F.kl_div(sides.log_softmax(-1), wanted_sides.log_softmax(-1), reduction="none", log_target=True)
    kinds = yolov8_loss.CLASS * _divergence(classes, wanted_classes).sum()
    boxes = yolov8_loss.SIDES * (belief * spread.sum(-1).mean(-1)).sum()
    return len(student) * (kinds + boxes) / belief.sum().clamp(min=1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of Bernoulli variables from their logits, elementwise.

    It is the cross-entropy against the teacher's σ less that σ's own entropy, so that agreement gives 0.
    """
    wanted = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    return F.binary_cross_entropy_with_logits(student, wanted, reduction="none") - entropy
