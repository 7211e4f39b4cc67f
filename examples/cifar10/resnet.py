"""The CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2.

6n + 2 layers: a 3x3 stem, three stages of n blocks with 16, 32 and 64 channels, global average pooling and a linear
layer. Where a stage halves the resolution its shortcut has no parameters ("option A"): every second pixel, and zeros
for the missing channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters.

    ``pad`` zero channels are put on each side of a strided shortcut. It is a constant of the architecture: the channels
    between the convolutions are free to be pruned, those the shortcut carries are tied.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        inside = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inside)) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Return ``x`` itself, or subsampled and padded with zero channels."""
        if self.stride == 1 and self.pad == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class ResNet(nn.Module):
    """RGB images (n, 3, 32, 32) to logits (n, 10), with ``n`` blocks a stage."""

    def __init__(self, n: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, n, 1)
        self.layer2 = _stage(16, 32, n, 2)
        self.layer3 = _stage(32, 64, n, 2)
        self.linear = nn.Linear(64, classes)
        # The published weights were trained with ImageNet's constants, not CIFAR's. Read as timm's attribute is.
        self.pretrained_cfg = {
            "input_size": (3, 32, 32),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet20() -> ResNet:
    """0.27 M parameters, 41 M multiply-accumulates."""
    return ResNet(3)


def resnet32() -> ResNet:
    """0.46 M parameters, 69 M multiply-accumulates."""
    return ResNet(5)


def resnet44() -> ResNet:
    """0.66 M parameters, 97 M multiply-accumulates."""
    return ResNet(7)


def resnet56() -> ResNet:
    """0.85 M parameters, 126 M multiply-accumulates."""
    return ResNet(9)


def resnet110() -> ResNet:
    """1.7 M parameters, 254 M multiply-accumulates."""
    return ResNet(18)
