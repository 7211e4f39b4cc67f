"""Trial cuts: no group or block may be relied upon before taking it out was seen to work.

torch-pruning certifies groups that crash when cut, or that compute something else. The module these functions are given
has random weights (see ``tracing``); it is changed while a trial runs and put back afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeprune.groups import Cut, Group
from edgeprune.model import first_line
from edgeprune.operators import Call
from edgeprune.surgery import cut, is_depthwise, resolve

TOLERANCE = 1e-4
"""Largest |difference| of a trial cut from the masked original, in standard deviations of the output (float32 sums
reorder).
"""


def why_whole(module: nn.Module, inputs: tuple[Tensor, ...], group: Group) -> str:
    """Cut the group by one step and compare with the masked original; return why it must stay whole, or ``""``."""
    if len(group.ladder) < 2:
        number = "1 channel is" if group.channels == 1 else f"{group.channels} channels are"
        runs = f" for {group.segments} convolution groups" if group.segments > 1 else ""
        return f"{number} too few to cut{runs}"
    kept = _trial_channels(group)
    try:
        surgery = resolve(module, [group], (Cut(group.name, group.channels, kept),))
        with torch.no_grad(), _put_back(module, surgery.kept):
            whole = module(*inputs)
            _mask(module, group, set(kept))
            wanted = module(*inputs)
        with torch.no_grad(), _put_back(module, surgery.kept):
            found = cut(module, surgery)(*inputs)
    except Exception as error:
        return f"a trial cut does not run ({first_line(error)})"
    if found.shape != whole.shape:
        return "its channels are the model's outputs"
    if not agree(wanted, found):
        return (
            "a trial cut changes what the kept channels compute (their positions are tied by more than the graph shows)"
        )
    return ""


def agree(wanted: Tensor, found: Tensor) -> bool:
    """Return whether two outputs of one shape differ by at most TOLERANCE × the standard deviation of ``wanted``.

    An output without spread, such as a single logit, is measured by its largest value. NaN never agrees.
    """
    spread = wanted.std(correction=0)
    scale = spread if spread > 0 else wanted.abs().max()
    return bool((found - wanted).abs().max() <= TOLERANCE * scale)


def _trial_channels(group: Group) -> tuple[int, ...]:
    """Return which channels a cut of one step keeps: a run at one end goes, and one channel at the other.

    A pattern that no halves, interleaving or other regular tie shares; every second run of a grouped convolution loses
    the mirror image of the first.
    """
    run = group.channels // group.segments
    gone = run - group.ladder[1] // group.segments
    lost = {*range(max(1, gone - 1)), *range(run - (gone > 1), run)}
    kept = [i for i in range(run) if i not in lost]
    mirrored = [run - 1 - i for i in reversed(kept)]
    return tuple(s * run + i for s in range(group.segments) for i in (mirrored if s % 2 else kept))


@contextmanager
def _put_back(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """On leaving, give the named submodules the attributes and parameters they had; far cheaper than copies."""
    parts = [module.get_submodule(name) for name in names]
    before = [(part, dict(part.__dict__), dict(part._parameters), dict(part._buffers)) for part in parts]
    try:
        yield
    finally:
        for part, attributes, parameters, buffers in before:
            part.__dict__.update(attributes)
            part._parameters.update(parameters)
            part._buffers.update(buffers)


def _mask(module: nn.Module, group: Group, kept: set[int]) -> None:
    """Let nobody read the removed channels: give their readers weights that are zero there."""
    for member in group.members:
        part = module.get_submodule(member.module)
        if member.side == "out" or isinstance(part, nn.modules.batchnorm._BatchNorm | nn.PReLU) or is_depthwise(part):
            continue
        gone = torch.tensor([int(i) for i, r in zip(member.local, member.root, strict=True) if int(r) not in kept])
        weight = part.get_parameter("weight").detach().clone()
        if isinstance(part, nn.ConvTranspose2d):
            weight[gone] = 0
        elif getattr(part, "groups", 1) == 1:
            weight[:, gone] = 0
        else:
            _mask_grouped(part, weight, gone)
        part.weight = nn.Parameter(weight)


def _mask_grouped(part: nn.Module, weight: Tensor, gone: Tensor) -> None:
    groups = int(part.groups)  # type: ignore[arg-type]
    size = weight.shape[1]
    blocks = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
    for index in gone.tolist():
        blocks[index // size, :, index % size] = 0


def droppable(
    module: nn.Module, inputs: tuple[Tensor, ...], calls: Mapping[str, Call], shared: Mapping[str, str]
) -> list[str]:
    """Return the innermost modules that pass their input through unchanged when all their parameters are zero.

    That is what a residual block with an identity skip does (any activation after the sum included, where it leaves its
    input as it is), so such a block can be replaced by an identity.
    """
    found: list[str] = []
    for name, part in reversed(list(module.named_modules())):  # children before parents
        call = calls.get(name)
        if call is None or call.count != 1 or call.given is None or call.given != call.returned:
            continue
        if isinstance(part, nn.Conv2d) or not any(isinstance(m, nn.Conv2d) for m in part.modules()):
            continue
        if any(f.startswith(name + ".") for f in found):
            continue
        if any(f"{name}.{inner}".rstrip(".") in shared for inner, _ in part.named_modules()):
            continue  # its parameters also serve elsewhere
        if _passes_through(module, inputs, name):
            found.append(name)
    return found[::-1]


def _passes_through(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> bool:
    """Return whether the block gives exactly what it is given once all its parameters are zero, and whether the whole
    model then runs without it to the same end.
    """
    parent, _, child = name.rpartition(".")
    owner, part = module.get_submodule(parent), module.get_submodule(name)
    empty = _emptied(part)
    given: list[Tensor] = []
    through: list[bool] = []
    empty.register_forward_pre_hook(lambda _, call: given.append(call[0].clone()))  # a block may work in place
    empty.register_forward_hook(lambda _, call, returned: through.append(torch.equal(returned, given[-1])))
    outputs: list[Tensor] = []
    try:
        with torch.no_grad():
            for stand_in in (empty, nn.Identity()):
                setattr(owner, child, stand_in)
                outputs.append(module(*inputs))
    except Exception:  # whatever the forward wanted of the block, an identity does not have it
        return False
    finally:
        setattr(owner, child, part)
    return all(through) and agree(*outputs)


def _emptied(part: nn.Module) -> nn.Module:
    empty = copy.deepcopy(part)
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
        for name, buffer in empty.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    return empty
