from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from box_makers import found, scene, truth

from edgeprune.tasks.boxes.matching import IOUS, MOST, match, resamples, weighted_map
from edgeprune.tasks.boxes.precision import precision

UNIT = [0, 0, 10, 10]


def hits(detections: object, real: object) -> tuple[list[int], list[int]]:
    """Return at how many thresholds each detection of class 0 hits and is ignored."""
    [one] = match([detections], [real], 1)  # type: ignore[list-item]
    return one.hit.sum(0).tolist(), one.ignored.sum(0).tolist()


def test_a_hit_needs_the_overlap() -> None:
    # an IoU of 0.8 holds at 0.50 to 0.80, which are seven thresholds
    assert hits(found([[0, 0, 10, 8], [20, 0, 30, 8]], [0.9, 0.8], [0, 0]), truth([UNIT], [0])) == ([7, 0], [0, 0])


def test_an_object_is_found_once_by_the_highest_score() -> None:
    boxes = [[0, 0, 10, 8], UNIT, [0, 0, 10, 9]]
    assert hits(found(boxes, [0.5, 0.6, 0.7], [0, 0, 0]), truth([UNIT], [0])) == ([9, 1, 0], [0, 0, 0])
    # in order of score: 0.9 takes it up to 0.90, the full one what is left, the last nothing


def test_a_detection_takes_the_object_it_overlaps_most() -> None:
    real = truth([[0, 0, 10, 8], UNIT], [0, 0])
    assert hits(found([UNIT, [0, 0, 10, 8]], [0.9, 0.8], [0, 0]), real) == ([10, 10], [0, 0])


def test_of_two_equal_overlaps_the_last_object_is_taken_as_by_coco() -> None:
    real = truth([UNIT, [4, 0, 14, 10]], [0, 0])
    assert hits(found([[2, 0, 12, 10], UNIT], [0.9, 0.8], [0, 0]), real) == ([4, 10], [0, 0])


def test_ignored_regions_forgive_any_number_but_never_an_object() -> None:
    real = truth([UNIT], [0], [[0, 0, 100, 100]])
    inside = [[50, 50, 60, 60], [50, 50, 60, 60], [95, 0, 105, 10], [98, 0, 108, 10], UNIT]
    counted, forgiven = hits(found(inside, [0.9, 0.8, 0.7, 0.6, 0.5], [0] * 5), real)
    assert counted == [0, 0, 0, 0, 10]
    assert forgiven == [10, 10, 1, 0, 0]  # the third lies half inside, which is enough at 0.50 alone


def test_ignored_regions_are_of_every_class() -> None:
    one, other = match([found([UNIT, UNIT], [0.9, 0.8], [0, 1])], [truth((), (), [UNIT])], 2)
    assert one.ignored.all() and other.ignored.all() and not one.objects.any()


def test_only_the_highest_hundred_of_a_class_count() -> None:
    count = MOST + 20
    boxes = np.tile([[50.0, 50, 60, 60]], (count, 1))
    boxes[-1] = UNIT
    [one] = match([found(boxes, np.linspace(1, 0.5, count), [0] * count)], [truth([UNIT], [0])], 1)
    assert one.hit.shape == (len(IOUS), MOST) and not one.hit.any()


@pytest.mark.parametrize("seed", range(12))
def test_it_is_torchmetrics_to_the_last_digit(seed: int) -> None:
    n, classes = 9, 4
    seen, real = scene(n, seed, classes, 150 if seed % 4 == 0 else 20)
    expected = precision(seen, real, classes)
    [own] = weighted_map(match(seen, real, classes), np.ones((1, n), int))
    assert own == pytest.approx(expected.map, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_weights_are_repetitions(seed: int) -> None:
    """What torchmetrics says of an image listed k times is what a weight of k gives."""
    n, classes = 8, 4
    seen, real = scene(n, seed + 100, classes)
    # distinct scores, as a resample has no order between a drawn image's copies and its equals
    rng = np.random.default_rng(seed)
    seen = [dataclasses.replace(s, scores=np.sort(rng.random(len(s)).astype(np.float32))[::-1].copy()) for s in seen]
    weights = resamples(n, 5, seed)
    found_all = weighted_map(match(seen, real, classes), weights)
    for row, own in zip(weights, found_all, strict=True):
        chosen = np.repeat(np.arange(n), row)
        if not any(len(real[i].classes) for i in chosen):
            assert np.isnan(own)
            continue
        again = precision([seen[i] for i in chosen], [real[i] for i in chosen], classes)
        assert own == pytest.approx(again.map, abs=1e-9)


def test_a_resample_leaves_out_classes_it_has_not_drawn() -> None:
    seen = [found([UNIT], [0.9], [0]), found([[20, 20, 30, 30]], [0.9], [1])]
    real = [truth([UNIT], [0]), truth([[20, 20, 30, 28]], [1])]
    weights = np.array([[1, 1], [2, 0], [0, 2], [0, 0]])
    np.testing.assert_allclose(weighted_map(match(seen, real, 3), weights), [(1 + 0.7) / 2, 1, 0.7, np.nan])


def test_resamples_are_the_same_for_every_model() -> None:
    drawn = resamples(20, 300, 1)
    assert drawn.shape == (300, 20) and (drawn.sum(1) == 20).all()
    np.testing.assert_array_equal(drawn, resamples(20, 300, 1))
    assert (drawn != resamples(20, 300, 2)).any()
    assert np.abs(drawn.mean(0) - 1).max() < 0.3


def test_many_replicates_in_pieces_equal_few(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = scene(10, 5)
    matches, weights = match(seen, real, 4), resamples(10, 50, 0)
    whole = weighted_map(matches, weights)
    monkeypatch.setattr("edgeprune.tasks.boxes.matching._CELLS", 40)
    np.testing.assert_array_equal(weighted_map(matches, weights), whole)
