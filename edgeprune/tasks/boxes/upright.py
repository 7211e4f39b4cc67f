"""Images the way up they are meant to be seen, and their sizes without decoding them.

YOLOv5 and Ultralytics read images by OpenCV's ``imread``, which follows the EXIF orientation, and so do the tools that
people draw boxes with; so labels are taken to mean the turned image, here too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import BadData
from edgeprune.tasks.boxes.lines import listed
from edgeprune.tasks.images import exif_warnings_ignored, require_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
"""The tag of EXIF 2.3, section 4.6.4, that says how an image is to be turned: 1 as it is, 5 to 8 swap the sides."""
TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}
"""Orientation to the name of the PIL.Image.Transpose that undoes it."""


def upright(image: Image) -> Image:
    """Return the image turned as its EXIF data asks; works on what ``open_image`` returned. Damaged EXIF turns nothing.

    TIFF files come turned already: Pillow does it on decoding and drops the tag.
    """
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(require_pillow().Transpose[turn])


def sizes(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Return (width, height) in pixels of each image once upright, reading no more than headers.

    Raises BadData, naming up to five files, if headers cannot be read; MissingPackage without Pillow.
    """
    found: list[tuple[int, int]] = []
    broken: list[Path] = []
    for file in files:
        size = _size(file)
        if size is None:
            broken.append(file)
        else:
            found.append(size)
    if broken:
        raise BadData(f"{listed(broken)} cannot be read as {'an image' if len(broken) == 1 else 'images'}; replace or "
                      f"remove {'it' if len(broken) == 1 else 'them'}")
    return tuple(found)


def _size(file: Path) -> tuple[int, int] | None:
    pillow = require_pillow()
    try:
        with exif_warnings_ignored(), pillow.open(file) as image:
            width, height = image.size
            # A TIFF's size is given upright, and its orientation is there until it is decoded.
            swapped = image.format != "TIFF" and _orientation(image) >= 5
    except (OSError, SyntaxError, ValueError, EOFError, pillow.DecompressionBombError):
        return None
    return (height, width) if swapped else (width, height)


def _orientation(image: Image) -> int:
    with exif_warnings_ignored():
        try:
            value = image.getexif().get(ORIENTATION, 1)
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error):
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
