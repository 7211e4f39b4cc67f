"""A module that computes as it will in int8, in float arithmetic: for ranking plans before any graph is written.

Weights are rounded channel by channel and inputs tensor by tensor, to ranges by minimum and maximum on training images,
as ONNX Runtime's quantizer does it (uniform affine quantization: Jacob et al., 2018, equations 1 and 2). Sums,
batch norms and activations stay in float. Folding a batch norm into its convolution scales whole channels, and so
changes nothing that is rounded here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.profiles.board import Int8Layout

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def round_off(module: nn.Module, lowered: Collection[str], images: Iterable[Tensor], layout: Int8Layout) -> None:
    """Let those convolutions and linear layers of ``module`` that are called ``lowered`` compute in int8, in place.

    Names that it does not have mean nothing. ``images`` are batches (n, C, H, W) that ranges are found on; without any,
    inputs stay in float. The module is left in evaluation mode.
    """
    layers = {name: part for name, part in module.named_modules() if isinstance(part, _LAYERS) and name in lowered}
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(part: nn.Module, given: tuple[Tensor, ...]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))  # zero is always a value, as padding needs it
            ranges[name] = min(low, float(given[0].min())), max(high, float(given[0].max()))

        return hook

    handles = [part.register_forward_pre_hook(watch(name)) for name, part in layers.items()]
    module.eval()
    with torch.no_grad():
        for batch in images:
            module(batch)
    for handle in handles:
        handle.remove()
    for name, part in layers.items():
        with torch.no_grad():
            part.weight.copy_(_rounded_weight(part, layout))
        if name in ranges:
            part.register_forward_pre_hook(_Rounded(*ranges[name], symmetric=layout.activation == "int8"))


def _rounded_weight(part: Any, layout: Int8Layout) -> Tensor:
    """Return a layer's weight as int8 holds it, symmetric around zero; in seven bits where the target wants that."""
    weight: Tensor = part.weight
    most = 64 if layout.reduce_range else 127
    others = [*range(1, weight.ndim)]
    peak = weight.abs().amax(others, keepdim=True) if layout.per_channel else weight.abs().max()
    scale = (peak / most).clamp_min(1e-12)
    return (weight / scale).round() * scale


class _Rounded:
    """A forward pre-hook that rounds a layer's input to 256 steps of its range; what is outside is cut off."""

    def __init__(self, low: float, high: float, symmetric: bool) -> None:
        if symmetric:
            self.least, self.most, self.scale, self.zero = -128, 127, max(-low, high) / 127, 0
        else:
            self.least, self.most, self.scale = 0, 255, (high - low) / 255
            self.zero = round(-low / self.scale) if self.scale else 0
        self.scale = max(self.scale, 1e-12)
        self.zero = min(max(self.zero, self.least), self.most)

    def __call__(self, part: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rounded = torch.fake_quantize_per_tensor_affine(
            given[0].float(), self.scale, self.zero, self.least, self.most
        ).to(given[0].dtype)
        return (rounded, *given[1:])
