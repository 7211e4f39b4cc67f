"""Drawing from labelled images: stratified halves, stratified order, augmentation. Randomness comes in by argument."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeprune.errors import BadData


def halves(labels: NDArray[np.int64], seed: int, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a split into two disjoint halves that share every class evenly: sorted indices, fixed by ``seed``.

    Classes of odd size give their spare image to the second and the first half in turn. Raises BadData, with the
    split's ``name``, if a class has a single image.
    """
    rng = np.random.default_rng([seed, 0x5EA6C4])
    first: list[NDArray[np.int64]] = []
    second: list[NDArray[np.int64]] = []
    spare = 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise BadData(
                f"class {label} has one image in {name}, too few to halve it into a search and a test split; add "
                f"images or give a third split (val/ beside test/, or x_val and y_val)"
            )
        odd = len(members) % 2
        cut = len(members) // 2 + (odd and spare)
        spare ^= odd
        first.append(members[:cut])
        second.append(members[cut:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def round_robin(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return all indices, one of each class in turn, in an order fixed by ``seed``."""
    order = np.random.default_rng([seed, 0xCA11B]).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn[order], kind="stable")]


def augmented(pixels: NDArray[np.uint8], how: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return (n, C, H, W) cropped at random from a zero border of an eighth of the size, and flipped, as ``how`` asks.

    The recipe of He et al. (2016) for CIFAR: 4 pixels of padding at 32x32.
    """
    count, _, height, width = pixels.shape
    if "crop" in how:
        up, left = max(1, height // 8), max(1, width // 8)
        padded = np.pad(pixels, ((0, 0), (0, 0), (up, up), (left, left)))
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))
        top, start = rng.integers(0, 2 * up + 1, count), rng.integers(0, 2 * left + 1, count)
        pixels = windows[np.arange(count), :, top, start]
    if "flip" in how:
        mirrored = rng.random(count) < 0.5
        pixels[mirrored] = pixels[mirrored, :, :, ::-1]
    return pixels
