"""What is set right in labels without asking, counted so that the user is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.5
"""Pixels a box may reach out of its image before clipping it is worth a note: text holds few decimals."""


@dataclass
class Mended:
    """Counts of one split: boxes by label file, and images without one."""

    clipped: Counter[Path] = field(default_factory=Counter)
    empty: Counter[Path] = field(default_factory=Counter)
    repeated: Counter[Path] = field(default_factory=Counter)
    background: int = 0

    def tidy(
        self, file: Path, boxes: Sequence[Sequence[float]], classes: Sequence[int], size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return boxes (m, 4) float32 and classes (m,) int64, clipped to the image, without empty or repeated ones.

        ``boxes`` are xyxy in pixels, ``size`` is (width, height), ``file`` is where they were read, for the counts.
        The order is kept; of equal boxes of one class the first one stays.
        """
        given = np.asarray(boxes, np.float64).reshape(-1, 4)
        numbers = np.asarray(classes, np.int64)
        inside = clipped(given, size)
        whole = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
        self.empty[file] += int(np.sum(~whole))
        self.clipped[file] += int(np.sum(whole & (np.abs(inside - given) > TOLERANCE).any(axis=1)))
        result, numbers = inside[whole].astype(np.float32), numbers[whole]
        first = np.unique(np.column_stack([numbers, result]), axis=0, return_index=True)[1]
        self.repeated[file] += len(numbers) - len(first)
        order = np.sort(first)
        return result[order], numbers[order]

    def notes(self, split: str) -> list[str]:
        """Return a sentence for each thing that was mended in the split of that name."""
        done = (
            (self.clipped, "reached outside {its} image and {was} clipped"),
            (self.empty, "{was} empty inside {its} image and {was} left out"),
            (self.repeated, "{was} there twice and {was} kept once"),
        )
        result = []
        for counts, text in done:
            number, files = counts.total(), sum(count > 0 for count in counts.values())
            if number:
                words = {"its": "its" if number == 1 else "their", "was": "was" if number == 1 else "were"}
                where = f"{counted(number, 'box', 'boxes')} of {counted(files, 'label file', 'label files')}"
                result.append(f"{split}: {where} {text.format(**words)}")
        if self.background:
            are = "is" if self.background == 1 else "are"
            images = counted(self.background, "image has no label file", "images have no label file")
            result.append(f"{split}: {images} and {are} taken as background")
        return result


def clipped(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return xyxy boxes (m, 4) cut off at the edges of an image of (width, height) pixels."""
    width, height = size
    return np.clip(boxes, 0.0, np.asarray([width, height, width, height], np.float64))


def counted(number: int, one: str, many: str) -> str:
    """Return the number with its noun."""
    return f"{number} {one if number == 1 else many}"
