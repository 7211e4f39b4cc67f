from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from edgeprune.errors import MissingPackage
from edgeprune.tasks.boxes.suppression import Suppression

BOXES = torch.tensor([[[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 9.0]]])


def scores(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([rows])


def test_overlapping_boxes_of_one_class_fall_and_of_others_stay() -> None:
    [found] = Suppression()(BOXES, scores((0.9, 0.0), (0.8, 0.0), (0.3, 0.0), (0.0, 0.7)))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found.classes.tolist() == [0, 1, 0]
    assert found.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]
    assert (found.boxes.dtype, found.scores.dtype, found.classes.dtype) == (np.float32, np.float32, np.int64)


def test_every_class_above_the_threshold_counts() -> None:
    [found] = Suppression(confidence=0.25)(BOXES, scores((0.9, 0.3), (0.0, 0.0), (0.25, 0.26), (0.0, 0.0)))
    assert list(zip(found.classes.tolist(), found.scores.round(2).tolist(), strict=True)) == [
        (0, pytest.approx(0.9)),
        (1, pytest.approx(0.3)),
        (1, pytest.approx(0.26)),
    ]  # 0.25 is not above it


def test_the_threshold_of_overlap_decides() -> None:
    overlap = 9 / 11  # of the first two boxes
    both = scores((0.9, 0.0), (0.8, 0.0), (0.0, 0.0), (0.0, 0.0))
    assert len(Suppression(iou=overlap + 0.01)(BOXES, both)[0]) == 2
    assert len(Suppression(iou=overlap - 0.01)(BOXES, both)[0]) == 1


def test_the_highest_are_kept() -> None:
    boxes = torch.arange(20.0)[:, None] * 30 + torch.tensor([0, 0, 10, 10.0])
    rising = (torch.arange(20.0) / 20 + 0.01)[:, None]
    [found] = Suppression(most=3)(boxes[None], rising[None])
    assert found.boxes[:, 0].tolist() == [570, 540, 510]
    [found] = Suppression(candidates=2)(boxes[None], rising[None])
    assert found.boxes[:, 0].tolist() == [570, 540]


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.arange(2000.0)[:, None] * 30 + torch.tensor([0, 0, 10, 10.0])
    equal = torch.full((1, 2000, 3), 0.5)
    [found] = Suppression(most=3000)(boxes[None], equal)
    assert found.boxes[:, 0].tolist() == [i * 30.0 for i in range(1000) for _ in range(3)]
    assert found.classes.tolist() == [0, 1, 2] * 1000


def test_classes_stay_apart_left_of_the_image() -> None:
    # a box of class 1 whose negative corner, shifted by the width of all, would meet one of class 0
    boxes = torch.tensor([[[90, 90, 100, 100], [-11, -11, -1, -1.0]]])
    [found] = Suppression()(boxes, scores((0.9, 0.0), (0.0, 0.8)))
    assert len(found) == 2


def test_nothing_is_found_in_nothing() -> None:
    nothing, again = Suppression()(BOXES.repeat(2, 1, 1), torch.zeros(2, 4, 2))
    assert nothing.boxes.shape == (0, 4) and len(nothing) == len(again) == 0
    assert nothing.boxes.dtype == np.float32 and nothing.classes.dtype == np.int64
    assert Suppression()(torch.zeros(0, 4, 4), torch.zeros(0, 4, 2)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.5}, "confidence is a fraction in [0, 1], not 1.5"),
        ({"iou": -0.1}, "iou is a fraction in [0, 1], not -0.1"),
        ({"most": 0}, "most must be at least 1, not 0"),
        ({"candidates": 0}, "candidates must be at least 1, not 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Suppression(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    with pytest.raises(MissingPackage) as caught:
        Suppression()(BOXES, torch.ones(1, 4, 1))
    assert str(caught.value) == (
        "suppressing overlapping boxes needs torchvision; install it with: pip install 'edgeprune[detection]'"
    )
