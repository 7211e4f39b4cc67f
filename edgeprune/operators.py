"""What a module is made of: one pass with hooks, and the row of every module that owns or applies parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgeprune.groups import Op
from edgeprune.surgery import is_depthwise, sides


@dataclass(frozen=True)
class Call:
    """What forward hooks saw of one module: order of its first call, its shapes, how often it ran."""

    order: int
    count: int
    positions: float
    given: torch.Size | None
    returned: torch.Size | None


def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Call]:
    """Run the module once and return what each submodule was called with, by name; those not called are left out."""
    calls: dict[str, Call] = {}
    hooks = []

    def watch(name: str) -> None:
        def hook(part: nn.Module, given: tuple[object, ...], returned: object) -> None:
            source = given[0].shape if given and isinstance(given[0], Tensor) else None
            result = returned.shape if isinstance(returned, Tensor) else None
            shape = source if isinstance(part, nn.modules.conv._ConvTransposeNd) else result
            positions = math.prod(shape[1:]) / shape[channels_at(part)] if shape and len(shape) > 1 else 0.0
            old = calls.get(name)
            count, total = (old.count, old.positions) if old else (0, 0.0)
            order = old.order if old else len(calls)
            calls[name] = Call(order, count + 1, total + positions, source, result)

        hooks.append(module.get_submodule(name).register_forward_hook(hook))

    for name, _ in module.named_modules():
        if name:
            watch(name)
    run_hooked(module, inputs, hooks)
    return calls


def run_hooked(module: nn.Module, inputs: tuple[Tensor, ...], hooks: Iterable[RemovableHandle]) -> None:
    """Run the module once, without gradients, and take the hooks that watched it away."""
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


def operators(module: nn.Module, calls: Mapping[str, Call]) -> list[Op]:
    """Return the rows of the cost algebra, in forward order. A shared parameter counts once, where it comes first."""
    ops: list[Op] = []
    seen: set[int] = set()
    for name, part in module.named_modules():
        own = [p for p in part.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        call = calls.get(name)
        if own or (call and geometry(part)):
            ops.append(_op(name, part, call, sum(p.numel() for p in own)))
    return sorted(ops, key=lambda op: calls[op.name].order if op.name in calls else math.inf)


def _op(name: str, part: nn.Module, call: Call | None, count: int) -> Op:
    if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.PReLU) and (size := sides(part)):
        return Op(name, size[0], None, per_channel=count / size[0])
    size = geometry(part)
    if size is None:
        return Op(name, 1, None, fixed=float(count))
    kernel = float(math.prod(getattr(part, "kernel_size", (1,))))
    groups = int(getattr(part, "groups", 1))
    bias = 0.0 if part.bias is None else 1.0
    inputs = None if is_depthwise(part) else size[1]
    shape = {"kernel": float(getattr(part, "kernel_size", (1,))[0]), "stride": float(getattr(part, "stride", (1,))[0])}
    if call and call.returned is not None and len(call.returned) == 4:
        shape |= {"height": float(call.returned[2]), "width": float(call.returned[3])}
    return Op(
        name,
        size[0],
        inputs,
        call.positions if call else 0.0,
        kernel,
        groups,
        per_channel=bias,
        # What it owns less what its shape says: not 0 where its weights are shared or parametrized, so live elsewhere.
        fixed=count - kernel * size[0] * (size[1] / groups) - bias * size[0],
        shape=shape,
    )


def geometry(part: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of anything that multiplies by a filter, sliceable or not."""
    if isinstance(part, nn.modules.conv._ConvNd):
        return part.out_channels, part.in_channels
    return (part.out_features, part.in_features) if isinstance(part, nn.Linear) else None


def channels_at(part: nn.Module) -> int:
    """Return which dimension of its input and output a layer takes for the channels: the last one of a linear layer."""
    return -1 if isinstance(part, nn.Linear) else 1
