"""Toy networks for the surgery, each with what must be found in it.

Every class names the groups that must be free, those that must be locked (and a part of the reason why) and the
residual blocks that can be dropped; ``check`` holds a traced cost model to all three. They all take images (n, 3, 16,
16). Here are the ordinary ones; ``odd_networks`` has the others.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import ClassVar

import numpy as np
import odd_networks  # noqa: F401  (its classes join the table below)
import torch
import torch.nn.functional as F
from contexts import smooth_images, torch_model
from torch import Tensor, nn
from toy_parts import OUTPUTS, TIED, Block, Gate, Skip, Toy, inverted, pooled, unit

from edgeprune.groups import CostModel, Plan, Widths
from edgeprune.model import TorchModel
from edgeprune.tracing import trace

SHAPE = (1, 3, 16, 16)


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


TOYS: dict[str, type[Toy]] = {cls.__name__: cls for cls in Toy.__subclasses__()}


def toy(name: str, seed: int = 0) -> TorchModel:
    """Return a toy by name as a model, with trained-looking batch norms: no scale, shift or statistic is trivial.

    The outputs are centred, so that a classifier answers with different classes.
    """
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
    model = torch_model(module, SHAPE)
    if isinstance(module.head, nn.Linear):
        module.head.bias.data -= torch.from_numpy(model.predict(smooth_images(64)).mean(0))
    return model


@cache
def traced(name: str) -> tuple[TorchModel, CostModel]:
    """Return a toy and its groups; shared between tests, so not to be changed."""
    model = toy(name)
    return model, trace(model)


def random_widths(cost: CostModel, seed: int) -> Widths:
    """Return any plan the groups allow, dropped blocks included."""
    rng = np.random.default_rng(seed)
    return tuple(int(rng.choice(group.options())) for group in cost.groups)


def random_scores(cost: CostModel, seed: int) -> dict[str, np.ndarray]:
    """Return one random importance a channel, by group."""
    rng = np.random.default_rng(seed)
    return {group.name: rng.random(group.channels) for group in cost.groups}


def silenced(model: TorchModel, cost: CostModel, plan: Plan) -> nn.Module:
    """The whole model whose removed channels are made to carry zeros, and whose dropped blocks add zeros.

    By the producers' parameters; the code under test masks the readers' instead.
    """
    module = copy.deepcopy(model.module)
    groups = {group.name: group for group in cost.groups}
    with torch.no_grad():
        for one in plan:
            group = groups[one.group]
            if one.drop_block:
                for key, tensor in module.get_submodule(str(group.block)).state_dict(keep_vars=True).items():
                    if not key.endswith(("running_var", "num_batches_tracked")):
                        tensor.zero_()
            for member in group.members:
                if member.side == "out":
                    gone = torch.from_numpy(member.local[~np.isin(member.root, one.kept)])
                    part = module.get_submodule(member.module)
                    for key in ("weight", "bias", "running_mean"):
                        tensor = getattr(part, key, None)
                        if tensor is not None:
                            transposed = key == "weight" and isinstance(part, nn.ConvTranspose2d)
                            tensor.index_fill_(1 if transposed else 0, gone, 0.0)
    return module


CUTTABLE = tuple(name for name in TOYS if any(len(g.options()) > 1 for g in traced(name)[1].groups))
