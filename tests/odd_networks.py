"""Toy networks with something in them that a tracer trips over: odd layers, ties the graph does not show, and traps."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from toy_parts import BARE, CRASHES, OUTPUTS, TIED, Block, Toy, pooled, unit


class Transposed(Toy):
    """An encoder and decoder; the output is a map of 3 channels."""

    free = frozenset({"down.0", "up", "after.0"})

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.after = unit(3, 16, stride=2), nn.ConvTranspose2d(16, 8, 2, 2), unit(8, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(F.relu(self.up(self.down(x)))))


class Parametric(Toy):
    """PReLU with one slope a channel, and one with a single slope."""

    free = frozenset({"a", "b"})

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b, self.one = nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.one(self.b(self.act(self.a(x))))))


class Normed(Toy):
    """Norms over channels: nothing may be taken from under them."""

    free = frozenset({"c"})
    locked: ClassVar = {"a": "(GroupNorm) cannot be sliced", "b": "(LayerNorm) cannot be sliced", "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.group, self.b, self.layer = (
            nn.Conv2d(3, 8, 3),
            nn.GroupNorm(2, 8),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
        )
        self.c, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.b(pooled(F.relu(self.group(self.a(x))))))
        return self.head(F.relu(self.c(x)))


class Scaled(Toy):
    """A layer scale: a Parameter that belongs to no layer."""

    free = frozenset({"b"})
    locked: ClassVar = {"a": BARE, "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.b(F.relu(self.a(x) * self.scale)))))


class Hidden(Toy):
    """A residual branch behind a closed layer scale, with its channels swapped: the fault must be seen through it."""

    locked: ClassVar = {"stem.0": BARE, "a.0": TIED, "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = unit(3, 8), unit(8, 8), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(pooled(x + self.b(self.a(x).roll(1, 1)) * self.scale))


class Normalised(Toy):
    """Weight norm: the filter is computed from two parameters, so slicing it would not last."""

    free = frozenset({"b"})
    locked: ClassVar = {"a": "cannot be sliced", "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.b, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.b(F.relu(self.a(x))))))


class Narrow(Toy):
    """A bottleneck of one channel."""

    free = frozenset({"b"})
    locked: ClassVar = {"a": "1 channel is too few to cut", "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 1, 3), nn.Conv2d(1, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.b(F.relu(self.a(x))))))


class HardCoded(Toy):
    """A forward that knows how wide it is."""

    free = frozenset({"b"})
    locked: ClassVar = {"a": CRASHES, "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x)) + torch.arange(8.0).view(1, 8, 1, 1)
        return self.head(pooled(F.relu(self.b(x))))


class Halved(Toy):
    """A gated unit: one half of the channels opens the other."""

    free = frozenset({"b"})
    locked: ClassVar = {"a": "its channels own different numbers of indices in b", "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.a(x).chunk(2, 1)
        return self.head(pooled(F.relu(self.b(values * torch.sigmoid(gates)))))


class Shuffled(Toy):
    """ShuffleNet's channel shuffle before a grouped convolution."""

    free = frozenset({"b.0"})
    locked: ClassVar = {"a.0": TIED, "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = unit(3, 16), unit(16, 16, groups=2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x.view(x.shape[0], 2, -1, 16, 16).transpose(1, 2).reshape(x.shape)
        return self.head(pooled(self.b(x)))


class PixelShuffled(Toy):
    """Sub-pixel upsampling: four channels become one."""

    free = frozenset({"b.0"})
    locked: ClassVar = {"a": CRASHES, "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle, self.b, self.head = nn.Conv2d(3, 32, 3), nn.PixelShuffle(2), unit(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.b(self.shuffle(F.relu(self.a(x))))))


class Averaged(Toy):
    """An attention map over the mean of all channels: dividing by their number is not masking them."""

    locked: ClassVar = {"a.0": TIED, "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = unit(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(pooled(x * x.mean(1, keepdim=True)))


class Statistical(Toy):
    """A batch norm without affine parameters behind a convolution with circular padding."""

    free = frozenset({"a", "b"})

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
        self.bn, self.b, self.head = nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.b(F.relu(self.bn(self.a(x)))))))


class OtherDimensions(Toy):
    """Convolutions over a sequence of rows and over a volume; a transposed one-dimensional one cannot be sliced."""

    free = frozenset({"a", "d"})
    locked: ClassVar = {
        "b": "c (ConvTranspose1d) cannot be sliced",
        "c": "c (ConvTranspose1d) cannot be sliced",
        "head": OUTPUTS,
    }

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv1d(3, 8, 5), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 3, groups=2)
        self.c, self.d, self.head = nn.ConvTranspose1d(8, 8, 3), nn.Conv3d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(F.relu(self.b(F.relu(self.bn(self.a(x.flatten(2))))))))
        return self.head(F.relu(self.d(x[..., None, None])).mean((2, 3, 4)))


class SingleLogit(Toy):
    """A binary classifier: its only output has no spread to measure differences by."""

    free = frozenset({"a.0", "b.0"})
    locked: ClassVar = {"head": "1 channel is too few to cut"}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = unit(3, 8), unit(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.b(self.a(x))))


class Untraceable(Toy):
    """ShuffleNet v2: torch-pruning divides by zero, so every layer is listed as locked; blocks can still go."""

    locked: ClassVar = dict.fromkeys(
        ("stem.0", "one.conv1", "one.conv2", "units.0.conv", "units.1.conv", "units.2.conv", "head"),
        "the dependency graph of this model cannot be built (ZeroDivisionError: integer division or modulo by zero)",
    )
    blocks = frozenset({"one"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.head = unit(3, 8), Block(8, 8), nn.Linear(8, 5)
        self.units = nn.Sequential(ShuffleUnit(8), ShuffleUnit(8), ShuffleUnit(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.units(self.one(self.stem(x)))))


class ShuffleUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width // 2, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, read = x.chunk(2, 1)
        x = torch.cat([kept, self.conv(read)], 1)
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Asked(Toy):
    """A forward that reads an attribute of its residual block: the block cannot be replaced."""

    free = frozenset({"stem.0", "block.conv1"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = unit(3, 8), Block(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.block(self.stem(x)) * self.block.bn2.eps * 1e5))


class Peeking(Toy):
    """A forward that does something else when its residual block is of another class: it runs, but to another end."""

    free = frozenset({"stem.0", "block.conv1"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = unit(3, 8), Block(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        return self.head(pooled(x if isinstance(self.block, Block) else x * 2))
