"""Masks: single weights instead of whole channels. Which stay is told by their magnitude alone, so that the mask of a
layer is one entry of a recipe: how many, or ``"2:4"``.

Zeros stay in the file and in the arithmetic: they make an artifact smaller once it is compressed, and faster only where
a runtime skips them, which the clock has to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel
from edgeprune.model import TorchModel

HALF = "2:4"
"""Two of every four weights that are consecutive in the input channels, at each output and filter position: the layout
of NVIDIA's sparse tensor cores (Mishra et al., 2021, "Accelerating Sparse Deep Neural Networks", section 3).
"""


def stays(weight: Tensor, entry: int | str) -> Tensor:
    """Return which weights stay (bool, the shape of ``weight``): the ``entry`` largest by magnitude, or by HALF.

    Of equal ones those of lower index stay. ``weight`` is (outputs, inputs, …). Raises BadModel for a number the
    weight does not have, and for HALF where the inputs are no multiple of four.
    """
    size = weight.detach().abs()
    if isinstance(entry, int) and 0 <= entry <= size.numel():
        return _largest(size.flatten(), entry).view(size.shape)
    if entry != HALF or size.shape[1] % 4:
        raise BadModel(f"a mask of {entry!r} does not fit a weight of shape {tuple(weight.shape)}")
    last = size.movedim(1, -1)
    fours = last.reshape(*last.shape[:-1], -1, 4)
    best = fours.argsort(dim=-1, descending=True, stable=True)[..., :2]
    return torch.zeros_like(fours, dtype=torch.bool).scatter(-1, best, True).flatten(-2).movedim(-1, 1)


def _largest(size: Tensor, count: int) -> Tensor:
    if count in (0, size.numel()):
        return torch.full_like(size, bool(count), dtype=torch.bool)
    least = size.kthvalue(size.numel() - count + 1).values
    chosen = size > least
    equal = (size == least).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen


def put_on(module: nn.Module, masks: Mapping[str, int | str]) -> None:
    """Set the weights that do not stay to zero, in place; ``masks`` maps a layer's name to its entry.

    Raises BadModel for a name that is no layer with a filter of its own, or an entry that does not fit it.
    """
    for name, entry in masks.items():
        weight = filter_of(module, name)
        try:
            chosen = stays(weight, entry)
        except BadModel as error:
            raise BadModel(f"the plan's mask does not fit {name!r}: {error}") from error
        with torch.no_grad():
            weight.masked_fill_(~chosen, 0.0)


def recounted(module: nn.Module, masks: Mapping[str, int | str]) -> dict[str, int | str]:
    """Return the entries of masked layers after some of their channels went: how many of their weights are not zero.

    By them the same mask is found again from the cut layer alone, the largest of the whole being the largest of a part.
    """
    return {n: e if e == HALF else int(filter_of(module, n).count_nonzero()) for n, e in masks.items()}


def hold(module: nn.Module, model: TorchModel) -> None:
    """Let training leave every masked weight of ``model`` at zero in ``module``, which has its layers and its device.

    Their gradients are zero from here on: so are momentum and decay, and what is clipped is the norm of the others. The
    mask is where the weights of ``model`` are zero, in the layers its surgery names.
    """

    def without(gone: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda gradient: gradient.masked_fill(gone, 0.0)

    for name in model.surgery.masks:
        weight = filter_of(module, name)
        gone = (filter_of(model.module, name) == 0).to(weight.device)
        weight.register_hook(without(gone))  # type: ignore[no-untyped-call]


def has_filter(part: nn.Module) -> bool:
    """Return whether a module multiplies by a weight (outputs, inputs, …) that is its own parameter."""
    own = dict(part.named_parameters(recurse=False))
    return isinstance(part, nn.modules.conv._ConvNd | nn.Linear) and "weight" in own


def filter_of(module: nn.Module, name: str) -> Tensor:
    """Return the weight of the layer called ``name``. Raises BadModel where there is none to mask."""
    try:
        part = module.get_submodule(name)
    except AttributeError:
        part = nn.Identity()
    if not name or not has_filter(part):
        raise BadModel(f"the plan masks {name!r}, which is no layer with a filter of its own in this model")
    return part.get_parameter("weight")
