"""Augmentation for detectors: mosaics of four, scale, shift, mirror and colour; boxes and ignored regions follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadOption
from edgeprune.tasks.boxes.letterbox import Boxes
from edgeprune.tasks.boxes.pictures import Picture
from edgeprune.tasks.images import require_pillow

FILL = 114
"""The grey of what no image covers: that of the letterbox."""
LEAST_AREA = 0.1
"""A box that keeps less of its area inside the image is dropped."""
LEAST_SIDE = 2.0
"""A box narrower or flatter than this, in pixels, is dropped."""


@dataclass(frozen=True)
class Augment:
    """How much training images are varied; with every field at 0 only boxes too small to learn from are dropped.

    ``mosaic`` and ``flip`` are probabilities. ``scale`` s scales by 1 - s to 1 + s; ``translate`` shifts by up to that
    share of a side. ``hue`` turns by up to that share of a full turn; ``saturation`` and ``value`` v multiply by 1 - v
    to 1 + v. The amounts are those YOLOv5 trains with from scratch (hyp.scratch-low), but a mosaic only every other
    time: fine-tuning is too short to get used to whole images afterwards. Raises BadOption for a value out of range.
    """

    mosaic: float = 0.5
    scale: float = 0.5
    translate: float = 0.1
    flip: float = 0.5
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = {"scale": 0.95, "hue": 0.5}.get(field.name, 1.0)
            if not 0.0 <= value <= most:
                raise BadOption(f"augmentation: {field.name} must be a number from 0 to {most:g}, not {value}")


class Tile(NamedTuple):
    """A picture stretched onto the output: its edges there in whole pixels, which may lie outside."""

    picture: Picture
    left: int
    top: int
    right: int
    bottom: int


class Reader(Protocol):
    """Pictures of one size by index, from 0 to its length."""

    def __call__(self, index: int) -> Picture:
        """Return a picture that the caller does not change."""

    def __len__(self) -> int:
        """Return how many there are."""


def augmented(read: Reader, index: int, rng: np.random.Generator, options: Augment) -> Picture:
    """Return picture ``index``, varied, at its own size: a pure function of the arguments and the state of ``rng``.

    A mosaic puts three others, drawn from all, beside it, so that the four meet in the middle half of a canvas twice
    as wide and high, of which the centre is seen (Bochkovskiy, Wang and Liao, YOLOv4, 2020, section 3.4). Boxes are
    clipped, and dropped where less than a tenth of their area or less than 2 pixels of a side are left.
    """
    first = read(index)
    height, width = first.pixels.shape[1:]
    size = np.array([width, height], np.float64)
    if rng.random() < options.mosaic:
        pictures = [first, *(read(int(other)) for other in rng.integers(0, len(read), 3))]
        pictures = [pictures[i] for i in rng.permutation(4)]
        meet, centre = rng.uniform(0.5, 1.5, 2) * size, size
        corners = [meet + size * np.array(step) for step in ((-1, -1), (0, -1), (-1, 0), (0, 0))]
    else:
        pictures, corners, centre = [first], [np.zeros(2)], size / 2
    scale = rng.uniform(1 - options.scale, 1 + options.scale)
    shift = rng.uniform(0.5 - options.translate, 0.5 + options.translate, 2) * size
    tiles = []
    for picture, corner in zip(pictures, corners, strict=True):
        left, top = _rounded((corner - centre) * scale + shift)
        right, bottom = _rounded((corner + size - centre) * scale + shift)
        tiles.append(Tile(picture, left, top, right, bottom))
    picture = _composed(tiles, height, width)
    if rng.random() < options.flip:
        picture = mirrored(picture)
    gains = rng.uniform(-1, 1, 3) * (options.hue, options.saturation, options.value)
    return picture._replace(pixels=recoloured(picture.pixels, *gains.tolist())) if gains.any() else picture


def mirrored(picture: Picture) -> Picture:
    """Return the picture with left and right exchanged."""
    width = picture.pixels.shape[2]
    return Picture(
        np.ascontiguousarray(picture.pixels[:, :, ::-1]), _mirrored(picture.boxes, width), picture.classes.copy(),
        _mirrored(picture.ignored, width),
    )


def _mirrored(boxes: Boxes, width: int) -> Boxes:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1).astype(np.float32)


def recoloured(pixels: NDArray[np.uint8], hue: float, saturation: float, value: float) -> NDArray[np.uint8]:
    """Return RGB pixels (3, H, W) with hue turned by a share of a turn, saturation and value times 1 + their gain.

    Works on 8 bits of each, as YOLOv5 does.
    """
    steps = np.arange(256)
    tables = [(steps + hue * 256) % 256, steps * (1 + saturation), steps * (1 + value)]
    table = np.concatenate([np.clip(t, 0, 255) for t in tables]).astype(np.uint8)
    image = _to_image(pixels).convert("HSV").point(table.tolist()).convert("RGB")
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def _to_image(pixels: NDArray[np.uint8]) -> Any:
    return require_pillow().fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _rounded(point: NDArray[np.float64]) -> tuple[int, int]:
    return math.floor(point[0] + 0.5), math.floor(point[1] + 0.5)


# --- tiles to one image -----------------------------------------------------------------------------------------------


def _composed(tiles: Sequence[Tile], height: int, width: int) -> Picture:
    pixels = np.full((3, height, width), FILL, np.uint8)
    boxes, classes, ignored = [], [], []
    for tile in tiles:
        _draw(tile, pixels)
        moved, inside = _moved(tile, tile.picture.boxes, height, width)
        kept = _kept(moved, inside)
        boxes.append(inside[kept])
        classes.append(tile.picture.classes[kept])
        regions = _moved(tile, tile.picture.ignored, height, width)[1]
        ignored.append(regions[(regions[:, 2] > regions[:, 0]) & (regions[:, 3] > regions[:, 1])])
    return Picture(pixels, np.concatenate(boxes), np.concatenate(classes), np.concatenate(ignored))


def _draw(tile: Tile, pixels: NDArray[np.uint8]) -> None:
    """Draw what is to be seen of a tile: only that is resized, so that a mosaic costs no more than one image."""
    _, height, width = pixels.shape
    left, right = max(tile.left, 0), min(tile.right, width)
    top, bottom = max(tile.top, 0), min(tile.bottom, height)
    if left >= right or top >= bottom:
        return
    across, down = width / (tile.right - tile.left), height / (tile.bottom - tile.top)
    box = (
        (left - tile.left) * across, (top - tile.top) * down,
        min((right - tile.left) * across, width), min((bottom - tile.top) * down, height),
    )
    if across == down == 1.0:
        source = tile.picture.pixels[:, int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
    else:
        image = _to_image(tile.picture.pixels)
        scaled = image.resize((right - left, bottom - top), require_pillow().Resampling.BILINEAR, box=box)
        source = np.asarray(scaled, np.uint8).transpose(2, 0, 1)
    pixels[:, top:bottom, left:right] = source


def _moved(tile: Tile, boxes: Boxes, height: int, width: int) -> tuple[Boxes, Boxes]:
    """Return the boxes of a tile on the output, whole and clipped."""
    across, down = (tile.right - tile.left) / width, (tile.bottom - tile.top) / height
    moved = (boxes * np.array([across, down] * 2) + np.array([tile.left, tile.top] * 2)).astype(np.float32)
    inside: Boxes = np.clip(moved, 0, np.array([width, height] * 2, np.float32))
    return moved, inside


def _kept(moved: Boxes, inside: Boxes) -> NDArray[np.bool_]:
    sides = inside[:, 2:] - inside[:, :2]
    whole = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    kept: NDArray[np.bool_] = (sides >= LEAST_SIDE).all(axis=1) & (np.prod(sides, axis=1) >= LEAST_AREA * whole)
    return kept
