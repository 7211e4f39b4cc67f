"""Splits that nobody drew: a part of train that judges, and the halves of an evaluation split. Fixed by a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadData
from edgeprune.tasks.boxes.annotations import Found

LEAST = 100
"""Images held out of train at least, while that leaves half of it: fewer say little about mAP."""
SHARE = 0.2


def held_out(train: Found, seed: int, unit: str = "drive") -> tuple[Found, Found]:
    """Return (train, search): a fifth of the images, at least LEAST, taken out of train to judge by.

    Whole drives are taken where drives are known, because neighbouring frames would give the answers away; ``unit``
    says what ``train.drives`` names. Raises BadData when train holds too little to be cut in two.
    """
    total = len(train.files)
    wanted = min(max(LEAST, round(SHARE * total)), total // 2)
    units: dict[str, list[int]] = {}
    for index, drive in enumerate(train.drives):
        units.setdefault(drive or f"image {index}", []).append(index)
    rng = np.random.default_rng([seed, 0x5EA6C4])
    names = sorted(units)
    taken: list[int] = []
    for position in rng.permutation(len(names)):
        whole = units[names[position]]
        if len(taken) < wanted and len(taken) + len(whole) <= max(1.2 * wanted, wanted + 1):
            taken += whole
    if not _shows_objects(train, taken) or not _shows_objects(train, set(range(total)).difference(taken)):
        raise BadData(
            f"{train.name} is too small to hold images out of it for judging inside the build ({total} images, "
            f"{len(units)} {unit}s or single images); add images, or give a third split (val beside test)"
        )
    drives = f"by {unit}" if any(train.drives) else "no drives known"
    rest = train.without(set(taken))
    return (
        dataclasses.replace(rest, name=f"{train.name}, without those held out"),
        dataclasses.replace(
            train.without(set(range(total)).difference(taken)),
            name=f"held out of {train.name}, {drives}, seed {seed}; apart from train",
        ),
    )


def halves(found: Found, seed: int) -> tuple[Found, Found]:
    """Return two disjoint halves of a split that share every class about evenly.

    Raises BadData when one half would show no object.
    """
    labels = np.array([_main_class(one.classes) for one in found.labels])
    order = np.random.default_rng([seed, 0x5EA6C4]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    first, second = set(order[::2].tolist()), set(order[1::2].tolist())
    if not _shows_objects(found, first) or not _shows_objects(found, second):
        raise BadData(
            f"{found.name} is too small to be halved into a search and a test split; add images or give a third split "
            f"(test beside val)"
        )
    origin = f"of {found.name}, seed {seed}; apart from train"
    return (
        dataclasses.replace(found.without(second), name=f"one half {origin}"),
        dataclasses.replace(found.without(first), name=f"the other half {origin}"),
    )


def _main_class(classes: NDArray[np.int64]) -> int:
    """Return the class most objects of an image are of, -1 where there is none."""
    return int(np.bincount(classes).argmax()) if len(classes) else -1


def _shows_objects(found: Found, indices: Iterable[int]) -> bool:
    return any(len(found.labels[i].classes) for i in indices)
