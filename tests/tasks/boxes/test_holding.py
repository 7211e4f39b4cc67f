"""Splits that nobody drew: what is held out of train, and the halves of what judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import BadData
from edgeprune.tasks.boxes.annotations import Found, Labels
from edgeprune.tasks.boxes.holding import halves, held_out


def split(classes: Sequence[Sequence[int]], drives: Sequence[str] = (), name: str = "train") -> Found:
    """Return a split whose image i shows objects of ``classes[i]``."""
    labels = tuple(
        Labels(np.zeros((len(c), 4), np.float32), np.array(c, np.int64), np.zeros((0, 4), np.float32)) for c in classes
    )
    count = len(labels)
    files = tuple(Path(f"{i:04d}.png") for i in range(count))
    return Found(name, files, labels, tuple(drives) or ("",) * count, ((8, 8),) * count)


def refused(message: str, act: object, *arguments: object) -> None:
    with pytest.raises(BadData) as caught:
        act(*arguments)  # type: ignore[operator]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("total", "held"), [(4, 2), (5, 2), (150, 75), (199, 99), (200, 100), (400, 100), (500, 100), (501, 100),
                        (1000, 200), (1503, 301)],
)  # fmt: skip
def test_a_fifth_but_at_least_a_hundred_and_at_most_a_half(total: int, held: int) -> None:
    train, search = held_out(split([[0]] * total), 0)
    assert (len(train.files), len(search.files)) == (total - held, held)
    assert not set(train.files) & set(search.files) and len({*train.files, *search.files}) == total


def test_the_seed_draws_and_the_names_say_so() -> None:
    found = split([[0]] * 300)
    train, search = held_out(found, 1)
    assert held_out(found, 1)[1].files == search.files != held_out(found, 2)[1].files
    assert train.name == "train, without those held out"
    assert search.name == "held out of train, no drives known, seed 1; apart from train"
    assert list(search.files) == sorted(search.files), "in the order of the split"


@pytest.mark.parametrize("seed", range(5))
def test_no_drive_is_divided(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drives = np.repeat([f"drive {i}" for i in range(30)], rng.integers(1, 40, 30))
    drives = drives[rng.permutation(len(drives))].tolist()
    train, search = held_out(split([[0]] * len(drives), drives), seed)
    assert not set(train.drives) & set(search.drives)
    wanted = min(max(100, round(0.2 * len(drives))), len(drives) // 2)
    assert 0.5 * wanted <= len(search.files) <= 1.2 * wanted
    assert search.name == f"held out of train, by drive, seed {seed}; apart from train"


@pytest.mark.parametrize("seed", range(6))
def test_a_drive_that_is_too_long_stays_in_train(seed: int) -> None:
    drives = ["long"] * 300 + [f"drive {i // 2}" for i in range(200)]
    _, search = held_out(split([[0]] * 500, drives), seed)
    assert "long" not in search.drives and len(search.files) == 100


@pytest.mark.parametrize("seed", range(8))
def test_one_image_with_objects_is_not_enough_for_both_sides(seed: int) -> None:
    with pytest.raises(BadData, match="train is too small to hold images out of it"):
        held_out(split([[0], *([[]] * 299)]), seed)


def test_images_without_a_drive_go_one_by_one() -> None:
    drives = ["a"] * 150 + [""] * 250
    train, search = held_out(split([[0]] * 400, drives), 0)
    assert len({d for d in (*train.drives, *search.drives) if d}) == 1
    assert not ({"a"} & set(train.drives) and {"a"} & set(search.drives))
    assert 100 <= len(search.files) <= 120


@pytest.mark.parametrize(
    ("classes", "drives", "images", "units"),
    [
        ([[0]], (), 1, 1),
        ([[0]] * 300, ["a"] * 300, 300, 1),
        ([[0], *([[]] * 299)], (), 300, 300),  # one of both sides would show nothing
    ],
    ids=["one image", "one drive", "one object"],
)
def test_what_cannot_be_divided(classes: list[list[int]], drives: Sequence[str], images: int, units: int) -> None:
    message = (
        f"train is too small to hold images out of it for judging inside the build ({images} images, {units} drives or "
        f"single images); add images, or give a third split (val beside test)"
    )
    refused(message, held_out, split(classes, drives), 0)


def test_halves_share_every_class_evenly() -> None:
    classes = [[0, 0, 1]] * 10 + [[1]] * 21 + [[2, 2]] * 8 + [[]] * 5
    first, second = halves(split(classes, name="val"), 3)
    assert {*first.files, *second.files} == set(split(classes).files) and not set(first.files) & set(second.files)
    for kind in (0, 1, 2):
        one, other = (sum(kind in part.classes for part in half.labels) for half in (first, second))
        assert abs(one - other) <= 1, kind
    assert abs(len(first.files) - len(second.files)) <= 1
    assert first.name == "one half of val, seed 3; apart from train"
    assert second.name == "the other half of val, seed 3; apart from train"
    again = halves(split(classes, name="val"), 3)
    assert (again[0].files, again[1].files) == (first.files, second.files)
    assert halves(split(classes, name="val"), 4)[0].files != first.files


@pytest.mark.parametrize("classes", [[[0]], [[0], []], [[], [1], []]])
def test_what_cannot_be_halved(classes: list[list[int]]) -> None:
    refused(
        "val is too small to be halved into a search and a test split; add images or give a third split (test beside "
        "val)",
        halves, split(classes, name="val"), 0,
    )  # fmt: skip
