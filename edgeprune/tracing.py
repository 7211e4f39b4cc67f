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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune.groups import CostModel, Group, Member, ladder
from edgeprune.model import TorchModel, first_line
from edgeprune.operators import geometry, observe, operators
from edgeprune.surgery import is_depthwise, sides
from edgeprune.trials import droppable, why_whole


def trace(model: TorchModel, multiples: Sequence[int] = (1,)) -> CostModel:
    """Return the model's groups, in forward order, with their cost algebra.

    ``multiples`` are the channel multiples the target's precisions like. Groups that cannot be cut are listed with
    the reason in ``locked`` and a ladder of one rung; where no dependency graph can be built, that is every layer. The
    model is not changed.
    """
    trial = _randomised(model)
    calls = observe(trial, model.inputs)
    order = {name: call.order for name, call in calls.items()}
    shared = _shared_parameters(trial)
    rows = _rows(trial, model.inputs, order, shared)
    blocks = droppable(trial, model.inputs, calls, shared)
    ops = operators(trial, calls)
    groups = []
    for row in rows:
        group = replace(row, ladder=ladder(row.channels, multiples, row.segments))
        if not group.locked:
            group = replace(group, locked=why_whole(trial, model.inputs, group))
        if group.locked:
            group = replace(group, ladder=(row.channels,))
        groups.append(group)
    return CostModel(ops, _with_blocks(groups, blocks, order))


def size_of(model: TorchModel) -> dict[str, float]:
    """Return the MACs (one image) and parameters of a model as it is; no dependency graph is built."""
    return CostModel(operators(model.module, observe(model.module, model.inputs)), ()).full


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
            elif isinstance(part, nn.modules.conv._ConvNd | nn.Linear) and sides(part):
                fan_in = part.weight[0].numel()
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * math.sqrt(2.0 / fan_in))
            else:
                _open_scales(part, generator)
    return module


def _open_scales(part: nn.Module, generator: torch.Generator) -> None:
    """Draw one-number-a-channel parameters from [0.75, 1.25]: a layer scale of 1e-6 would hide its whole branch."""
    for parameter in part.parameters(recurse=False):
        if parameter.is_floating_point() and 0 < parameter.numel() == max(parameter.shape, default=1):
            parameter.copy_(0.75 + 0.5 * torch.rand(parameter.shape, generator=generator))


def _rows(
    module: nn.Module, inputs: tuple[Tensor, ...], order: Mapping[str, int], shared: Mapping[str, str]
) -> list[Group]:
    import torch_pruning

    names = {part: name for name, part in module.named_modules()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=inputs, verbose=False)
            _keep_flattens(graph)
            found = list(graph.get_all_groups(ignored_layers=[]))
    except Exception as error:
        why = f"the dependency graph of this model cannot be built ({type(error).__name__}: {first_line(error)})"
        layers = ((name, geometry(part)) for name, part in module.named_modules() if name in order)
        return [Group(name, size[0], locked=why) for name, size in layers if size]
    rows = [_row(graph, group, names, order, shared) for group in found]
    return sorted(rows, key=lambda row: order.get(row.name, math.inf))


def _keep_flattens(graph: Any) -> None:
    """Let only those reshapes multiply channels that flatten maps (n, c, h, w) to features (n, c·h·w).

    torch-pruning asks autograd for a reshape's size by the name of torch 1.x and, unanswered, takes any that lies
    between two widths for a flatten. Around attention such factors multiply without end.
    """
    from torch_pruning.dependency.index_mapping import _FlattenIndexMapping
    from torch_pruning.ops import OPTYPE

    for node in graph.module2node.values():
        size: tuple[int, ...] = tuple(getattr(node.grad_fn, "_saved_self_sym_sizes", ()))
        if node.type != OPTYPE.RESHAPE or len(size) < 3:
            continue
        edges = [*node.dependencies]
        edges += [d for beside in (*node.inputs, *node.outputs) for d in beside.dependencies if d.target is node]
        factors = [d for d in edges if isinstance(d.index_mapping[0], _FlattenIndexMapping)]
        if any(len(size) != 4 or d.index_mapping[0]._stride != size[2] * size[3] for d in factors):
            node.type = OPTYPE.ELEMENTWISE  # mappings are made anew for every group, for reshapes
            for dependency in factors:
                dependency.index_mapping[0] = None


def _row(
    graph: Any,
    group: Sequence[Any],
    names: Mapping[nn.Module, str],
    order: Mapping[str, int],
    shared: Mapping[str, str],
) -> Group:
    members, producers, locked, segments = [], [], "", 1
    channels = len(group[0].idxs)
    for item in group:
        part, name = item.dep.target.module, names.get(item.dep.target.module)
        if isinstance(part, nn.Parameter):
            locked = locked or "couples to a bare nn.Parameter, which is not sliced"
            continue
        if name is None or (isinstance(part, nn.PReLU) and part.num_parameters == 1):
            continue  # an elementwise, concat or reshape node: it carries nothing a channel
        if not list(part.parameters()) and sides(part) is None:
            continue
        outward = graph.is_out_channel_pruning_fn(item.dep.handler)
        if outward:
            producers.append(name)
        if sides(part) is None:
            locked = locked or f"{name} ({type(part).__name__}) cannot be sliced"
            continue
        if name in shared:
            locked = locked or f"{name} shares its parameters with {shared[name]}"
        member = Member(name, "out" if outward else "in", *_indices(item))
        locked = locked or _uneven(member, channels)
        members.append(member)
        if not is_depthwise(part):
            segments = math.lcm(segments, int(getattr(part, "groups", 1)))
    if channels % segments:
        locked, segments = locked or f"{channels} channels do not divide into {segments} convolution groups", 1
    members.sort(key=lambda m: order.get(m.module, math.inf))
    name = min(producers, key=lambda p: order.get(p, math.inf))
    return Group(name, channels, tuple(members), segments=segments, locked=locked)


def _indices(item: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.asarray(item.idxs, np.int64), np.asarray(item.root_idxs, np.int64)


def _uneven(member: Member, channels: int) -> str:
    if len(set(np.bincount(member.root, minlength=channels).tolist())) != 1:
        return f"its channels own different numbers of indices in {member.module}"
    if len(np.unique(member.local)) != len(member.local):
        return f"two of its channels own the same index in {member.module}"
    return ""


def _shared_parameters(module: nn.Module) -> dict[str, str]:
    owner: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            first = owner.setdefault(id(parameter), name)
            if first != name:
                shared[name], shared[first] = first, name
    return shared


def _with_blocks(groups: list[Group], blocks: list[str], order: dict[str, int]) -> list[Group]:
    """Let the first group that lives inside a droppable block offer to drop it; a block with none gets a row of its
    own.
    """
    placed = []
    offered = set()
    for group in groups:
        modules = [m.module for m in group.members] or [group.name]
        inside = next((b for b in blocks if all(m.startswith(b + ".") for m in modules)), None)
        opens = inside if inside and inside not in offered else None
        offered.add(opens)
        placed.append(replace(group, inside=inside, block=opens))
    for block in blocks:
        if block not in offered:
            placed.append(Group(block, 1, ladder=(1,), block=block, inside=block))
    return sorted(placed, key=lambda g: order.get(g.name, math.inf))
