from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from box_makers import found, scene, truth

from edgeprune.errors import BadData, MissingPackage
from edgeprune.tasks.boxes.matching import match, resamples, weighted_map
from edgeprune.tasks.boxes.precision import precision

UNIT, FAR = [0, 0, 10, 10], [40, 40, 50, 50]


def test_values_that_can_be_worked_out_by_hand() -> None:
    # class 0: one of two objects, found up to an IoU of 0.80: 51 of 101 recalls at 7 of 10 thresholds. Class 1: all
    seen = [found([[0, 0, 10, 8]], [0.9], [0]), found([FAR], [0.4], [1])]
    real = [truth([UNIT, FAR], [0, 0]), truth([FAR], [1])]
    judged = precision(seen, real, 3)
    assert judged.per_class == pytest.approx({0: 0.7 * 51 / 101, 1: 1.0})
    assert judged.map == pytest.approx((0.7 * 51 / 101 + 1) / 2)
    assert judged.map50 == pytest.approx((51 / 101 + 1) / 2)
    assert judged.replicates is None


def test_a_class_without_objects_does_not_count() -> None:
    seen = [found([UNIT, UNIT], [0.9, 0.8], [0, 1])]
    judged = precision(seen, [truth([UNIT], [0])], 2)
    assert judged.map == judged.map50 == 1.0 and judged.per_class == {0: 1.0}


def test_what_lies_in_an_ignored_region_costs_nothing() -> None:
    seen = [found([FAR, UNIT], [0.9, 0.5], [0, 0])]
    assert precision(seen, [truth([UNIT], [0])], 1).map == pytest.approx(0.5)
    assert precision(seen, [truth([UNIT], [0], [[30, 30, 60, 60]])], 1).map == 1.0


def test_f1_of_every_image() -> None:
    seen = [
        found([UNIT, FAR, FAR], [0.9, 0.6, 0.1], [0, 1, 0]),  # a hit, a wrong class, one too unsure
        found(),
        found([FAR], [0.9], [0]),
        found([FAR], [0.2], [0]),
        found([FAR], [0.9], [0]),
    ]
    real = [truth([UNIT, FAR], [0, 0]), truth([UNIT], [1]), truth(), truth(), truth((), (), [FAR])]
    judged = precision(seen, real, 2)
    assert judged.per_image.tolist() == pytest.approx([2 * 1 / (2 * 1 + 1 + 1), 0.0, 0.0, 1.0, 1.0])
    assert judged.per_image.dtype == np.float64
    assert precision(seen, real, 2, confidence=0.15).per_image[3] == 0.0


def test_plans_scored_at_once_leave_standard_output_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchmetrics redirects it, in whichever thread: one metric at a time, or the program's own words are lost."""
    from torchmetrics.detection import MeanAveragePrecision

    met, usual = threading.Barrier(2), MeanAveragePrecision.compute
    together = []

    def compute(metric: MeanAveragePrecision) -> object:
        with suppress(threading.BrokenBarrierError):
            together.append(met.wait(0.2))
        return usual(metric)

    monkeypatch.setattr(MeanAveragePrecision, "compute", compute)
    before, (seen, real) = sys.stdout, scene(4, 3)
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: precision(seen, real, 4).map, range(2))
    assert first == second and not together and sys.stdout is before


def test_replicates_are_paired_by_seed() -> None:
    seen, real = scene(12, 3)
    judged = precision(seen, real, 4, replicates=40, seed=7)
    assert judged.replicates is not None and judged.replicates.shape == (40,)
    np.testing.assert_array_equal(judged.replicates, weighted_map(match(seen, real, 4), resamples(12, 40, 7)))
    again = precision(seen, real, 4, replicates=40, seed=7)
    np.testing.assert_array_equal(judged.replicates, again.replicates)
    assert judged.map == pytest.approx(judged.replicates.mean(), abs=0.1)
    assert judged.replicates.std() > 0


def test_images_without_any_object_have_no_map() -> None:
    with pytest.raises(BadData) as caught:
        precision([found([UNIT], [0.9], [0])], [truth((), (), [UNIT])], 1)
    assert str(caught.value) == (
        "none of these 1 images holds a labelled object, so there is no mAP; use images with objects"
    )


def test_nothing_found_is_zero() -> None:
    judged = precision([found()], [truth([UNIT], [0])], 1, replicates=3)
    assert judged.map == judged.map50 == 0.0 and judged.per_class == {0: 0.0}
    assert judged.replicates is not None and judged.replicates.tolist() == [0, 0, 0]


@pytest.mark.parametrize("package", ["torchmetrics.detection", "faster_coco_eval"])
def test_it_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage) as caught:
        precision([found()], [truth([UNIT], [0])], 1)
    assert str(caught.value) == (
        "measuring mAP needs torchmetrics and faster-coco-eval; install it with: pip install 'edgeprune[detection]'"
    )


@pytest.mark.parametrize("classes", [4, 80])
def test_a_thousand_resamples_are_a_matter_of_a_second(classes: int) -> None:
    seen, real = scene(200, 1, classes, 200)
    start = time.process_time()
    weighted_map(match(seen, real, classes), resamples(200, 1000, 0))
    assert time.process_time() - start < 5  # 0.5 s on an idle core: a loop over resamples takes minutes
