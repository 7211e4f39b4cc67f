"""Detections matched to objects as COCO does, and average precision under any weighting of the images.

Matching looks at one image at a time, so it is done once; a bootstrap resample of the images only changes how much
each image counts. The average precision of a thousand resamples is then a few matrix operations a class and threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from edgeprune.tasks.boxes.suppression import Detections

IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall thresholds, at which precision is read."""
MOST = 100
"""How many detections an image and class COCO looks at, highest score first."""

_CELLS = 1 << 18  # of a working array: larger ones leave the processor's cache


@dataclass(frozen=True, eq=False)
class Truth:
    """What an image holds: ``boxes`` float32 (m, 4) xyxy in pixels, ``classes`` int64 (m,), and ``ignored`` float32
    (k, 4): regions where detections of any class are neither right nor wrong (KITTI's DontCare, COCO's crowds).
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    ignored: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Matches:
    """One class's detections in all images, by falling score; equal scores in the order of the images.

    ``image`` int64 (d,), ``score`` float32 (d,). ``hit`` and ``ignored`` bool (10, d): whether a detection found an
    object, or lies in an ignored region and does not count, at each of ``IOUS``. ``objects`` int64 (n,): how many
    objects of the class each image holds.
    """

    image: NDArray[np.int64]
    score: NDArray[np.float32]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]


def match(found: Sequence[Detections], truth: Sequence[Truth], classes: int) -> list[Matches]:
    """Match the detections of n images to their objects; returns one ``Matches`` for each of ``classes`` classes.

    The rules are those of COCO's ``evaluateImg``: highest score first, each takes the free object of its class with
    the highest IoU of at least the threshold; only where there is none, a region to be ignored it lies in, of which
    any number of detections may partake.
    """
    parts: list[list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]]]
    parts = [[] for _ in range(classes)]
    objects = np.zeros((classes, len(truth)), np.int64)
    for index, (seen, real) in enumerate(zip(found, truth, strict=True)):
        np.add.at(objects[:, index], real.classes, 1)
        for label, scores, hit, ignored in _image(seen, real):
            parts[label].append((np.full(len(scores), index), scores, hit, ignored))
    return [_join(found, counts) for found, counts in zip(parts, objects, strict=True)]


def _join(parts: Sequence[tuple[NDArray[np.generic], ...]], objects: NDArray[np.int64]) -> Matches:
    if not parts:
        none = np.zeros((len(IOUS), 0), bool)
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.float32), none, none, objects)
    image, score, hit, ignored = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    return Matches(image[order], score[order], hit[:, order], ignored[:, order], objects)


def _image(
    found: Detections, truth: Truth
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield (class, scores, hit, ignored) for every class detected in an image."""
    boxes = np.concatenate([truth.boxes.reshape(-1, 4), truth.ignored.reshape(-1, 4)])
    crowd = np.arange(len(boxes)) >= len(truth.boxes)
    overlaps = _overlaps(found.boxes, boxes, crowd)
    for label in np.unique(found.classes):
        own = np.flatnonzero(found.classes == label)
        own = own[np.argsort(-found.scores[own], kind="stable")][:MOST]
        real = np.flatnonzero(truth.classes == label)
        candidates = np.concatenate([real, np.flatnonzero(crowd)])
        hit, ignored = _greedy(overlaps[np.ix_(own, candidates)], len(real))
        yield int(label), found.scores[own], hit, ignored


def _overlaps(found: NDArray[np.float32], truth: NDArray[np.float32], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the IoU (d, g) of xyxy boxes; beside a crowd, the share of the detection that lies inside it."""
    # widths are rounded to float32 before anything else, as torchmetrics does: a box may lie on a threshold
    sides = (np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1).astype(np.float64).T for b in (found, truth))
    (left, top, wide, high), (x, y, w, h) = sides
    across = np.minimum((left + wide)[:, None], x + w) - np.maximum(left[:, None], x)
    down = np.minimum((top + high)[:, None], y + h) - np.maximum(top[:, None], y)
    shared = np.clip(across, 0, None) * np.clip(down, 0, None)
    area = (wide * high)[:, None]
    union = np.where(crowd, area, area + w * h - shared)
    result: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def _greedy(overlaps: NDArray[np.float64], real: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (hit, ignored), each (10, d), for the IoU (d, g) with ``real`` objects, then regions to be ignored."""
    hit = np.zeros((len(IOUS), len(overlaps)), bool)
    ignored = np.zeros_like(hit)
    free = np.ones((len(IOUS), real), bool)
    level = np.minimum(IOUS, 1 - 1e-10)[:, None]
    for index in np.flatnonzero((overlaps >= IOUS[0]).any(1)):
        row = overlaps[index]
        value = np.where(free & (row[:real] >= level), row[:real], -1.0)
        if real:
            best = real - 1 - value[:, ::-1].argmax(1)  # of equal ones the last, as COCO
            hit[:, index] = value[np.arange(len(IOUS)), best] >= 0
            free[hit[:, index], best[hit[:, index]]] = False
        ignored[:, index] = ~hit[:, index] & (row[real:] >= level).any(1)
    return hit, ignored


def resamples(images: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return ``count`` bootstrap resamples of the images as how often each is drawn, (count, images).

    Equal arguments give equal resamples, so that two models on the same images can be paired draw by draw.
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=count)


def weighted_map(matches: Sequence[Matches], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return COCO's mAP50-95, (B,), of the images weighted by each row of ``weights`` (B, n), integers.

    A class of which a weighting leaves no object is left out of that mean, and NaN says that none was left at all.
    Weighting an image by k equals listing it k times.
    """
    columns = np.ascontiguousarray(weights.T, dtype=np.float64)
    values = np.stack([weighted_ap(one, columns) for one in matches])
    counted = ~np.isnan(values)
    total = np.where(counted, values, 0.0).sum(0)
    result: NDArray[np.float64] = np.full(len(weights), np.nan)
    np.divide(total, counted.sum(0), out=result, where=counted.any(0))
    return result


def weighted_ap(matches: Matches, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one class's average precision over ``IOUS``, (B,), for the images' weights in columns, (n, B).

    NaN where no object is left. Precision is COCO's: the highest at this or a higher recall, read at ``RECALLS``.
    It changes only where an object is found, so only those ranks are looked at.
    """
    objects = matches.objects @ columns
    total = np.zeros(columns.shape[1])
    for hit, ignored in zip(matches.hit, matches.ignored, strict=True):
        ranks = np.flatnonzero(hit)
        if not len(ranks):
            continue
        counted = np.flatnonzero(~ignored)
        until = np.searchsorted(ranks, counted)  # the first hit at or after each detection that counts
        counted, until = counted[until < len(ranks)], until[until < len(ranks)]
        arriving = scipy.sparse.csr_array(
            (np.ones(len(until)), (until, matches.image[counted])), shape=(len(ranks), len(columns))
        )
        width = max(1, _CELLS // len(ranks))
        for start in range(0, columns.shape[1], width):
            part = slice(start, start + width)
            total[part] += _interpolated(
                np.cumsum(columns[matches.image[ranks], part], axis=0),
                np.cumsum(arriving @ columns[:, part], axis=0),
                objects[part],
            )
    result: NDArray[np.float64] = np.where(objects > 0, total / len(IOUS), np.nan)
    return result


def _interpolated(
    hits: NDArray[np.float64], seen: NDArray[np.float64], objects: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the 101-point average precision (B,) from the hits and detections up to each hit, (h, B)."""
    precision = hits / np.maximum(seen, 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = _reached(hits / np.maximum(objects, 1))
    reached[1:] -= reached[:-1].copy()
    result: NDArray[np.float64] = np.einsum("hb,hb->b", reached, precision) / len(RECALLS)
    return result


def _reached(recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many of ``RECALLS`` do not exceed each recall: exactly, as a table of doubles is compared with."""
    step = np.minimum((recall * (len(RECALLS) - 1)).astype(np.intp), len(RECALLS) - 2)
    result: NDArray[np.float64] = step + (RECALLS[step] <= recall) + (RECALLS[step + 1] <= recall).astype(np.float64)
    return result
