"""YOLO label files: one object a line, ``class cx cy w h`` or a polygon, in fractions of the image's sides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.errors import BadData
from edgeprune.tasks.boxes.annotations import Labels
from edgeprune.tasks.boxes.lines import number_of, text_of
from edgeprune.tasks.boxes.mending import Mended, counted

FORM = "write 'class cx cy w h', or the class and a polygon's x y x y x y, in fractions of the image's width and height"
FARTHEST = 1.5
"""Beyond this a coordinate is no fraction that strays over the edge, but a number of pixels."""


def label_file(image: Path) -> Path:
    """Return where the labels of an image belong: ``/labels/`` for the last ``/images/`` of its path, suffix .txt.

    Where the path has no ``images`` folder they belong beside the image. Also beside the image, if a file is there and
    none at the former place.
    """
    beside = image.with_suffix(".txt")
    before, separator, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    if not separator:
        return beside
    apart = Path(f"{before}{os.sep}labels{os.sep}{after}").with_suffix(".txt")
    return beside if not apart.is_file() and beside.is_file() else apart


def read_labels(file: Path, classes: Sequence[str], size: tuple[int, int], mended: Mended) -> Labels:
    """Return the labels in ``file`` for an image of ``size`` (width, height) pixels; what is mended is counted.

    Raises BadData, naming file and line, for anything that is not of the form.
    """
    width, height = size
    numbers: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    for number, line in enumerate(text_of(file).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        values = _numbers(line, where)
        left, top, right, bottom = _box(values[1:], where)
        numbers.append(_class(values[0], classes, where))
        boxes.append((left * width, top * height, right * width, bottom * height))
    kept, kept_numbers = mended.tidy(file, boxes, numbers, size)
    return Labels(kept, kept_numbers, np.zeros((0, 4), np.float32))


def _numbers(line: str, where: str) -> list[float]:
    words = line.split()
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise BadData(f"{where} holds {counted(len(words), 'value', 'values')}; {FORM}")
    return [number_of(word, where) for word in words]


def _class(value: float, classes: Sequence[str], where: str) -> int:
    if value != int(value):
        raise BadData(f"{where}: {value:g} is not a class number; classes are whole numbers from 0")
    if not 0 <= value < len(classes):
        known = counted(len(classes), "class", "classes")
        raise BadData(f"{where}: there is no class {int(value)}; names holds {known}, numbered from 0")
    return int(value)


def _box(values: list[float], where: str) -> tuple[float, float, float, float]:
    """Return xyxy in fractions of the sides."""
    far = next((value for value in values if abs(value) > FARTHEST), None)
    if far is not None:
        raise BadData(f"{where}: {far:g} is no fraction of the image but looks like pixels; {FORM}")
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
