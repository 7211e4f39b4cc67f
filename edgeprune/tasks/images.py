"""Images as evaluation sees them: decoded, converted, resized, and kept as bytes while memory allows."""

from __future__ import annotations

import math
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadData, BadOption, MissingPackage

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image in a folder: the list of torchvision's ImageFolder."""
CACHE_BYTES = 2**29
"""How much memory the decoded images of one split may take."""
_FILTERS = threading.RLock()


@dataclass(frozen=True)
class Resize:
    """An evaluation transform: ``none``, ``squash FILTER`` or ``crop FRACTION FILTER``.

    *squash* scales to the target without keeping proportions. *crop* scales the shorter side to floor(size / fraction)
    and cuts the centre out, as torchvision's and timm's evaluation transforms do; its pixels equal theirs.
    """

    how: Literal["none", "squash", "crop"]
    fraction: float = 1.0
    filter: str = "bilinear"

    @staticmethod
    def parse(text: str) -> Resize:
        """Read the text form. Raises BadOption for anything else."""
        if text == "none":
            return Resize("none")
        match = re.fullmatch(r"(squash|crop (0?\.\d+|1|1\.0+)) (bilinear|bicubic)", text)
        if match is None or (match.group(2) is not None and float(match.group(2)) <= 0.0):
            raise BadOption(
                f"resize {text!r} is not understood; give 'none', 'squash bilinear' or 'crop 0.875 bicubic' "
                f"(any fraction up to 1, either filter)"
            )
        if match.group(2) is None:
            return Resize("squash", filter=match.group(3))
        return Resize("crop", float(match.group(2)), match.group(3))

    def apply(self, image: Image, height: int, width: int, name: str) -> Image:
        """Return ``image`` at (height, width). Raises BadData, with its ``name``, if it differs and may not change."""
        from PIL import Image as Pillow

        if self.how == "none":
            if image.size != (width, height):
                raise BadData(
                    f"{name} is {image.height}x{image.width} but the model takes {height}x{width}; choose how to fit "
                    f"it with --set task.resize='crop 0.875 bicubic' or 'squash bilinear'"
                )
            return image
        filter_ = Pillow.Resampling[self.filter.upper()]
        if self.how == "squash":
            return image.resize((width, height), filter_)
        # A fraction such as 224/232 in nine digits must give 232 back, not the whole number below 231.9999999.
        scaled = (math.floor(height / self.fraction + 1e-6), math.floor(width / self.fraction + 1e-6))
        return _centre(image.resize(_cover(image, *scaled), filter_), height, width)


def _cover(image: Image, height: int, width: int) -> tuple[int, int]:
    """Return (width, height) of the smallest scaled image that covers the target, rounding as torchvision does."""
    if image.width * height <= image.height * width:
        return width, max(height, int(width * image.height / image.width))
    return max(width, int(height * image.width / image.height)), height


def _centre(image: Image, height: int, width: int) -> Image:
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


class Transform(Protocol):
    """How an image is brought to the size a model takes: ``Resize``, or a detector's letterbox."""

    def apply(self, image: Image, height: int, width: int, name: str) -> Image:
        """Return ``image`` at (height, width). Raises BadData, with its ``name``, if that cannot be done."""


class Images(ABC):
    """Images of one split, by index."""

    @abstractmethod
    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a fresh array (n, C, H, W) of the images named, after the evaluation transform."""


class StackedImages(Images):
    """Images that are in memory already, at the size they are used at: (n, H, W, C) uint8, C as the model takes it."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Index the stack."""
        chosen: NDArray[np.uint8] = self._pixels[indices]
        return chosen


class DecodedImages(Images):
    """Images that must be decoded or resized, one by one, from files or from an array (n, H, W, C)."""

    def __init__(
        self, source: tuple[Path, ...] | NDArray[np.uint8], shape: tuple[int, int, int], resize: Transform,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._source, self._shape, self._resize = source, shape, resize
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._room = cache_bytes // math.prod(shape)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode what is not in the cache."""
        result = np.empty((len(indices), *self._shape), np.uint8)
        for row, index in enumerate(indices.tolist()):
            result[row] = self._one(index)
        return result

    def _one(self, index: int) -> NDArray[np.uint8]:
        if index in self._cache:
            return self._cache[index]
        channels, height, width = self._shape
        item = self._source[index]
        image = open_image(item, channels) if isinstance(item, Path) else from_array(item)
        name = str(item) if isinstance(item, Path) else f"image {index} of the array"
        pixels = np.asarray(self._resize.apply(image, height, width, name), np.uint8)
        pixels = np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))
        # A full cache stays as it is: splits are read from end to end, where replacing old entries would never hit.
        if len(self._cache) < self._room:
            self._cache[index] = pixels
        return pixels


def open_image(path: Path, channels: int) -> Image:
    """Decode a file to 8-bit RGB (3 channels) or grey (1 channel), converting whatever it is.

    Raises BadData, naming the file, if it is damaged, no image or deeper than 8 bits; MissingPackage without Pillow.
    """
    pillow = require_pillow()
    try:
        with exif_warnings_ignored():
            opened = pillow.open(path)
        with opened as image:
            if image.format == "TIFF":
                with exif_warnings_ignored():
                    image.load()  # which looks at EXIF again, to turn the image
            if image.mode[0] in "IF":
                raise BadData(f"{path} has more than 8 bits a channel; convert it to an 8-bit image")
            if "transparency" in image.info:
                image = image.convert("RGBA")
            converted: Image = image.convert("RGB" if channels == 3 else "L")
            return converted
    except (OSError, SyntaxError, ValueError, EOFError, pillow.DecompressionBombError) as error:
        raise BadData(f"{path} cannot be decoded as an image; replace or remove it") from error


@contextmanager
def exif_warnings_ignored() -> Iterator[None]:
    """Keep quiet about damaged EXIF data, which many photographs have and which concerns no pixel.

    One thread at a time, as plans are scored at once and the filters are the process's: the second to leave would put
    back those that the first had set. So nothing but a TIFF, whose decoding reads EXIF, is decoded within.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def from_array(pixels: NDArray[np.uint8]) -> Image:
    """Wrap (H, W, 1) or (H, W, 3) uint8 for resizing. Raises MissingPackage without Pillow."""
    image: Image = require_pillow().fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return image


def require_pillow() -> Any:
    """Return the module PIL.Image. Raises MissingPackage where it is not installed."""
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise MissingPackage("Pillow", "vision", "Reading and resizing images") from error
    return Pillow
