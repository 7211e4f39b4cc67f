"""Plan to smaller module: plain slicing by resolved indices. Neither torch-pruning nor a search is needed to replay
it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune import activations, masks
from edgeprune.errors import BadModel, UnmetRequirement
from edgeprune.groups import Group, Plan
from edgeprune.model import Surgery, TorchModel

Indices = tuple[int, ...]


def sides(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a module that can be sliced, None for any other.

    Sliceable are convolutions and their transposes (the latter ungrouped), linear layers, batch norms and
    PReLUs, whose parameters are their own (no parametrization such as weight norm). A norm's two sides are one.
    """
    if "weight" in dict(module.named_parameters(recurse=False)) or isinstance(module, nn.modules.batchnorm._BatchNorm):
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return module.out_channels, module.in_channels
        if isinstance(module, nn.ConvTranspose2d) and module.groups == 1:
            return module.out_channels, module.in_channels
        if isinstance(module, nn.Linear):
            return module.out_features, module.in_features
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return module.num_features, module.num_features
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            return module.num_parameters, module.num_parameters
    return None


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution's outputs and inputs are one and the same channels."""
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and 1 < module.groups == module.out_channels == module.in_channels
    )


def apply(model: TorchModel, groups: Sequence[Group], plan: Plan) -> TorchModel:
    """Return the model cut by ``plan``; the argument stays untouched.

    ``groups`` must have been traced from this very model. An empty or whole plan gives an equal copy.
    """
    return rebuild(model, resolve(model.module, groups, plan))


def rebuild(original: TorchModel, surgery: Surgery) -> TorchModel:
    """Return a copy of the original cut by recorded indices; its remaining weights are the original's.

    Where the original is masked already, a cut layer keeps the mask of what is left of it. Raises BadModel when the
    indices do not fit this module, and UnmetRequirement for a cut through the fours of a 2:4 mask.
    """
    for name, entry in original.surgery.masks.items():
        if entry == masks.HALF and surgery.kept.get(name, (None, None))[1] is not None:
            raise UnmetRequirement(f"{name} has a 2:4 mask over its input channels; remove channels before masking")
    module = cut(copy.deepcopy(original.module), surgery)
    whole = compose(original.surgery, surgery)
    left = masks.recounted(module, {n: e for n, e in whole.masks.items() if n in surgery.kept})
    whole = replace(whole, masks={**whole.masks, **left, **surgery.masks})
    return TorchModel(module, original.spec, original.inputs, whole)


def resolve(module: nn.Module, groups: Sequence[Group], plan: Plan) -> Surgery:
    """Turn a plan into the indices each module keeps on each side."""
    by_name = {group.name: group for group in groups}
    modules = dict(module.named_modules())
    dropped = tuple(str(by_name[c.group].block) for c in plan if c.drop_block)
    removed: dict[str, tuple[set[int], set[int]]] = {}
    for one in plan:
        gone = set(range(one.channels)) - set(one.kept)
        if one.drop_block or not gone:
            continue
        for member in by_name[one.group].members:
            side = removed.setdefault(member.module, (set(), set()))[0 if member.side == "out" else 1]
            side.update(int(i) for i, r in zip(member.local, member.root, strict=True) if int(r) in gone)
    kept: dict[str, tuple[Indices | None, Indices | None]] = {}
    for name, (out, inp) in removed.items():
        size = sides(modules[name])
        if size is None:
            raise BadModel(f"{name} ({type(modules[name]).__name__}) cannot be sliced")
        if is_depthwise(modules[name]):
            out = inp = out | inp  # one and the same channels; both sides, for an earlier cut may have made it so
        if not _inside(name, dropped):
            kept[name] = (_rest(size[0], out), _rest(size[1], inp))
    return Surgery(kept, dropped)


def compose(first: Surgery, second: Surgery) -> Surgery:
    """Return the one surgery that does ``first`` and then ``second``, in indices of the original module.

    A dropped block takes its activations and masks along.
    """
    dropped = first.dropped + tuple(d for d in second.dropped if d not in first.dropped)
    kept = {name: side for name, side in first.kept.items() if not _inside(name, dropped)}
    for name, (out, inp) in second.kept.items():
        before_out, before_in = kept.get(name, (None, None))
        kept[name] = (_through(before_out, out), _through(before_in, inp))
    kinds, entries = {**first.activations, **second.activations}, {**first.masks, **second.masks}
    return Surgery(
        kept,
        dropped,
        {name: kind for name, kind in kinds.items() if not _inside(name, dropped)},
        {name: entry for name, entry in entries.items() if not _inside(name, dropped)},
        tuple(name for name in dict.fromkeys((*first.floating, *second.floating)) if not _inside(name, dropped)),
    )


def since(first: Surgery, whole: Surgery) -> Surgery:
    """Return what ``compose`` made ``whole`` of ``first`` with, in indices of the module that ``first`` left."""
    kept: dict[str, tuple[Indices | None, Indices | None]] = {}
    for name, (out, inp) in whole.kept.items():
        before = first.kept.get(name, (None, None))
        pair = _within(before[0], out), _within(before[1], inp)
        if pair != (None, None):
            kept[name] = pair
    return Surgery(
        kept,
        tuple(name for name in whole.dropped if name not in first.dropped),
        {name: kind for name, kind in whole.activations.items() if first.activations.get(name) != kind},
        {name: entry for name, entry in whole.masks.items() if first.masks.get(name) != entry},
        tuple(name for name in whole.floating if name not in first.floating),
    )


def _within(before: Indices | None, now: Indices | None) -> Indices | None:
    if now is None or now == before:
        return None
    place = {index: at for at, index in enumerate(before)} if before is not None else None
    return now if place is None else tuple(place[index] for index in now)


def cut(module: nn.Module, surgery: Surgery) -> nn.Module:
    """Slice ``module`` in place, put its activations in and its masks on, and return it.

    Raises BadModel when an index or a name does not fit.
    """
    activations.replace(module, surgery.activations)
    for name in surgery.dropped:
        parent, _, child = name.rpartition(".")
        try:
            module.get_submodule(name)
            setattr(module.get_submodule(parent), child, nn.Identity())
        except AttributeError as error:
            raise BadModel(f"the plan drops a block {name!r} that this model does not have") from error
    modules = dict(module.named_modules())
    for name, (out, inp) in surgery.kept.items():
        target = modules.get(name)
        if target is None or sides(target) is None:
            raise BadModel(f"the plan cuts {name!r}, which this model does not have or which cannot be sliced")
        try:
            _slice(target, out, inp)
        except (IndexError, RuntimeError) as error:
            raise BadModel(f"the plan's indices do not fit {name!r}: {error}") from error
    masks.put_on(module, surgery.masks)
    return module


def _slice(module: nn.Module, out: Indices | None, inp: Indices | None) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.PReLU) or is_depthwise(module):
        keep = out if out is not None else inp
        if keep is not None:
            _slice_channels(module, keep)
    elif isinstance(module, nn.Linear | nn.ConvTranspose2d) or getattr(module, "groups", 1) == 1:
        _slice_dense(module, out, inp)
    else:
        _slice_grouped(module, out, inp)


def _slice_channels(module: nn.Module, keep: Indices) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, name, None)
        if isinstance(tensor, Tensor):
            _put(module, name, tensor[list(keep)])
    for attribute in ("num_features", "num_parameters", "out_channels", "in_channels", "groups"):
        if hasattr(module, attribute):
            setattr(module, attribute, len(keep))


def _slice_dense(module: nn.Module, out: Indices | None, inp: Indices | None) -> None:
    transposed = isinstance(module, nn.ConvTranspose2d)
    linear = isinstance(module, nn.Linear)
    if out is not None:
        _put(module, "weight", _take(module.weight, 1 if transposed else 0, out))
        if isinstance(module.bias, Tensor):
            _put(module, "bias", module.bias[list(out)])
        setattr(module, "out_features" if linear else "out_channels", len(out))
    if inp is not None:
        _put(module, "weight", _take(module.weight, 0 if transposed else 1, inp))
        setattr(module, "in_features" if linear else "in_channels", len(inp))


def _slice_grouped(module: nn.Module, out: Indices | None, inp: Indices | None) -> None:
    """Slice a grouped convolution: weight (out, in / groups, …), every convolution group losing equally many.

    Whole convolution groups may go, outputs and inputs together: so does a second cut where the first left the
    convolution depthwise, and both must be possible at once.
    """
    runs = int(module.groups)  # type: ignore[arg-type]
    weight, bias = module.weight, module.bias
    outputs, inputs = int(module.out_channels), int(module.in_channels)  # type: ignore[arg-type]
    out_runs = _runs(out if out is not None else range(outputs), outputs, runs)
    in_runs = _runs(inp if inp is not None else range(inputs), inputs, runs)
    assert isinstance(weight, Tensor)
    blocks = weight.reshape(runs, outputs // runs, *weight.shape[1:])
    if any(bool(o) != bool(i) for o, i in zip(out_runs, in_runs, strict=True)):
        raise BadModel("a convolution group must lose all its outputs with all its inputs")
    parts = [blocks[g][o][:, i] for g, (o, i) in enumerate(zip(out_runs, in_runs, strict=True)) if o]
    _put(module, "weight", torch.cat(parts))
    if isinstance(bias, Tensor) and out is not None:
        _put(module, "bias", bias[list(out)])
    shape: Any = module
    shape.out_channels, shape.in_channels, shape.groups = sum(map(len, out_runs)), sum(map(len, in_runs)), len(parts)


def _runs(indices: Sequence[int], total: int, runs: int) -> list[list[int]]:
    size = total // runs
    split = [[i - g * size for i in indices_g] for g, indices_g in enumerate(_by_run(indices, size, runs))]
    if sum(map(len, split)) != len(indices):
        raise IndexError(f"index out of range for {total} channels")
    if len({len(s) for s in split} - {0}) != 1:
        raise BadModel("a grouped convolution must lose equally many channels in each of its groups")
    return split


def _by_run(indices: Sequence[int], size: int, runs: int) -> list[list[int]]:
    return [[i for i in indices if i // size == g] for g in range(runs)]


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    value = tensor.detach().clone().contiguous()
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _take(tensor: object, dimension: int, keep: Indices) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor.index_select(dimension, torch.tensor(keep, dtype=torch.long))


def _rest(size: int, removed: set[int]) -> Indices | None:
    return tuple(i for i in range(size) if i not in removed) if removed else None


def _through(before: Indices | None, after: Indices | None) -> Indices | None:
    if before is None or after is None:
        return after if before is None else before
    return tuple(before[i] for i in after)


def _inside(name: str, blocks: Iterable[str]) -> bool:
    return any(name == block or name.startswith(block + ".") for block in blocks)
