"""The images of a split as the detector sees them, with what is drawn in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeprune.tasks.boxes.annotations import Found
from edgeprune.tasks.boxes.letterbox import Boxes, Letterbox, Placement
from edgeprune.tasks.images import CACHE_BYTES, DecodedImages


class Picture(NamedTuple):
    """One image at the detector's input size.

    ``pixels`` (3, H, W) uint8 RGB; ``boxes`` (m, 4) and ``ignored`` (k, 4) float32 xyxy in pixels of the input;
    ``classes`` (m,) int64.
    """

    pixels: NDArray[np.uint8]
    boxes: Boxes
    classes: NDArray[np.int64]
    ignored: Boxes


class Pictures:
    """A split letterboxed into (height, width) pixels, each image decoded once while ``cache_bytes`` of memory last.

    ``placements`` say, by image, where it lies in the input. Calling it with an index gives a Picture. Decoding raises
    BadData, naming the file, for a damaged image, and MissingPackage without Pillow.
    """

    def __init__(
        self, found: Found, height: int, width: int, fill: int = 114, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._images = DecodedImages(found.files, (3, height, width), Letterbox(fill), cache_bytes)
        self._labels = found.labels
        self.placements = tuple(Placement.of(*size, height, width) for size in found.sizes)

    def __len__(self) -> int:
        return len(self._labels)

    def __call__(self, index: int) -> Picture:
        """Return one image with its labels, its pixels a fresh array."""
        return Picture(self.pixels(np.array([index]))[0], *self.labels(index))

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a fresh array (n, 3, H, W) of the images named."""
        return self._images.read(indices)

    def labels(self, index: int) -> tuple[Boxes, NDArray[np.int64], Boxes]:
        """Return boxes, classes and ignored regions of one image as in ``Picture``."""
        place, labels = self.placements[index], self._labels[index]
        return place.forward(labels.boxes), labels.classes, place.forward(labels.ignored)
