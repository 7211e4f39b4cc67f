"""The layers YOLOv5 networks (n, s, m, l, x; with and without a fourth level) are made of. Float32 NCHW throughout.

Attribute names are those of the checkpoints, because they are the names of the weights in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeprune.frontends.detector import Head

BOX_ROWS = 5
"""Rows of an anchor that no class owns: x, y, width, height and objectness."""


class Conv(nn.Module):
    """Convolution, batch norm, activation; the norm is an identity where it was folded into the convolution."""

    def __init__(self, conv: nn.Conv2d, bn: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.act = conv, bn, act

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C_out, H / stride, W / stride)."""
        result: Tensor = self.act(self.bn(self.conv(x)))
        return result


class Bottleneck(nn.Module):
    """Two convolutions, with a skip around them where ``add`` is set."""

    def __init__(self, cv1: Conv, cv2: Conv, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = cv1, cv2, add

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's height and width."""
        result: Tensor = self.cv2(self.cv1(x))
        return x + result if self.add else result


class C3(nn.Module):
    """A cross-stage partial block: bottlenecks on one half of the channels, beside the other half."""

    def __init__(self, cv1: Conv, cv2: Conv, cv3: Conv, m: nn.Sequential) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.m = cv1, cv2, cv3, m

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's height and width."""
        result: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return result


class SPP(nn.Module):
    """Spatial pyramid pooling: max poolings of several sizes side by side (He et al., ECCV 2014)."""

    def __init__(self, cv1: Conv, cv2: Conv, pools: Sequence[nn.MaxPool2d]) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = cv1, cv2, nn.ModuleList(pools)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's height and width."""
        x = self.cv1(x)
        result: Tensor = self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))
        return result


class SPPF(nn.Module):
    """The same pyramid from one small pooling, applied three times."""

    def __init__(self, cv1: Conv, cv2: Conv, m: nn.MaxPool2d) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = cv1, cv2, m

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's height and width."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        result: Tensor = self.cv2(torch.cat(maps, 1))
        return result


class Focus(nn.Module):
    """Every second pixel, four ways, as channels; then a convolution."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of half the input's height and width."""
        quarters = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        result: Tensor = self.conv(torch.cat(quarters, 1))
        return result


class Detect(Head):
    """The head: for each of ``anchors`` boxes a place, 5 + classes rows; a convolution a level."""

    def __init__(self, m: Sequence[nn.Conv2d], anchors: int) -> None:
        super().__init__()
        self.m, self.anchors = nn.ModuleList(m), anchors

    def forward(self, *levels: Tensor) -> Tensor:
        """Return the raw heads (N, anchors * (5 + classes), places of all levels)."""
        return torch.cat([conv(level).flatten(2) for conv, level in zip(self.m, levels, strict=True)], 2)

    def classify(self, kept: Sequence[int | None], generator: torch.Generator) -> None:
        """Change the classes; a new one starts as rare as one in ``len(kept)`` objects (Lin et al., ICCV 2017,
        section 4.1, on the prior of a class).
        """
        for index, conv in enumerate(self.m):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            weight = conv.weight.detach().reshape(self.anchors, -1, conv.in_channels, 1, 1)
            bias = conv.bias.detach().reshape(self.anchors, -1)
            rows = (self.anchors, len(kept), *weight.shape[2:])
            drawn = torch.randn(rows, generator=generator) * 0.1 / math.sqrt(weight.shape[2])
            prior = torch.full(rows[:2], math.log(0.6 / max(len(kept) - 0.6, 0.4)))
            for new, old in enumerate(kept):
                if old is not None:
                    drawn[:, new], prior[:, new] = weight[:, BOX_ROWS + old], bias[:, BOX_ROWS + old]
            changed = nn.Conv2d(conv.in_channels, self.anchors * (BOX_ROWS + len(kept)), 1)
            with torch.no_grad():
                changed.weight.copy_(torch.cat([weight[:, :BOX_ROWS], drawn], 1).flatten(0, 1))
                assert changed.bias is not None
                changed.bias.copy_(torch.cat([bias[:, :BOX_ROWS], prior], 1).flatten())
            self.m[index] = changed
