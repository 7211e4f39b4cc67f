"""Images scaled into the detector's input without changing their proportions, and boxes taken there and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadOption
from edgeprune.tasks.boxes.upright import upright
from edgeprune.tasks.images import require_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the input: scaled by ``scale``, ``left`` and ``top`` pixels from its corner.

    ``width`` and ``height`` are the image's own, in pixels.
    """

    scale: float
    left: int
    top: int
    width: int
    height: int

    @staticmethod
    def of(width: int, height: int, input_height: int, input_width: int) -> Placement:
        """Return where an image of (width, height) lies in an input: as large as it fits, enlarged if need be, centred.

        Rounded as YOLOv5 and Ultralytics round: sides to the nearest pixel, and an odd pixel of padding goes to the
        right and below.
        """
        scale = min(input_height / height, input_width / width)
        scaled_width, scaled_height = _scaled(width, height, scale)
        left = round((input_width - scaled_width) / 2 - 0.1)
        top = round((input_height - scaled_height) / 2 - 0.1)
        return Placement(scale, left, top, width, height)

    @property
    def scaled(self) -> tuple[int, int]:
        """The (width, height) the image takes up in the input, in pixels."""
        return _scaled(self.width, self.height, self.scale)

    def forward(self, boxes: Boxes) -> Boxes:
        """Take xyxy boxes (m, 4) in pixels of the image to pixels of the input."""
        moved: Boxes = boxes * np.float32(self.scale) + self._corner
        return moved

    def backward(self, boxes: Boxes) -> Boxes:
        """Take xyxy boxes (m, 4) in pixels of the input to pixels of the image, clipped to the image."""
        back = (boxes - self._corner) / np.float32(self.scale)
        clipped: Boxes = np.clip(back, 0, np.array([self.width, self.height] * 2, np.float32))
        return clipped

    @property
    def _corner(self) -> Boxes:
        return np.array([self.left, self.top] * 2, np.float32)


def _scaled(width: int, height: int, scale: float) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True)
class Letterbox:
    """The evaluation transform ``letterbox FILL``; ``fill`` is the grey value 0..255 of what the image leaves free."""

    fill: int = 114

    @staticmethod
    def parse(text: str) -> Letterbox:
        """Read the text form. Raises BadOption for anything else."""
        match = re.fullmatch(r"letterbox (\d{1,3})", text, re.ASCII)
        if match is None or int(match.group(1)) > 255:
            raise BadOption(f"resize {text!r} is not understood by detection; give 'letterbox 114' (or another grey "
                            f"value from 0 to 255)")
        return Letterbox(int(match.group(1)))

    def apply(self, image: Image, height: int, width: int, name: str) -> Image:
        """Return an RGB image of (height, width); ``name`` is not used, as every image fits.

        The image is turned as its EXIF data asks. Bilinear filtering takes in every pixel when it shrinks, as the
        official validation's INTER_AREA does. One pixel at least remains of the shorter side of an extreme image.
        """
        return _fitted(image, height, width, self.fill)[0]


def letterbox(image: Image, height: int, width: int, fill: int = 114) -> tuple[NDArray[np.uint8], Placement]:
    """Return the image fitted into (height, width) as RGB pixels (3, height, width) uint8, and where it lies there.

    Grey, palette and transparent images become RGB, and the image is turned as its EXIF data asks; ``Placement`` means
    the turned image. Raises MissingPackage without Pillow.
    """
    boxed, place = _fitted(image, height, width, fill)
    return np.ascontiguousarray(np.asarray(boxed, np.uint8).transpose(2, 0, 1)), place


def _fitted(image: Image, height: int, width: int, fill: int) -> tuple[Image, Placement]:
    pillow = require_pillow()
    # Turned once only: Pillow keeps the tag that asks for it.
    image = upright(image).convert("RGB")
    place = Placement.of(image.width, image.height, height, width)
    if image.size != place.scaled:
        image = image.resize(place.scaled, pillow.Resampling.BILINEAR)
    boxed = pillow.new("RGB", (width, height), (fill,) * 3)
    boxed.paste(image, (place.left, place.top))
    return boxed, place
