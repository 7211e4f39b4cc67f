"""Criteria: which channels of a group matter least. Each gives one score a channel; the lowest go first.

Every criterion reads the same rows the surgery cuts by, so a channel's score covers all it would take with it: its
filters, and the weights that read it. Within a group each member's scores are divided by their mean, then averaged,
so that a member with large weights does not drown the others (Fang et al., "DepGraph", CVPR 2023, section 3.3).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune.errors import BadOption, UnmetRequirement, nearest
from edgeprune.groups import Group, Member
from edgeprune.model import TorchModel
from edgeprune.surgery import is_depthwise
from edgeprune.tasks.base import Batch, Task

Values = NDArray[np.float64]
Scores = dict[str, Values]
GRADIENT_BATCHES, GRADIENT_PARTS = 8, 32
_PART = 16
"""Images a gradient is taken of: of a trained network those of many images cancel out, and what is left is noise."""


def require_known(criterion: str, *others: str) -> None:
    """Raise BadOption, naming the nearest, unless there is such a criterion, or it is one of ``others``."""
    known = (*CRITERIA, *others)
    if criterion not in known:
        raise BadOption(f"unknown criterion {criterion!r}{nearest(criterion, known)}")


def scores(model: TorchModel, groups: Sequence[Group], criterion: str, task: Task | None, seed: int) -> Scores:
    """Return one importance a channel for every group, by group name; shape (channels,), higher matters more.

    Gradient criteria take the label loss of the first GRADIENT_BATCHES training batches, a few images at a time and
    GRADIENT_PARTS times at most, and the mean of the gradients' magnitudes: a weight matters as much whichever way it
    pulls. Channels of locked groups all score 1: their members' indices need not even fit. Raises BadOption for an
    unknown criterion, UnmetRequirement when it needs data and there is none.
    """
    require_known(criterion)
    found = CRITERIA[criterion](model, [group for group in groups if not group.locked], task, seed)
    return {group.name: found.get(group.name, np.ones(group.channels)) for group in groups}


def l1(model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> Scores:
    """Sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""
    return _by_weight(model.module, groups, lambda weight, _: weight.abs())


def l2(model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> Scores:
    """Euclidean norm of the weights, over the whole group (Fang et al., CVPR 2023, equation 4)."""
    squared = _by_weight(model.module, groups, lambda weight, _: weight.square())
    return {name: np.sqrt(values) for name, values in squared.items()}


def random(model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> Scores:
    """Uniform noise: the control every criterion must beat."""
    generator = np.random.default_rng(seed)
    return {group.name: generator.random(group.channels) for group in groups}


def taylor(model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> Scores:
    """First-order effect on the loss, |weight · gradient| summed over the weights, in the mean over small batches
    (Molchanov et al., CVPR 2019, equation 8, without its square).
    """
    return _by_weight(*_with_gradients(model, groups, task, seed, "taylor"), lambda weight, grad: (weight * grad).abs())


def gradient_l1(model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> Scores:
    """Mean absolute gradient of the weights: the "initial sparsity mapping" of hyper-efficient pruning for driving."""
    return _by_weight(*_with_gradients(model, groups, task, seed, "gradient_l1"), lambda _, grad: grad.abs())


def bn_scale(model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> Scores:
    """|γ| of the group's batch norms (Liu et al., "Network Slimming", ICCV 2017); L2 where a group has none."""
    parts = dict(model.module.named_modules())
    result = l2(model, groups, task, seed)
    for group in groups:
        found = [
            _to_roots(group, member, parts[member.module].weight.detach().abs())
            for member in group.members
            if member.side == "out"
            and isinstance(parts[member.module], nn.modules.batchnorm._BatchNorm)
            and isinstance(parts[member.module].weight, Tensor)
        ]
        if found:
            result[group.name] = np.mean(found, axis=0)
    return result


Criterion = Callable[[TorchModel, Sequence[Group], Task | None, int], Scores]
CRITERIA: Mapping[str, Criterion] = {f.__name__: f for f in (l1, l2, random, taylor, gradient_l1, bn_scale)}


def dead(module: nn.Module, group: Group) -> set[int]:
    """Return the channels of a group that carry nothing: their filters, or all weights that read them, are exactly
    zero.

    A filter counts as zero only if bias and batch norm leave it so (γ = β = 0 where there is a norm).
    """
    parts = dict(module.named_modules())
    silent, unread = np.ones(group.channels, bool), np.ones(group.channels, bool)
    readers = normed = False
    for member in group.members:
        part = parts[member.module]
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            normed = True
            silent &= _to_roots(group, member, part.weight.abs() + part.bias.abs()) == 0 if part.affine else False
        elif member.side == "in" and not is_depthwise(part):
            readers = True
            unread &= _to_roots(group, member, _per_channel(part, member, lambda w, _: w.abs())) == 0
    if not normed:
        silent &= _zero_filters(parts, group)
    return set(np.flatnonzero(silent | (unread & readers)).tolist())


def _zero_filters(parts: Mapping[str, nn.Module], group: Group) -> NDArray[np.bool_]:
    zero = np.ones(group.channels, bool)
    for member in group.members:
        part = parts[member.module]
        if member.side == "out" and (weight := _per_channel(part, member, lambda w, _: w.abs())) is not None:
            bias = getattr(part, "bias", None)
            total = weight + bias.detach().abs() if isinstance(bias, Tensor) else weight
            zero &= _to_roots(group, member, total) == 0
    return zero


def _by_weight(module: nn.Module, groups: Sequence[Group], value: Callable[[Tensor, Tensor], Tensor]) -> Scores:
    parts = dict(module.named_modules())
    result = {}
    for group in groups:
        rows = []
        for member in group.members:
            per_channel = _per_channel(parts[member.module], member, value)
            if per_channel is not None:
                row = _to_roots(group, member, per_channel)
                rows.append(row / max(row.mean(), 1e-30))
        result[group.name] = np.mean(rows, axis=0) if rows else np.ones(group.channels)
    return result


def _per_channel(part: nn.Module, member: Member, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    """Sum ``value(weight, gradient)`` over all but the member's side; None for modules without a filter there."""
    weight = getattr(part, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or (member.side == "in" and is_depthwise(part)):
        return None
    gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
    matrix = value(weight.detach(), gradient).flatten(2).sum(2) if weight.ndim > 2 else value(weight.detach(), gradient)
    groups = int(getattr(part, "groups", 1)) if not is_depthwise(part) else 1
    if isinstance(part, nn.ConvTranspose2d):
        matrix = matrix.t()
    if member.side == "out":
        return matrix.sum(1)
    return matrix.reshape(groups, -1, matrix.shape[1]).sum(1).flatten()


def _to_roots(group: Group, member: Member, per_index: Tensor | None) -> Values:
    """Add up what a channel's local indices score on this member: shape (channels,)."""
    assert per_index is not None
    values = per_index.detach().double().numpy()[member.local]
    return np.asarray(np.bincount(member.root, weights=values, minlength=group.channels), np.float64)


def _with_gradients(
    model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int, criterion: str
) -> tuple[nn.Module, Sequence[Group]]:
    if task is None or not task.splits() or task.name == "synthetic":
        raise UnmetRequirement(f"criterion {criterion!r} needs the gradient of a loss; give --data, or use l1 or l2")
    module = copy.deepcopy(model.module).eval().requires_grad_(True)
    weights = list(module.parameters())
    sums, parts = [torch.zeros_like(weight) for weight in weights], 0
    batches = islice(task.train_batches(0, seed), GRADIENT_BATCHES)
    for part in islice(chain.from_iterable(map(_parts, batches)), GRADIENT_PARTS):
        task.loss(module(part.inputs), part).backward()  # type: ignore[no-untyped-call]
        parts += 1
        for weight, total in zip(weights, sums, strict=True):
            if weight.grad is not None:
                total += weight.grad.abs()
                weight.grad = None
    for weight, total in zip(weights, sums, strict=True):
        weight.grad = total / max(parts, 1)
    return module, groups


def _parts(batch: Batch) -> Iterator[Batch]:
    """Yield a batch a few images at a time, or whole where its targets are not a class an image."""
    images, targets = batch
    if not isinstance(targets, Tensor) or targets.shape != images.shape[:1] or targets.is_floating_point():
        yield batch
        return
    for at in range(0, len(images), _PART):
        yield Batch(images[at : at + _PART], targets[at : at + _PART])
