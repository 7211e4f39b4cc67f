"""A YOLOv5 checkpoint as its authors' code writes it, of a network so small that it learns in seconds, and its data.

The classes below stand in for the authors' own: they have those names when they are pickled, and no module of these
names is left behind. Their forward is written for itself, so that the front end has something to agree with.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIZE = 64
NAMES = ("red", "green", "blue")
COLOURS = {"red": (225, 40, 40), "green": (40, 215, 60), "blue": (50, 70, 235), "yellow": (230, 220, 40)}
ANCHORS = ((10, 10), (16, 20), (26, 18)), ((22, 30), (34, 30), (44, 44)), ((40, 60), (60, 40), (62, 62))


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, act: nn.Module | None = None):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, 2 if kernel == 6 else kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True) if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(self.bn(y) if hasattr(self, "bn") else y)


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width), Conv(width, width, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return y.add(x) if self.add else y


class C3(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: bool = True, depth: int = 1) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, half), Conv(inputs, half), Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        one = self.cv1(x)
        for part in self.m:
            one = part(one)
        return self.cv3(torch.hstack([one, self.cv2(x)]))


class SPP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width // 2), Conv(width // 2 * 4, width)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.hstack([x, self.m[0](x), self.m[1](x), self.m[2](x)]))


class SPPF(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width // 2), Conv(width // 2 * 4, width)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.cv1(x)
        b = self.m(a)
        c = self.m(b)
        return self.cv2(torch.hstack([a, b, c, self.m(c)]))


class Focus(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (slice(0, None, 2), slice(1, None, 2)), (slice(0, None, 2), slice(1, None, 2))
        return self.conv(torch.hstack([x[:, :, r, c] for c in columns for r in rows]))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d = 1

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.hstack(list(maps))


class Detect(nn.Module):
    """The head: in evaluation it gives (n, K, 5 + classes), by level, anchor, row and column; xywh in pixels."""

    def __init__(self, widths: Sequence[int], classes: int, anchors: Sequence[Any], strides: Sequence[int]) -> None:
        super().__init__()
        self.nc, self.no, self.nl, self.na = classes, classes + 5, len(widths), len(anchors[0])
        self.stride = torch.tensor([float(s) for s in strides])
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32) / self.stride[:, None, None])
        self.m = nn.ModuleList(nn.Conv2d(width, self.no * self.na, 1) for width in widths)
        self.grid, self.anchor_grid = [torch.empty(0)] * self.nl, [torch.empty(0)] * self.nl
        self.inplace = True

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        found = []
        for number, (conv, level) in enumerate(zip(self.m, levels, strict=True)):
            rows, columns = level.shape[2:]
            step = float(self.stride[number])
            y = conv(level).unflatten(1, (self.na, self.no)).sigmoid()
            for a, (w, h) in enumerate((self.anchors[number] * step).tolist()):
                for row in range(rows):
                    p = y[:, a, :, row]
                    x, z = (2 * p[:, 0] - 0.5 + torch.arange(columns)) * step, (2 * p[:, 1] - 0.5 + row) * step
                    box = torch.stack([x, z, (2 * p[:, 2]) ** 2 * w, (2 * p[:, 3]) ** 2 * h], 1)
                    found.append(torch.cat([box, p[:, 4:]], 1))
        return torch.cat(found, 2).transpose(1, 2)


class Model(nn.Module):
    """The network: 2 levels (strides 8 and 16) up to 4."""

    def __init__(
        self, names: Any = NAMES, width: int = 8, levels: int = 2, old: bool = False, anchors: Sequence[Any] = ANCHORS
    ) -> None:
        super().__init__()
        widths = [min(4 * width * 2**level, 6 * width) for level in range(levels)]
        layers: list[nn.Module] = []

        def add(layer: nn.Module, source: Any = -1) -> int:
            layer.i, layer.f, layer.type, layer.np = len(layers), source, type(layer).__name__, 0
            layers.append(layer)
            return len(layers) - 1

        add(Focus(3, width) if old else Conv(3, width, 6, 2))
        add(Conv(width, 2 * width, 3, 2))
        add(C3(2 * width, 2 * width, depth=2))
        before, features = 2 * width, []
        for level in widths:
            add(Conv(before, level, 3, 2))
            if len(features) == levels - 1 and old:
                add(SPP(level))
            features.append(add(C3(level, level)))
            before = level
        if not old:
            features[-1] = add(SPPF(before))
        laterals = []
        for level in reversed(range(levels - 1)):
            laterals.append(add(Conv(widths[level + 1], widths[level])))
            add(nn.Upsample(None, 2, "nearest"))
            add(Concat(), [-1, features[level]])
            top = add(C3(2 * widths[level], widths[level], shortcut=False))
        outputs = [top]
        for level in range(1, levels):
            add(Conv(widths[level - 1], widths[level - 1], 3, 2))
            add(Concat(), [-1, laterals.pop()])
            outputs.append(add(C3(2 * widths[level - 1], widths[level], shortcut=False)))
        strides = [8 * 2**level for level in range(levels)]
        chosen = [anchors[min(level, len(anchors) - 1)] for level in range(levels)]
        add(Detect(widths, len(names), chosen, strides), outputs)
        self.model, self.save = nn.Sequential(*layers), sorted({i for i in outputs + features})
        self.yaml, self.nc, self.names, self.stride = {"nc": len(names)}, len(names), names, layers[-1].stride
        self.inplace, self.hyp = True, {"box": 0.05}

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for layer in self.model:
            if isinstance(layer.f, int):
                x = layer(x if layer.f == -1 else outputs[layer.f])
            else:
                x = layer([x if f == -1 else outputs[f] for f in layer.f])
            outputs.append(x)
        return x


class DetectionModel(Model):
    """Its name since v6.2."""


_HOMES = {"models.yolo": (Model, DetectionModel, Detect),
          "models.common": (Conv, Bottleneck, C3, SPP, SPPF, Focus, Concat)}  # fmt: skip


@contextmanager
def pretending(**others: Sequence[type]) -> Iterator[None]:
    """Let the classes above, and ``others`` by module (dots as underscores), be found where the authors have them."""
    homes = {**_HOMES, **{name.replace("_", "."): classes for name, classes in others.items()}}
    made: dict[str, types.ModuleType] = {}
    for home, classes in homes.items():
        parts = home.split(".")
        for end in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        for cls in classes:
            cls.__module__ = home
            setattr(made[home], cls.__name__, cls)
    assert not made.keys() & sys.modules.keys()
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def seeded(cls: type[Model] = DetectionModel, seed: int = 0, **options: Any) -> Model:
    """Return a network with seeded weights and batch norms that have seen something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(**options)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.data.uniform_(0.7, 1.3)
                part.bias.data.normal_(0, 0.1)
    return model.eval()


def folded(model: Model) -> Model:
    """Fold every batch norm into its convolution, as the authors' ``fuse`` does."""
    for part in model.modules():
        if isinstance(part, Conv):
            part.conv = torch.nn.utils.fuse_conv_bn_eval(part.conv, part.bn)
            del part.bn
    return model


def save(path: Path, model: Any, wrapped: bool = True, **more: Any) -> Path:
    """Write a checkpoint: ``model`` with what a training keeps beside it, or alone."""
    found = {"epoch": -1, "best_fitness": None, "model": model, "ema": None, "updates": None, "optimizer": None,
             "opt": None, "git": None, "date": "2022-11-22", **more} if wrapped else model  # fmt: skip
    with pretending():
        torch.save(found, path)
    return path


# --- data -------------------------------------------------------------------------------------------------------------


def scenes(count: int, seed: int, names: Sequence[str] = NAMES) -> list[tuple[np.ndarray, list[tuple[float, ...]]]]:
    """Return images (64, 64, 3) with up to two coloured rectangles on noise, and YOLO rows (class, cx, cy, w, h)."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        pixels = rng.normal(110, 25, (SIZE, SIZE, 3))
        rows: list[tuple[float, ...]] = []
        objects = 0 if number % 16 == 15 else 1 + number % 2
        for which in range(objects):
            kind = (number + which) % len(names)
            w, h = rng.integers(14, 30, 2)
            room = SIZE // objects  # two stand side by side
            x, y = room * which + rng.integers(0, room - w), rng.integers(0, SIZE - h)
            pixels[y : y + h, x : x + w] = np.array(COLOURS[names[kind]]) + rng.normal(0, 12, (h, w, 3))
            rows.append((kind, (x + w / 2) / SIZE, (y + h / 2) / SIZE, w / SIZE, h / SIZE))
        found.append((pixels.clip(0, 255).astype(np.uint8), rows))
    return found


def write_data(root: Path, names: Sequence[str] = NAMES, test: bool = False, **counts: int) -> Path:
    """Write a YOLO dataset of 64 images to train on and 32 to judge by, or ``counts`` by split; return its yaml."""
    sizes = {"train": 64, "val": 32, **({"test": 32} if test else {}), **counts}
    for seed, (split, count) in enumerate(sizes.items()):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number, (pixels, rows) in enumerate(scenes(count, seed, names)):
            Image.fromarray(pixels).save(root / "images" / split / f"{split}{number:03d}.png")
            text = "".join(" ".join(f"{v:.6f}" if i else str(int(v)) for i, v in enumerate(row)) + "\n" for row in rows)
            (root / "labels" / split / f"{split}{number:03d}.txt").write_text(text)
    lines = ["path: .", *(f"{split}: images/{split}" for split in sizes), f"names: [{', '.join(names)}]", ""]
    (root / "data.yaml").write_text("\n".join(lines))
    return root / "data.yaml"


@cache
def learned(steps: int = 140) -> dict[str, Tensor]:
    """Return weights of ``seeded(width=8, levels=2)`` that find the rectangles: some seconds of training."""
    from edgeprune.model import ModelSpec
    from edgeprune.tasks.boxes import objective
    from edgeprune.tasks.boxes.heads import Head

    model = seeded()
    detect = model.model[-1]
    with torch.no_grad():
        for conv in detect.m:
            conv.bias.view(detect.na, -1)[:, 4] = -3.5
    anchors = [list(map(list, level)) for level in ANCHORS[:2]]
    described = {"format": "yolov5", "strides": [8, 16], "anchors": anchors}
    head = Head.of(ModelSpec((1, 3, SIZE, SIZE), classes=NAMES, head=described))
    found = scenes(192, 7)
    images = torch.from_numpy(np.stack([p for p, _ in found])).permute(0, 3, 1, 2).float() / 255
    optimizer = torch.optim.Adam(model.parameters(), 0.004)
    order = np.random.default_rng(0)
    detect.forward = lambda levels: torch.cat([c(x).flatten(2) for c, x in zip(detect.m, levels, strict=True)], 2)
    model.train()
    for step in range(steps):
        for settings in optimizer.param_groups:
            settings["lr"] = 0.004 * min(1.0, 1.5 * (1 - step / steps) + 0.02)
        chosen = order.choice(len(images), 16, replace=False)
        rows = [[n, r[0], *(SIZE * v for v in r[1:])] for n, i in enumerate(chosen) for r in found[i][1]]
        loss = objective.loss(head, model(images[chosen]), torch.tensor(rows, dtype=torch.float32), torch.zeros(0, 5))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def trained() -> Model:
    """Return the network that finds the rectangles."""
    model = seeded()
    model.load_state_dict(learned())
    return model.eval()
