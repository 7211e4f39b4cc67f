"""A small residual network for 28x28 digits: six convolutions, 0.3 M parameters, two blocks that can go whole."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBN(nn.Sequential):
    """Convolution and batch normalisation, "same" padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
        )


class Block(nn.Module):
    """Two 3x3 convolutions around an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = ConvBN(width, width, 3), ConvBN(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class Digits(nn.Module):
    """Grey images (n, 1, 28, 28) to ten logits (n, 10). Widths are multiples of 16, which int8 kernels like."""

    def __init__(self, narrow: int = 64, wide: int = 96) -> None:
        super().__init__()
        self.stem = ConvBN(1, narrow, 5, 2)
        self.block1 = Block(narrow)
        self.down = ConvBN(narrow, wide, 3, 2)
        self.block2 = Block(wide)
        self.linear = nn.Linear(wide, 10)
        # Mean and deviation of MNIST's pixels in [0, 1]. Read as timm's attribute is.
        self.pretrained_cfg = {"input_size": (1, 28, 28), "mean": (0.1307,), "std": (0.3081,)}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.block1(F.relu(self.stem(x)))
        x = self.block2(F.relu(self.down(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def digits() -> Digits:
    """Build the network with random weights."""
    return Digits()
