"""Layers as rows of the search, their weights counted in eighths: what masks offer, and what they leave to count.

An eighth is a unit of the action space (FRACTIONS), whatever the layer's size; a recipe holds numbers of weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor, nn

from edgeprune.groups import FRACTIONS, CostModel, Group, Member, Op
from edgeprune.masks import HALF, filter_of, has_filter
from edgeprune.model import TorchModel
from edgeprune.operators import observe, operators

Masked = Literal["element", "2:4"]
EIGHTHS = 8
_LADDERS: Mapping[str, tuple[int, ...]] = {
    "element": tuple(round(EIGHTHS * fraction) for fraction in FRACTIONS),
    HALF: (EIGHTHS, EIGHTHS // 2),
}


def rows(model: TorchModel, granularity: Masked) -> CostModel:
    """Return every layer with a filter as a group of EIGHTHS, with the algebra of what is not zero.

    MACs and parameters are those of the weights that stay, and all of everything that is no filter. ``element`` offers
    the eighths of FRACTIONS, ``2:4`` a half; widths are eighths. The model's first and last layers take part: a search
    sees what they are worth. Layers that run twice count twice; those that never run have no row.
    """
    calls = observe(model.module, model.inputs)
    ops, groups = [], []
    owners = Counter(id(p) for part in model.module.modules() for p in part.parameters(recurse=False))
    for op in operators(model.module, calls):
        part = model.module.get_submodule(op.name)
        if not has_filter(part) or op.name not in calls:
            ops.append(op)
            continue
        weight = filter_of(model.module, op.name)
        locked = _why_dense(weight, part, owners[id(weight)] > 1, granularity)
        all_of_it = np.arange(EIGHTHS)
        groups.append(
            Group(
                op.name,
                EIGHTHS,
                (Member(op.name, "out", all_of_it, all_of_it),),
                ladder=(EIGHTHS,) if locked else _LADDERS[granularity],
                locked=locked,
            )
        )
        ops.append(_in_eighths(op, weight.numel()))
    return CostModel(ops, groups)


def _in_eighths(op: Op, count: int) -> Op:
    fixed = op.fixed + op.per_channel * op.outputs
    return replace(
        op, outputs=EIGHTHS, inputs=None, kernel=count / EIGHTHS, conv_groups=1, per_channel=0.0, fixed=fixed
    )


def _why_dense(weight: Tensor, part: nn.Module, shared: bool, granularity: Masked) -> str:
    if shared:
        return "its weight also serves elsewhere"
    if weight.numel() < EIGHTHS:
        return f"{weight.numel()} weights are too few to mask"
    if granularity == HALF and isinstance(part, nn.modules.conv._ConvTransposeNd):
        return "2:4 is not defined for a transposed convolution"
    if granularity == HALF and weight.shape[1] % 4:
        return f"the number of channels that its filters read ({weight.shape[1]}) is no multiple of 4"
    return ""


def chosen(module: nn.Module, groups: Sequence[Group], widths: Sequence[int]) -> dict[str, int | str]:
    """Return the masks of a plan over ``rows``: entries by layer, dense ones left out."""
    return {
        group.name: HALF if group.ladder == _LADDERS[HALF] else counted(module, group, width)
        for group, width in zip(groups, widths, strict=True)
        if width < EIGHTHS
    }


def counted(module: nn.Module, group: Group, width: int) -> int:
    """Return how many weights of a row's layer so many eighths are, rounded down."""
    return filter_of(module, group.name).numel() * width // EIGHTHS


def nonzero(model: TorchModel) -> dict[str, float] | None:
    """Return the MACs (one image) and parameters of a model without the zeros of its masks; None where it has none."""
    if not model.surgery.masks:
        return None
    ops = operators(model.module, observe(model.module, model.inputs))
    cost = CostModel(ops, ())
    found = dict(cost.full)
    for op, macs in zip(ops, cost.by_op(()), strict=True):
        if op.name in model.surgery.masks:
            weight = filter_of(model.module, op.name)
            zeros = weight.numel() - int(weight.count_nonzero())
            found["macs"] -= float(macs) * zeros / weight.numel()
            found["parameters"] -= zeros
    return found
