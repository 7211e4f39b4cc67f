"""Which recording an image is from: frames of one drive resemble each other, so that a split should not divide it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import BadData
from edgeprune.tasks.boxes.lines import text_of

RAW_NAME = re.compile(r"\d{4}_\d{2}_\d{2}_drive_\d{4}")
"""A recording as KITTI's raw data names it, such as 2011_09_26_drive_0001."""


def drives_of(files: Sequence[Path], root: Path) -> tuple[str, ...]:
    """Return the drive of each image, "" where it is not known.

    A raw name in the file's path counts, the one nearest to its end. For KITTI's object frames (000000 to 007480)
    the devkit's ``mapping/train_mapping.txt`` and ``train_rand.txt`` count, if they lie in ``root`` or the folder
    above it. Raises BadData if these two do not fit each other.
    """
    table = _mapping(root)
    return tuple(_named(file) or table.get(file.stem, "") for file in files)


def _named(file: Path) -> str:
    found = RAW_NAME.findall(str(file))
    return found[-1] if found else ""


def _mapping(root: Path) -> dict[str, str]:
    """Return frame to drive.

    By the devkit's readme, image i of the training set, from 0, is described in line ``train_rand[i]``, from 1, of
    train_mapping.txt, whose lines are ``date drive frame``.
    """
    for folder in (root, root.parent):
        for place in (folder / "mapping", folder / "devkit_object" / "mapping", folder):
            lines, order = place / "train_mapping.txt", place / "train_rand.txt"
            if lines.is_file() and order.is_file():
                return _table(lines, order)
    return {}


def _table(lines: Path, order: Path) -> dict[str, str]:
    drives = [_named(Path(line)) for line in text_of(lines).splitlines()]
    result = {}
    for frame, word in enumerate(text_of(order).replace(",", " ").split()):
        if not word.isascii() or not word.isdigit() or not 1 <= int(word) <= len(drives):
            raise BadData(f"{order}: {word[:40]!r} is no line of {lines}, which has {len(drives)}; restore both files "
                          f"from KITTI's devkit, or remove them")
        result[f"{frame:06d}"] = drives[int(word) - 1]
    return result
