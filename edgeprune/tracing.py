"""Module to groups: DepGraph through torch-pruning, then a trial cut of every group before anyone may rely on it.

torch-pruning certifies groups that crash when cut (zero-padded shortcuts, splits it cannot index), so a group counts
as prunable only if a cut of one step runs and gives what the uncut model gives with those channels masked. The trial
runs on a copy with random weights: the property is one of the structure, and a trained net's dead or saturated
channels could hide a wrong index.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel
from edgeprune.groups import CostModel, Cut, Group, Member, Op, ladder
from edgeprune.model import TorchModel, first_line
from edgeprune.surgery import cut, is_depthwise, resolve, sides

TOLERANCE = 1e-4
"""Largest |difference| of a trial cut from the masked original, in standard deviations of the output (float32 sums
reorder).
"""


@dataclass(frozen=True)
class _Call:
    """What forward hooks saw of one module: order of its first call, its shapes, how often it ran."""

    order: int
    count: int
    positions: float
    given: Tensor | None
    returned: Tensor | None


def trace(model: TorchModel, multiples: Sequence[int] = (1,)) -> CostModel:
    """Return the model's groups, in forward order, with their cost algebra.

    ``multiples`` are the channel multiples the target's precisions like. Groups that cannot be cut are listed with
    the reason in ``locked`` and a ladder of one rung. The model is not changed. Raises BadModel when the dependency
    graph cannot be built.
    """
    trial = _randomised(model)
    calls = _observe(trial, model.inputs)
    rows = _rows(trial, model.inputs)
    names = {name: calls[name].order for name, module in trial.named_modules() if name in calls}
    rows.sort(key=lambda g: names.get(g.name, math.inf))
    blocks = _droppable(trial, model.inputs)
    ops = _ops(trial, calls)
    groups = []
    for row in rows:
        group = replace(row, ladder=ladder(row.channels, multiples, row.segments))
        if not group.locked:
            group = replace(group, locked=_try(trial, model.inputs, group))
        if group.locked:
            group = replace(group, ladder=(row.channels,))
        groups.append(group)
    return CostModel(ops, _with_blocks(groups, blocks, names))


def size_of(model: TorchModel) -> dict[str, float]:
    """Return the MACs (one image) and parameters of a model as it is; no dependency graph is built."""
    return CostModel(_ops(model.module, _observe(model.module, model.inputs)), ()).full


def _randomised(model: TorchModel) -> nn.Module:
    module = copy.deepcopy(model.module).eval().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
                part.weight.copy_(0.75 + 0.5 * torch.rand(part.weight.shape, generator=generator))
                part.bias.copy_(0.2 * torch.randn(part.bias.shape, generator=generator))
                if part.track_running_stats and part.running_mean is not None and part.running_var is not None:
                    part.running_mean.zero_()
                    part.running_var.fill_(1.0)
            elif isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) and sides(part):
                fan_in = part.weight[0].numel()
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * math.sqrt(2.0 / fan_in))
    return module


def _observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, _Call]:
    calls: dict[str, _Call] = {}
    hooks = []

    def watch(name: str) -> None:
        def hook(part: nn.Module, given: tuple[object, ...], returned: object) -> None:
            source = given[0] if len(given) == 1 and isinstance(given[0], Tensor) else None
            result = returned if isinstance(returned, Tensor) else None
            shape = source if isinstance(part, nn.ConvTranspose2d) else result
            positions = 0.0
            if shape is not None:
                positions = shape[0].numel() / (shape.shape[-1] if isinstance(part, nn.Linear) else shape.shape[1])
            old = calls.get(name)
            count, total = (old.count, old.positions) if old else (0, 0.0)
            order = old.order if old else len(calls)
            calls[name] = _Call(order, count + 1, total + positions, source, result)

        hooks.append(module.get_submodule(name).register_forward_hook(hook))

    for name, _ in module.named_modules():
        if name:
            watch(name)
    with torch.no_grad():
        module(*inputs)
    for handle in hooks:
        handle.remove()
    return calls


def _rows(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Group]:
    import torch_pruning

    names = {part: name for name, part in module.named_modules()}
    shared = _shared_parameters(module)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=inputs, verbose=False)
            found = list(graph.get_all_groups(ignored_layers=[]))
    except Exception as error:
        raise BadModel(
            f"the dependency graph of this model cannot be built ({type(error).__name__}: {first_line(error)})"
        ) from error
    return [_row(graph, group, names, shared) for group in found]


def _row(graph: object, group: Sequence[object], names: dict[nn.Module, str], shared: dict[str, str]) -> Group:
    members, locked, segments = [], "", 1
    channels = len(group[0].idxs)  # type: ignore[attr-defined]
    for item in group:
        part, name = item.dep.target.module, names.get(item.dep.target.module)  # type: ignore[attr-defined]
        if isinstance(part, nn.Parameter):
            locked = locked or "couples to a bare nn.Parameter, which is not sliced"
            continue
        if name is None or (not list(part.parameters(recurse=False)) and sides(part) is None):
            continue  # an elementwise, concat or reshape node: it carries no parameters
        if sides(part) is None:
            locked = locked or f"{name} ({type(part).__name__}) cannot be sliced"
            continue
        if name in shared:
            locked = locked or f"{name} shares its parameters with {shared[name]}"
        outward = graph.is_out_channel_pruning_fn(item.dep.handler)  # type: ignore[attr-defined]
        local = np.asarray(item.idxs, np.int64)  # type: ignore[attr-defined]
        root = np.asarray(item.root_idxs, np.int64)  # type: ignore[attr-defined]
        if len(set(np.bincount(root, minlength=channels).tolist())) != 1:
            locked = locked or f"its channels own different numbers of indices in {name}"
        members.append(Member(name, "out" if outward else "in", local, root))
        if not is_depthwise(part):
            segments = math.lcm(segments, int(getattr(part, "groups", 1)))
    if channels % segments:
        locked = locked or f"{channels} channels do not divide into {segments} convolution groups"
    return Group(
        members[0].module, channels, tuple(members), segments=segments if channels % segments == 0 else 1, locked=locked
    )


def _shared_parameters(module: nn.Module) -> dict[str, str]:
    owner: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            first = owner.setdefault(id(parameter), name)
            if first != name:
                shared[name], shared[first] = first, name
    return shared


def _try(module: nn.Module, inputs: tuple[Tensor, ...], group: Group) -> str:
    """Cut the group by one step and compare with the masked original; return why it must stay whole, or ``""``."""
    if len(group.ladder) < 2:
        return f"{group.channels} channels are too few to cut"
    per_run, run = group.ladder[1] // group.segments, group.channels // group.segments
    spread = np.unique(np.linspace(0, run - 1, per_run).round().astype(int))
    kept = tuple(int(s * run + i) for s in range(group.segments) for i in spread)
    plan = (Cut(group.name, group.channels, kept),)
    try:
        smaller = cut(copy.deepcopy(module), resolve(module, [group], plan))
        with torch.no_grad():
            found, whole = smaller(*inputs), module(*inputs)
            wanted = _masked(module, group, set(kept))(*inputs)
    except Exception as error:
        return f"a trial cut does not run ({first_line(error)})"
    if found.shape != whole.shape:
        return "its channels are the model's outputs"
    difference = float((found - wanted).abs().max() / wanted.std().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        return (
            "a trial cut changes what the kept channels compute (their positions are tied by more than the graph shows)"
        )
    return ""


def _masked(module: nn.Module, group: Group, kept: set[int]) -> nn.Module:
    """Return a copy in which nobody reads the removed channels: the weights of their readers are zero there."""
    masked = copy.deepcopy(module)
    parts = dict(masked.named_modules())
    for member in group.members:
        part = parts[member.module]
        if member.side == "out" or isinstance(part, nn.modules.batchnorm._BatchNorm | nn.PReLU) or is_depthwise(part):
            continue
        gone = torch.tensor([int(i) for i, r in zip(member.local, member.root, strict=True) if int(r) not in kept])
        weight = part.get_parameter("weight").data
        if isinstance(part, nn.ConvTranspose2d):
            weight[gone] = 0
        elif getattr(part, "groups", 1) == 1:
            weight[:, gone] = 0
        else:
            _mask_grouped(part, weight, gone)
    return masked


def _mask_grouped(part: nn.Module, weight: Tensor, gone: Tensor) -> None:
    groups = int(part.groups)  # type: ignore[arg-type]
    size = weight.shape[1]
    blocks = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
    for index in gone.tolist():
        blocks[index // size, :, index % size] = 0


def _droppable(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Return the innermost modules that pass their input through unchanged when all their parameters are zero.

    That is what a residual block with an identity skip does (any activation after the sum included, where it leaves its
    input as it is), so such a block can be replaced by an identity.
    """
    calls = _observe(module, inputs)
    found: list[str] = []
    for name, part in reversed(list(module.named_modules())):  # children before parents
        call = calls.get(name)
        if call is None or call.count != 1 or call.given is None or call.returned is None:
            continue
        if call.given.shape != call.returned.shape or not any(isinstance(m, nn.Conv2d) for m in part.modules()):
            continue
        if isinstance(part, nn.Conv2d) or any(f.startswith(name + ".") for f in found):
            continue
        empty = copy.deepcopy(part)
        with torch.no_grad():
            for parameter in empty.parameters():
                parameter.zero_()
            for buffer_name, buffer in empty.named_buffers():
                if buffer_name.endswith("running_mean"):
                    buffer.zero_()
            if torch.equal(empty(call.given), call.given):
                found.append(name)
    return found[::-1]


def _with_blocks(groups: list[Group], blocks: list[str], order: dict[str, int]) -> list[Group]:
    """Let the first group that lives inside a droppable block offer to drop it; a block with none gets a row of its
    own.
    """
    placed = []
    offered = set()
    for group in groups:
        inside = next((b for b in blocks if all(m.module.startswith(b + ".") for m in group.members)), None)
        opens = inside if inside and inside not in offered else None
        offered.add(opens)
        placed.append(replace(group, inside=inside, block=opens))
    for block in blocks:
        if block not in offered:
            placed.append(Group(block, 1, ladder=(1,), block=block, inside=block))
    return sorted(placed, key=lambda g: order.get(g.name, math.inf))


def _ops(module: nn.Module, calls: dict[str, _Call]) -> list[Op]:
    ops: list[Op] = []
    seen: set[int] = set()
    for name, part in module.named_modules():
        own = [p for p in part.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        call = calls.get(name)
        if not own and not (call and isinstance(part, nn.Conv2d | nn.Linear)):
            continue
        ops.append(_op(name, part, call, sum(p.numel() for p in own)))
    return sorted(ops, key=lambda op: calls[op.name].order if op.name in calls else math.inf)


def _op(name: str, part: nn.Module, call: _Call | None, count: int) -> Op:
    size = sides(part)
    if size is None:
        return Op(name, 1, None, fixed=float(count))
    bias = getattr(part, "bias", None)
    positions = call.positions if call else 0.0
    if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.PReLU):
        return Op(name, size[0], None, per_channel=count / size[0])
    kernel = math.prod(getattr(part, "kernel_size", (1,)))
    shape = {"kernel": float(getattr(part, "kernel_size", (1,))[0]), "stride": float(getattr(part, "stride", (1,))[0])}
    if call and call.returned is not None and call.returned.ndim == 4:
        shape |= {"height": float(call.returned.shape[2]), "width": float(call.returned.shape[3])}
    return Op(
        name,
        size[0],
        None if is_depthwise(part) else size[1],
        positions,
        float(kernel),
        int(getattr(part, "groups", 1)),
        per_channel=0.0 if bias is None else 1.0,
        shape=shape,
    )
