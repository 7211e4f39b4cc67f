"""Raw detector heads: what their channels mean, and what boxes and scores they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from edgeprune.errors import BadModel, nearest
from edgeprune.model import ModelSpec

FORMATS = ("yolov5", "yolov8")

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Head:
    """The layout of a raw head tensor (n, C, P), and its decoding.

    P counts the cells of all levels, in the order of ``strides``, row by row within a level. ``yolov5``:
    C = A (5 + classes), channel a (5 + classes) + k with k = x, y, w, h, objectness, class logits. ``yolov8``:
    C = 4 bins + classes, ``bins`` logits for each of left, top, right, bottom, then the class logits.

    ``strides`` are in pixels, ascending or not; ``anchors`` holds (width, height) in pixels, A a level, and is empty
    for yolov8, as ``bins`` is 0 for yolov5. ``height`` and ``width`` are the letterboxed input's, in pixels.
    """

    format: Literal["yolov5", "yolov8"]
    strides: tuple[int, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    bins: int
    classes: int
    height: int
    width: int

    @classmethod
    def of(cls, spec: ModelSpec) -> Head:
        """Read the head a spec describes. Raises BadModel where it describes none, or one that cannot be."""
        kind = spec.head.get("format")
        if kind not in FORMATS:
            found = "no head" if kind is None else f"a head of the format {str(kind)!r}{nearest(str(kind), FORMATS)}"
            raise BadModel(f"detection needs a model with a {' or '.join(FORMATS)} head, but its spec names {found}")
        if not spec.classes:
            raise BadModel("the model's spec names no classes, so its head cannot be read; give it class names")
        strides = _read(spec.head, "strides", _strides)
        anchors = _read(spec.head, "anchors", _anchors) if kind == "yolov5" else ()
        bins = _read(spec.head, "bins", _bins) if kind == "yolov8" else 0
        if anchors and len(anchors) != len(strides):
            raise BadModel(
                f"the head has {len(strides)} strides but anchors for {len(anchors)} levels; give one list a stride"
            )
        if len(spec.input_shape) != 4:
            raise BadModel(f"a detector's input shape is (N, C, H, W), not {tuple(spec.input_shape)}")
        height, width = spec.input_shape[2:]
        coarsest = max(strides)
        if height % coarsest or width % coarsest or not height or not width:
            raise BadModel(
                f"the input of {height}x{width} pixels is not a multiple of the head's stride {coarsest}; give "
                f"--input a height and a width that are"
            )
        return cls(kind, strides, anchors, bins, len(spec.classes), height, width)

    @property
    def per_cell(self) -> int:
        """Boxes a cell: the number of anchors of a level (A), or 1."""
        return len(self.anchors[0]) if self.anchors else 1

    def grids(self) -> tuple[tuple[int, int], ...]:
        """Return (rows, columns) of every level."""
        return tuple((self.height // stride, self.width // stride) for stride in self.strides)

    def positions(self) -> int:
        """Return P, the number of cells of all levels."""
        return sum(rows * columns for rows, columns in self.grids())

    def channels(self) -> int:
        """Return C, the number of channels of the raw head."""
        return self.per_cell * (5 + self.classes) if self.format == "yolov5" else 4 * self.bins + self.classes

    def check(self, shape: Sequence[int]) -> None:
        """Raise BadModel unless ``shape`` is (n, C, P) for this head."""
        if len(shape) != 3 or tuple(shape[1:]) != (self.channels(), self.positions()):
            raise BadModel(
                f"a {self.format} head of {self.classes} classes gives outputs of shape (n, {self.channels()}, "
                f"{self.positions()}) for an input of {self.height}x{self.width}, but this model gave {tuple(shape)}"
            )

    @cached_property
    def corners(self) -> Tensor:
        """The cells' upper left corners (P, 2), x and y, in cells of their own level."""
        parts = []
        for rows, columns in self.grids():
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(torch.stack([x, y], -1).reshape(-1, 2))
        return torch.cat(parts).float()

    @cached_property
    def steps(self) -> Tensor:
        """The stride (P,) of every cell, in pixels."""
        return torch.cat([torch.full((r * c,), float(s)) for s, (r, c) in zip(self.strides, self.grids(), strict=True)])

    @cached_property
    def centres(self) -> Tensor:
        """The cells' centres (P, 2), x and y, in pixels of the input."""
        return (self.corners + 0.5) * self.steps[:, None]

    @cached_property
    def sizes(self) -> Tensor:
        """The anchors' width and height (A, P, 2), in pixels: of each anchor at each cell. yolov5 only."""
        levels = [torch.tensor(level, dtype=torch.float32) for level in self.anchors]
        return torch.cat(
            [a[:, None].expand(-1, r * c, -1) for a, (r, c) in zip(levels, self.grids(), strict=True)], dim=1
        )

    def split(self, raw: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return (box, objectness, class) logits as views of ``raw`` (n, C, P), channels last.

        yolov5: (n, A, P, 4), (n, A, P) and (n, A, P, classes). yolov8: (n, P, 4, bins), None and (n, P, classes).
        Raises BadModel for another shape.
        """
        self.check(raw.shape)
        if self.format == "yolov5":
            cells = raw.reshape(len(raw), self.per_cell, 5 + self.classes, self.positions()).transpose(2, 3)
            return cells[..., :4], cells[..., 4], cells[..., 5:]
        boxes, classes = raw[:, : 4 * self.bins], raw[:, 4 * self.bins :]
        sides = boxes.reshape(len(raw), 4, self.bins, self.positions())
        return sides.permute(0, 3, 1, 2), None, classes.transpose(1, 2)

    def levels(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return views of ``values`` (n, A, P, ...), one a level, cut along P."""
        return torch.split(values, [rows * columns for rows, columns in self.grids()], 2)

    def boxes(self, logits: Tensor) -> Tensor:
        """Return boxes xyxy in pixels of the input, differentiable: (n, A, P, 4) or, for yolov8, (n, P, 4).

        ``logits`` are the box logits that ``split`` gives. yolov5 (v6 and v7): the centre is (2 σ(x) − 0.5 + corner)
        stride, the size (2 σ(w))² anchor. yolov8: the expectation over the bins of each side's softmax (Generalized
        Focal Loss, Li et al., 2020, equation 5), in strides from the cell's centre.
        """
        device = logits.device
        if self.format == "yolov5":
            square = 2 * logits.float().sigmoid()
            centre = (square[..., :2] - 0.5 + self.corners.to(device)) * self.steps.to(device)[:, None]
            half = square[..., 2:] ** 2 * self.sizes.to(device) / 2
            return torch.cat([centre - half, centre + half], -1)
        bins = torch.arange(self.bins, dtype=torch.float32, device=device)
        sides = (logits.float().softmax(-1) @ bins) * self.steps.to(device)[:, None]
        centres = self.centres.to(device)
        return torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], -1)

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (boxes (n, K, 4) xyxy in pixels of the input, scores (n, K, classes) in [0, 1]) of raw heads.

        K = A P, in the order level, anchor, row, column. Scores are σ(objectness) σ(class), or σ(class) for yolov8.
        A box whose logits hold NaN or infinity is no detection: its coordinates and scores are 0.
        """
        self.check(raw.shape)
        raw, count = raw.detach().float(), self.per_cell * self.positions()
        boxes, scores = raw.new_empty(len(raw), count, 4), raw.new_empty(len(raw), count, self.classes)
        for index, one in enumerate(raw):  # image by image it stays in the processor's cache: 3 times faster
            boxes[index], scores[index] = self._decode(one[None])
        return boxes, scores

    def _decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one image (1, C, P) into boxes (K, 4) and scores (K, classes)."""
        box, objectness, classes = self.split(raw)
        boxes, scores = self.boxes(box), classes.sigmoid()
        if objectness is not None:
            scores *= objectness.sigmoid()[..., None]
        if not raw.isfinite().all():
            sound = box.isfinite().flatten(boxes.ndim - 1).all(-1)
            if objectness is not None:
                sound &= objectness.isfinite()
            boxes = boxes.masked_fill(~sound[..., None], 0.0)
            scores = scores.masked_fill(~(sound[..., None] & classes.isfinite()), 0.0)
        if objectness is None:
            return boxes[0], scores[0]
        return self._by_level(boxes), self._by_level(scores)

    def _by_level(self, values: Tensor) -> Tensor:
        return torch.cat([part[0].flatten(0, 1) for part in self.levels(values)])


def _read(head: Mapping[str, Any], key: str, read: Callable[[Any], _Value]) -> _Value:
    if key not in head:
        raise BadModel(f"the head in the model's spec lacks {key!r}, so its outputs cannot be read")
    try:
        return read(head[key])
    except ValueError as error:
        raise BadModel(f"the head in the model's spec has {key} {str(head[key])[:80]}, but they are {error}") from error


def _strides(raw: Any) -> tuple[int, ...]:
    if isinstance(raw, list | tuple) and raw and all(isinstance(s, int | float) and s >= 1 and s % 1 == 0 for s in raw):
        return tuple(int(s) for s in raw)
    raise ValueError("not a list of whole numbers above zero")


def _anchors(raw: Any) -> tuple[tuple[tuple[float, float], ...], ...]:
    wanted = "not, for each level, a list of [width, height] above zero, equally many at every level"
    try:
        levels = tuple(tuple((float(w), float(h)) for w, h in level) for level in raw)
    except (TypeError, ValueError) as error:
        raise ValueError(wanted) from error
    sound = all(0 < side < 1e6 for level in levels for anchor in level for side in anchor)
    if not levels or not levels[0] or len({len(level) for level in levels}) > 1 or not sound:
        raise ValueError(wanted)
    return levels


def _bins(raw: Any) -> int:
    if isinstance(raw, int) and raw >= 2:
        return raw
    raise ValueError("not a whole number of at least 2")
