"""Toy networks for the surgery, each with what must be found in it.

Every class names the groups that must be free, those that must be locked (and a part of the reason why) and the
residual blocks that can be dropped; ``check`` holds a traced cost model to all three. They all take images (n, 3, 16,
16).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from contexts import torch_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from edgeprune.groups import CostModel
from edgeprune.model import TorchModel

SHAPE = (1, 3, 16, 16)
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


class Plain(Toy):
    """A chain with batch norms; the last convolution has a bias and no norm."""

    free = frozenset({"a.0", "b.0", "c"})

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = unit(3, 8), unit(8, 16, stride=2), nn.Conv2d(16, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.c(self.b(self.a(x))))))


class Flattened(Toy):
    """A linear layer behind a flatten: each channel owns 16 of its inputs, which follow one another."""

    free = frozenset({"a.0", "fc"})

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.head = unit(3, 8, stride=2), nn.Linear(8 * 4 * 4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(F.max_pool2d(self.a(x), 2).flatten(1))))

    def check(self, cost: CostModel) -> None:
        super().check(cost)
        reader = next(m for g in cost.groups if g.name == "a.0" for m in g.members if m.module == "fc")
        assert reader.side == "in"
        assert {int(c): reader.local[reader.root == c].tolist() for c in (0, 7)} == {
            0: list(range(16)),
            7: list(range(112, 128)),
        }


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


class Residual(Toy):
    """torchvision's basic blocks: identity skips can be dropped, the downsampling one cannot."""

    free = frozenset({"stem.0", "one.conv1", "two.conv1", "two.conv2", "three.conv1"})
    blocks = frozenset({"one", "three"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.three = unit(3, 8), Block(8, 8), Block(8, 16, 2), Block(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.three(self.two(self.one(self.stem(x))))))


class Padded(Toy):
    """He et al.'s option A: a strided shortcut padded with zero channels ties two stages by position."""

    free = frozenset({"one.conv1", "two.conv1"})
    locked: ClassVar = {"stem.0": TIED, "head": OUTPUTS}
    blocks = frozenset({"one"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = unit(3, 8), Block(8, 8), Block(8, 16, 2), nn.Linear(16, 5)
        self.two.downsample = ZeroPad()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.two(self.one(self.stem(x)))))


class ZeroPad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


class Preactivated(Toy):
    """Pre-activation blocks whose first ReLU works in place: without the block the stream would keep its sign."""

    free = frozenset({"stem", "a.conv1", "b.conv1"})
    blocks = frozenset({"a"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), Preact(8, False), Preact(8, True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.b(self.a(self.stem(x)))))


class Preact(nn.Module):
    def __init__(self, width: int, inplace: bool) -> None:
        super().__init__()
        self.relu, self.conv1 = nn.ReLU(inplace), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.bn(self.conv1(self.relu(x)))))


class Concat(Toy):
    """Two branches side by side, a norm over both of them, and their reader."""

    free = frozenset({"stem.0", "left.0", "right.0", "after.0"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = unit(3, 8), unit(8, 8), unit(8, 12, 1)
        self.bn, self.after, self.head = nn.BatchNorm2d(20), unit(20, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(pooled(self.after(self.bn(torch.cat([self.left(x), self.right(x)], 1)))))


class Dense(Toy):
    """DenseNet's growth: every layer reads all before it."""

    free = frozenset({"stem.0", "a.0", "b.0"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = unit(3, 8), unit(8, 8), unit(16, 8), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.a(x)], 1)
        return self.head(pooled(torch.cat([x, self.b(x)], 1)))


class Depthwise(Toy):
    """Inverted residuals: expand, depthwise, project; the second with a skip."""

    free = frozenset({"stem.0", "one.0.0", "one.2", "two.body.0.0"})
    blocks = frozenset({"two"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = unit(3, 8), inverted(8, 16, 8), Skip(inverted(8, 16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.two(self.one(self.stem(x)))))


def inverted(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    project = nn.Conv2d(middle, outputs, 1, bias=False)
    return nn.Sequential(unit(inputs, middle, 1), unit(middle, middle, groups=middle), project, nn.BatchNorm2d(outputs))


class Skip(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Grouped(Toy):
    """ResNeXt's middle: a grouped convolution must lose equally many channels of each of its groups."""

    free = frozenset({"a.0", "b.0", "c.0"})

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = unit(3, 16), unit(16, 32, groups=4), unit(32, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.c(self.b(self.a(x)))))

    def check(self, cost: CostModel) -> None:
        super().check(cost)
        assert {g.name: g.segments for g in cost.groups} == {"a.0": 4, "b.0": 4, "c.0": 1, "head": 1}


class Multiplied(Toy):
    """A depthwise convolution with two outputs an input."""

    free = frozenset({"b.0", "c.0"})
    locked: ClassVar = {"a.0": "8 channels are too few to cut for 8 convolution groups", "head": OUTPUTS}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = unit(3, 8), unit(8, 16, groups=8), unit(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.c(self.b(self.a(x)))))


class Squeezed(Toy):
    """A squeeze-and-excitation gate inside a residual block."""

    free = frozenset({"stem.0", "block.body.0.0", "block.body.1.squeeze"})
    blocks = frozenset({"block"})

    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(unit(8, 16), Gate(16, 4), nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.stem, self.block, self.head = unit(3, 8), Skip(body), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.block(self.stem(x))))


class Gate(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class SharedFilter(Toy):
    """Two convolutions of one Parameter: what one loses the other would lose too."""

    locked: ClassVar = {
        "stem.0": "a shares its parameters with b",
        "a": "a shares its parameters with b",
        "b": "b shares its parameters with a",
        "head": OUTPUTS,
    }

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = unit(3, 8), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.b.weight, self.head = self.a.weight, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.b(F.relu(self.a(self.stem(x)))))))


class SharedBlocks(Toy):
    """Two residual blocks of one set of weights: neither can be cut or dropped alone."""

    locked: ClassVar = {
        "stem.0": "one.conv1 shares its parameters with two.conv1",
        "one.conv1": "one.conv1 shares its parameters with two.conv1",
        "two.conv1": "two.conv1 shares its parameters with one.conv1",
        "head": OUTPUTS,
    }

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = unit(3, 8), Block(8, 8), Block(8, 8), nn.Linear(8, 5)
        self.two.conv1.weight, self.two.conv2.weight = self.one.conv1.weight, self.one.conv2.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.two(self.one(self.stem(x)))))


class CalledTwice(Toy):
    """One residual block applied twice, as recurrent networks do: it counts twice and cannot be dropped."""

    free = frozenset({"stem.0", "block.conv1"})

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = unit(3, 8), Block(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.block(self.block(self.stem(x)))))


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


TOYS: dict[str, type[Toy]] = {cls.__name__: cls for cls in Toy.__subclasses__()}


def toy(name: str, seed: int = 0) -> TorchModel:
    """Return a toy by name as a model, with trained-looking batch norms: no scale, shift or statistic is trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TOYS[name]()
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
                if part.affine:
                    part.weight.data.uniform_(0.5, 1.5)
                    part.bias.data.normal_(0, 0.2)
    return torch_model(module, SHAPE)
