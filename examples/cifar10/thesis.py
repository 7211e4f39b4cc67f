"""The networks of the DepGraphRL thesis in their usual form for 32x32 images: ResNet-18, VGG-19 and MobileNet.

Sizes are for ten classes: those that public CIFAR-10 repositories train, an ImageNet network whose first strides are
left out. Images are normalised with CIFAR-10's own mean and deviation.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
_VGG19 = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")
_MOBILENET = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1),
)  # fmt: skip
"""Outputs and stride of each pair of a depthwise and a pointwise convolution."""


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a strided 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        inside = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inside)) + self.shortcut(x))


class Classifier(nn.Module):
    """RGB images (n, 3, 32, 32) to logits (n, classes): features, their mean over the image, a linear layer."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.linear = nn.Linear(channels, classes)
        # Read as timm's attribute of this name is.
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


def resnet18(classes: int = 10) -> Classifier:
    """He et al. (2016), a 3x3 stem and no pooling behind it: 11.2 M parameters, 555 M multiply-accumulates."""
    stages = [Residual(inputs, outputs, stride) for inputs, outputs, stride in (
        (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
        (512, 512, 1))]  # fmt: skip
    return Classifier(nn.Sequential(*_unit(3, 64), *stages), 512, classes)


def vgg19(classes: int = 10) -> Classifier:
    """Simonyan & Zisserman (2015), configuration E with batch norms and one linear layer: 20.0 M parameters, 398 M
    multiply-accumulates.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for step in _VGG19:
        if isinstance(step, int):
            layers += _unit(inputs, step)
            inputs = step
        else:
            layers.append(nn.MaxPool2d(2))
    return Classifier(nn.Sequential(*layers), inputs, classes)


def mobilenet(classes: int = 10) -> Classifier:
    """Howard et al. (2017), width 1, its first stride and its second left out: 3.2 M parameters, 46 M
    multiply-accumulates.
    """
    layers = _unit(3, 32)
    inputs = 32
    for outputs, stride in _MOBILENET:
        layers += [*_unit(inputs, inputs, stride, groups=inputs), *_unit(inputs, outputs, size=1)]
        inputs = outputs
    return Classifier(nn.Sequential(*layers), inputs, classes)


def _unit(inputs: int, outputs: int, stride: int = 1, size: int = 3, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
