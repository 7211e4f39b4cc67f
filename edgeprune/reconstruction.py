"""Least-squares reconstruction: after a cut, weights that make up for the channels that went.

A layer that lost inputs is given the weights with which its outputs come closest to what the original's were on the
same images (He et al., 2017, "Channel pruning for accelerating very deep neural networks", section 3.1 step ii and
section 3.2), layer after layer, so that each sees what those before it now give and makes up for that too. No labels
and no gradients. Instead of the paper's plain least squares the weights are held to those they had (ridge), so that few
images are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import UnmetRequirement
from edgeprune.model import Surgery

RIDGE = 0.01
"""Of the mean square of a layer's inputs: the weight of staying where the weights are."""
ROWS = 4096
"""Samples of a layer's outputs, all images together."""
IMAGES = 128
"""Most images that are run, in one batch."""
_Norm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Target:
    """What the original gave: ``outputs`` (rows, C_out) of one layer, and whether a batch norm takes out their means.
    """

    outputs: Tensor
    normed: bool


def gathered(batches: Sequence[Tensor]) -> Tensor:
    """Return the first IMAGES of batches (n, C, H, W) as one. Raises UnmetRequirement where there are none."""
    if not batches:
        raise UnmetRequirement("reconstruction needs training images; give --data")
    return torch.cat(list(batches))[:IMAGES]


def layers(module: nn.Module, surgery: Surgery) -> dict[str, nn.Module]:
    """Return what can be reconstructed: ungrouped 2-D convolutions and linear layers of a cut module, by name, that
    lost inputs.
    """
    cut = {name for name, (_, inputs) in surgery.kept.items() if inputs is not None}
    return {name: part for name, part in module.named_modules() if name in cut and _solvable(part)}


def record(original: nn.Module, images: Tensor) -> dict[str, Target]:
    """Return what every layer of the original gives on images (n, C, H, W), in evaluation mode, at sampled places."""
    found: dict[str, Target] = {}
    several: set[str] = set()
    last: list[tuple[str, Tensor]] = []

    def gave(name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if name in found:
            several.add(name)
        elif output.dim() in (2, 4):
            found[name] = Target(_sampled_outputs(output), False)
            last[:] = [(name, output)]

    def norming(norm: nn.Module, args: tuple[Any, ...]) -> None:
        if last and args[0] is last[0][1]:
            found[last[0][0]] = Target(found[last[0][0]].outputs, True)

    hooks = []
    for name, part in original.named_modules():
        if _solvable(part):
            hooks.append(part.register_forward_hook(_named(gave, name)))
        elif isinstance(part, _Norm):
            hooks.append(part.register_forward_pre_hook(norming))
    with _hooked(hooks), torch.no_grad():
        original(images)
    return {name: target for name, target in found.items() if name not in several}


def reconstruct(module: nn.Module, surgery: Surgery, targets: Mapping[str, Target], images: Tensor) -> None:
    """Give the layers of a cut module that lost inputs the weights of least squares, in place, in the order they run.

    ``targets`` are those of the uncut module on the same ``images``. Batch norms go by the batch meanwhile: their
    statistics are of the original, and are re-estimated after this. A layer with more unknowns than half of the samples
    is left as it is, and so is one that runs several times, or is not in ``targets``.
    """
    norms = [part for part in module.modules() if isinstance(part, _Norm)]
    kept = {name: part for name, part in layers(module, surgery).items() if name in targets}

    def solve(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        outputs = surgery.kept[name][0]
        target = targets[name].outputs
        _fit(layer, args[0], target if outputs is None else target[:, list(outputs)], targets[name].normed)

    hooks = [part.register_forward_pre_hook(_named(solve, name)) for name, part in kept.items()]
    states = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.train()
        norm.track_running_stats = False  # by the batch, and nothing remembered of it
    try:
        with _hooked(hooks), torch.no_grad():
            module(images)
    finally:
        for norm, (training, tracking) in zip(norms, states, strict=True):
            norm.training, norm.track_running_stats = training, tracking


def _solvable(part: nn.Module) -> bool:
    plain = not hasattr(part, "parametrizations")
    return plain and (isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1))


def _fit(layer: Any, given: Tensor, target: Tensor, normed: bool) -> None:
    """Set a layer's weights to argmin ‖Y - XW‖² + RIDGE · mean(X²) · rows · ‖W - W0‖², and its bias to what is left.

    Means are left to the bias, or to the batch norm behind; where there is neither, weights answer for them too.
    """
    inputs = _sampled_inputs(layer, given)
    if 2 * inputs.shape[1] > len(inputs) or len(inputs) != len(target):
        return
    x, y = inputs.double(), target.double()
    weight = layer.weight.reshape(layer.weight.shape[0], -1).double()
    if normed or layer.bias is not None:
        mean, wanted = x.mean(0), y.mean(0)
        x, y = x - mean, y - wanted
    gram = x.T @ x
    ridge = RIDGE * float(gram.diagonal().mean()) + torch.finfo(torch.float32).eps
    gram.diagonal().add_(ridge)
    solved = torch.linalg.solve(gram, x.T @ y + ridge * weight.T).T
    if not torch.isfinite(solved).all():
        return
    layer.weight.copy_(solved.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(wanted - solved @ mean)


def _places(height: int, width: int, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which outputs are sampled: image, row and column of each, always the same for one shape."""
    each = min(height * width, max(1, ROWS // images))
    generator = torch.Generator().manual_seed(height * 65537 + width)
    chosen = torch.stack([torch.randperm(height * width, generator=generator)[:each] for _ in range(images)])
    which = torch.arange(images)[:, None].expand(images, each)
    return which.reshape(-1), (chosen // width).reshape(-1), (chosen % width).reshape(-1)


def _sampled_outputs(output: Tensor) -> Tensor:
    """Return (rows, C_out) of a layer's output (n, C_out, H, W), or all of (n, C_out)."""
    if output.dim() == 2:
        return output.detach().clone()
    which, down, across = _places(output.shape[2], output.shape[3], len(output))
    return output.detach()[which, :, down, across].contiguous()


def _sampled_inputs(layer: Any, given: Tensor) -> Tensor:
    """Return (rows, C_in · kernel) of what those same outputs are made of, in the order of the layer's weights."""
    if isinstance(layer, nn.Linear):
        return given
    size, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    before = layer._reversed_padding_repeated_twice  # what torch's own padding modes go by: left, right, top, bottom
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(given, before, mode=mode)
    height, width = (
        (padded.shape[2 + d] - dilation[d] * (size[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    )
    which, down, across = _places(height, width, len(given))
    columns = [
        padded[which, :, down * stride[0] + i * dilation[0], across * stride[1] + j * dilation[1]]
        for i in range(size[0]) for j in range(size[1])
    ]  # fmt: skip
    return torch.stack(columns, 2).reshape(len(which), -1)


def _named(call: Any, name: str) -> Any:
    return lambda *args: call(name, *args)


@contextmanager
def _hooked(hooks: list[Any]) -> Iterator[None]:
    """Take the hooks off again, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
