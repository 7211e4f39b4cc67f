"""What the toy networks are made of: the base class with its checker, and layers that several of them share."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.groups import CostModel

OUTPUTS = "its channels are the model's outputs"
TIED = "a trial cut changes what the kept channels compute"
CRASHES = "a trial cut does not run"
BARE = "couples to a bare nn.Parameter, which is not sliced"


class Toy(nn.Module):
    """A network that knows what a trace of it must say."""

    free: ClassVar[frozenset[str]] = frozenset()
    locked: ClassVar[dict[str, str]] = {"head": OUTPUTS}
    blocks: ClassVar[frozenset[str]] = frozenset()

    def check(self, cost: CostModel) -> None:
        """Assert that the groups, the reasons and the blocks are those declared."""
        real = [g for g in cost.groups if g.members or g.locked]
        assert {g.name for g in real if not g.locked} == self.free
        assert {g.name for g in real if g.locked} == set(self.locked)
        for group in real:
            assert self.locked.get(group.name, "") in group.locked, (group.name, group.locked)
        assert {g.block for g in cost.groups if g.block} == self.blocks


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU: members 0, 1 and 2."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


class Block(nn.Module):
    """A basic block; the shortcut is a convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Skip(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def inverted(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    project = nn.Conv2d(middle, outputs, 1, bias=False)
    return nn.Sequential(unit(inputs, middle, 1), unit(middle, middle, groups=middle), project, nn.BatchNorm2d(outputs))


class Gate(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
