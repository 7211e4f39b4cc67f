"""Which images show the same scene, where no drives are known: frames of one recording look alike.

A random fifth of a driving dataset has a neighbour of nearly every image in the rest, so that what it says of a model
is far too good: on KITTI's object frames a detector scored 0.47 there and 0.29 on other drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadData
from edgeprune.tasks.images import require_pillow

THUMBNAIL = (40, 12)
"""Width and height, in pixels, of the grey picture that is compared: the layout of a scene, and little else."""
LIKENESS = (0.8, 0.9, 0.95, 0.98)
"""Correlations of two thumbnails above which they show one scene. On KITTI, 95 % of the validation images have none so
like them among the training images of other drives, and 95 % of the training images have one among their own.
"""
LARGEST = 0.25
"""Share of the images that one scene may hold; where one holds more (a fixed camera), more likeness is asked for."""
MOST = 20_000
"""Images compared at most: beyond that, every image is a scene of its own."""


def scenes(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the scene of each image, by number; images are one scene if a chain of images that look alike joins them.

    Raises BadData, naming the file, if one cannot be decoded, and MissingPackage without Pillow.
    """
    if len(files) > MOST:
        return tuple(f"scene {i}" for i in range(len(files)))
    pictures = np.stack([_thumbnail(file) for file in files])
    for least in LIKENESS:
        found = _chained(pictures, least)
        if np.bincount(found).max() <= max(1, LARGEST * len(files)):
            break
    return tuple(f"scene {number}" for number in found)


def _thumbnail(file: Path) -> NDArray[np.float32]:
    """Return a grey thumbnail as a vector of mean 0 and length 1 (0 for a blank image)."""
    pillow = require_pillow()
    try:
        with pillow.open(file) as image:
            image.draft("L", (8 * THUMBNAIL[0], 8 * THUMBNAIL[1]))  # JPEG decodes to an eighth for next to nothing
            small = image.convert("L").resize(THUMBNAIL, pillow.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, EOFError, pillow.DecompressionBombError) as error:
        raise BadData(f"{file} cannot be decoded as an image; replace or remove it") from error
    grey: NDArray[np.float32] = np.array(small, np.float32).ravel()
    grey -= grey.mean()
    grey /= max(float(np.linalg.norm(grey)), 1e-6)
    return grey


def _chained(pictures: NDArray[np.float32], least: float) -> NDArray[np.int64]:
    """Return the number of each picture's component in the graph of those that correlate by at least ``least``."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = [], []
    for start in range(0, len(pictures), 1000):
        row, column = np.nonzero(pictures[start : start + 1000] @ pictures.T >= least)
        rows.append(row + start)
        columns.append(column)
    one, other = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(len(pictures), len(pictures)))
    numbers: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return numbers
