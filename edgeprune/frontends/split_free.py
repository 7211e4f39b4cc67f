"""The layers of YOLOv8 and YOLO11 that cut a tensor in two, written without the cut. Float32 NCHW throughout.

Their authors compute both halves with one convolution and take them apart by chunk or split, which hides from a
dependency graph which filter feeds what. Here every half has a convolution of its own, with the filters it would have
had: the same numbers, in two (attention: three) tensors. Batch norm works on each channel alone, so training does not
tell the difference either.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.frontends.detector import Head
from edgeprune.frontends.yolov5_layers import C3, Conv

RARE = 0.01
"""What a class unknown so far is thought to be: this share of the places (Lin et al., ICCV 2017, section 4.1)."""


class C2f(nn.Module):
    """A cross-stage partial block whose blocks run one after the other, each one's output being kept (C2f, C3k2)."""

    def __init__(self, first: Conv, second: Conv, m: Sequence[nn.Module], cv2: Conv) -> None:
        super().__init__()
        self.first, self.second, self.m, self.cv2 = first, second, nn.ModuleList(m), cv2

    @classmethod
    def whole(cls, cv1: Conv, m: Sequence[nn.Module], cv2: Conv) -> C2f:
        """Build from the original's layers, ``cv1`` giving both halves."""
        return cls(*halves(cv1), m, cv2)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's height and width."""
        maps = [self.first(x), self.second(x)]
        for block in self.m:
            maps.append(block(maps[-1]))
        result: Tensor = self.cv2(torch.cat(maps, 1))
        return result


class C2PSA(nn.Module):
    """A cross-stage partial block whose second half goes through attention (C2PSA, PSA)."""

    def __init__(self, first: Conv, second: Conv, m: nn.Module, cv2: Conv) -> None:
        super().__init__()
        self.first, self.second, self.m, self.cv2 = first, second, m, cv2

    @classmethod
    def whole(cls, cv1: Conv, m: nn.Module, cv2: Conv) -> C2PSA:
        """Build from the original's layers, ``cv1`` giving both halves."""
        return cls(*halves(cv1), m, cv2)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's height and width."""
        result: Tensor = self.cv2(torch.cat((self.first(x), self.m(self.second(x))), 1))
        return result


def c2(cv1: Conv, m: nn.Sequential, cv2: Conv) -> C3:
    """Return what C2, a C3 whose two halves come from one convolution, is without the split: a C3."""
    return C3(*halves(cv1), cv2, m)


class Attention(nn.Module):
    """Self-attention over the places of a map, with a depthwise convolution of the values for their positions.

    ``heads`` divides the channels of q and k (each ``heads`` × key size) and of v; the scale is that of Vaswani et al.
    (NeurIPS 2017, equation 1). Rows of q, k and v go by heads, so all three keep their widths when the rest is cut.
    """

    def __init__(self, q: Conv, k: Conv, v: Conv, proj: Conv, pe: Conv, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj, self.pe, self.heads = q, k, v, proj, pe, heads
        self.key_size = q.conv.out_channels // heads
        self.value_size = v.conv.out_channels // heads

    @classmethod
    def whole(cls, qkv: Conv, proj: Conv, pe: Conv, heads: int, key_size: int) -> Attention:
        """Build from the original's layers; ``qkv`` gives, head after head, its q, k and v.

        Raises ValueError when its rows do not fit the heads.
        """
        each, left = divmod(qkv.conv.out_channels, heads)
        if left or not 0 < 2 * key_size < each:
            raise ValueError(f"attention of {heads} heads with {qkv.conv.out_channels} rows")
        runs = ((0, key_size), (key_size, 2 * key_size), (2 * key_size, each))
        q, k, v = (_rows(qkv, [h * each + i for h in range(heads) for i in range(*run)]) for run in runs)
        return cls(q, k, v, proj, pe, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape."""
        n, _, height, width = x.shape
        values = self.v(x)
        q = self.q(x).view(n, self.heads, self.key_size, height * width)
        k = self.k(x).view(n, self.heads, self.key_size, height * width)
        v = values.view(n, self.heads, self.value_size, height * width)
        weights = ((q * self.key_size**-0.5).transpose(-2, -1) @ k).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).view(n, self.heads * self.value_size, height, width)
        result: Tensor = self.proj(mixed + self.pe(values))
        return result


class PSABlock(nn.Module):
    """Attention and two pointwise convolutions, each with a skip around it where ``add`` is set."""

    def __init__(self, attn: Attention, ffn: nn.Sequential, add: bool) -> None:
        super().__init__()
        self.attn, self.ffn, self.add = attn, ffn, add

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape."""
        x = x + self.attn(x) if self.add else self.attn(x)
        result: Tensor = self.ffn(x)
        return x + result if self.add else result


class Detect(Head):
    """The anchor-free head: a stack of convolutions a level for the boxes (``cv2``) and one for the classes (``cv3``).

    Both end in a plain convolution: 4 × bins rows of logits, the distributions of the distances to the left, upper,
    right and lower side (Li et al., Generalized Focal Loss, NeurIPS 2020, section 3.2), and a row a class.
    """

    def __init__(self, cv2: Sequence[nn.Sequential], cv3: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.cv2, self.cv3 = nn.ModuleList(cv2), nn.ModuleList(cv3)

    def forward(self, *levels: Tensor) -> Tensor:
        """Return the raw heads (N, 4 * bins + classes, places of all levels)."""
        boxes = [stack(level).flatten(2) for stack, level in zip(self.cv2, levels, strict=True)]
        classes = [stack(level).flatten(2) for stack, level in zip(self.cv3, levels, strict=True)]
        return torch.cat((torch.cat(boxes, 2), torch.cat(classes, 2)), 1)

    def classify(self, kept: Sequence[int | None], generator: torch.Generator) -> None:
        """Change the classes; a new one is expected RARE times in each place, before it is trained."""
        for stack in self.cv3:
            assert isinstance(stack, nn.Sequential)
            old = stack[-1]
            assert isinstance(old, nn.Conv2d) and old.bias is not None
            # On meta its own random start draws nothing from torch's generator.
            new: Any = nn.Conv2d(old.in_channels, len(kept), 1, device="meta").to_empty(device="cpu")
            with torch.no_grad():
                drawn = torch.randn(new.weight.shape, generator=generator) * 0.1 / math.sqrt(old.in_channels)
                new.weight.copy_(drawn)
                new.bias.fill_(-math.log((1 - RARE) / RARE))
                for index, row in enumerate(kept):
                    if row is not None:
                        new.weight[index], new.bias[index] = old.weight[row], old.bias[row]
            stack[-1] = new


def halves(conv: Conv) -> tuple[Conv, Conv]:
    """Return two convolutions, of the first and the second half of the filters; ValueError where they are odd."""
    half, left = divmod(conv.conv.out_channels, 2)
    if left:
        raise ValueError(f"a convolution of {conv.conv.out_channels} rows that is split in two")
    return _rows(conv, range(half)), _rows(conv, range(half, 2 * half))


def _rows(conv: Conv, rows: Sequence[int]) -> Conv:
    """Return a copy with these filters alone. Raises ValueError for a grouped convolution."""
    whole = conv.conv
    if whole.groups != 1:
        raise ValueError("a grouped convolution that is split")
    index = torch.tensor(list(rows))
    part = copy.deepcopy(conv)
    part.conv.out_channels = len(index)
    for owner in (part.conv, part.bn):
        if isinstance(owner, nn.BatchNorm2d):
            owner.num_features = len(index)
        for name, tensor in (*owner.named_parameters(), *owner.named_buffers()):
            if tensor.ndim:
                value = tensor.detach()[index].clone()
                setattr(owner, name, nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value)
    return part
