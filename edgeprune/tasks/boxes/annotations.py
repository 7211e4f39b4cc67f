"""A detection dataset as plain data: images, the boxes drawn in them, and regions nobody is judged in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadData


@dataclass(frozen=True, eq=False)
class Labels:
    """What is drawn in one image.

    ``boxes`` (m, 4) float32 and ``ignored`` (k, 4) float32 are xyxy in pixels of the image file, 0-based, inside the
    image; ``classes`` (m,) int64. A detection in an ignored region is neither a hit nor a miss, whatever its class.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    ignored: NDArray[np.float32]

    @staticmethod
    def none() -> Labels:
        """Return the labels of an image that shows no object."""
        return Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))


@dataclass(frozen=True, eq=False)
class Found:
    """A split as it lies on disk; the tuples go by image.

    ``name`` says which split it is, for messages and the report. ``drives`` names the recording an image is from, ""
    where that is not known: images of one recording resemble each other, so that a split should not divide it.
    ``sizes`` are (width, height) in pixels as the image is meant to be seen: after the turn its EXIF data asks for.
    """

    name: str
    files: tuple[Path, ...]
    labels: tuple[Labels, ...]
    drives: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    def update(self, digest: Any) -> None:
        """Feed names (without folders), image bytes and labels to a hashlib object.

        Raises BadData if a file cannot be read.
        """
        digest.update(f"{self.name}|{len(self.files)}".encode())
        for file, labels, drive in zip(self.files, self.labels, self.drives, strict=True):
            try:
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").digest()
            except OSError as error:
                raise BadData(f"{file} cannot be read ({error.strerror}); replace or remove it") from error
            digest.update(f"{file.name}|{drive}|{len(labels.classes)}|{len(labels.ignored)}|".encode() + content)
            for array in (labels.boxes, labels.classes, labels.ignored):
                digest.update(np.ascontiguousarray(array).data)

    def without(self, indices: set[int]) -> Found:
        """Return the split without the images that ``indices`` names."""
        kept = [i for i in range(len(self.files)) if i not in indices]
        return Found(
            self.name, tuple(self.files[i] for i in kept), tuple(self.labels[i] for i in kept),
            tuple(self.drives[i] for i in kept), tuple(self.sizes[i] for i in kept),
        )


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset: ``evaluation`` holds one split, to be halved, or two: one that judges inside a build, and the test.

    ``classes`` are the names of the class numbers; ``notes`` are sentences about what was mended or decided on reading.
    """

    train: Found
    evaluation: tuple[Found, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
