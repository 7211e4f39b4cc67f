"""A network with smooth activations: one of its own, and one instance that serves in several places."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels, act):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act = act
        self.inner = nn.Mish()

    def forward(self, x):
        return x + self.bn2(self.conv2(self.inner(self.act(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.act = nn.SiLU()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block = Block(16, self.act)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.last = nn.GELU()
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        x = self.block(self.act(self.bn(self.stem(x))))
        return self.fc(self.last(torch.relu(self.down(x))).mean((2, 3)))


def net():
    return Net()
