import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import BadOption
from edgeprune.tasks.boxes.augment import Augment, augmented, mirrored, recoloured
from edgeprune.tasks.boxes.pictures import Picture

NOTHING = Augment(mosaic=0, scale=0, translate=0, flip=0, hue=0, saturation=0, value=0)
HEIGHT, WIDTH = 96, 160
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255))


class Drawn:
    """Pictures of one rectangle each, whose colour and class tell the picture and which is an ignored region too."""

    def __init__(self, boxes):
        self.boxes = boxes

    def __len__(self):
        return len(self.boxes)

    def __call__(self, index):
        pixels = np.zeros((3, HEIGHT, WIDTH), np.uint8)
        left, top, right, bottom = self.boxes[index]
        pixels[:, top:bottom, left:right] = np.array(COLOURS[index], np.uint8)[:, None, None]
        boxes = np.array([self.boxes[index]], np.float32)
        return Picture(pixels, boxes, np.array([index], np.int64), boxes.copy())


class InTurn(Drawn):
    """The same, but coloured in the order of reading, so that a picture read twice can be told apart."""

    def __init__(self, boxes):
        super().__init__(boxes)
        self.read = 0

    def __call__(self, index):
        self.read += 1
        return Drawn([self.boxes[index]] * self.read)(self.read - 1)


class Empty(Drawn):
    """Flat grey pictures without objects."""

    def __call__(self, index):
        none = np.zeros((0, 4), np.float32)
        return Picture(np.full((3, HEIGHT, WIDTH), 50 * index, np.uint8), none, np.zeros(0, np.int64), none)


BOXES = Drawn(
    [(40, 30, 90, 70), (10, 10, 60, 80), (80, 40, 150, 90), (30, 5, 130, 45), (5, 50, 50, 95), (60, 20, 99, 60)]
)


def coloured(pixels, colour):
    """The box around the pixels nearest to a colour, None where it is not to be seen."""
    near = (np.abs(pixels.astype(int) - np.array(colour)[:, None, None]) < 100).all(axis=0)
    rows, columns = np.nonzero(near)
    return None if len(rows) == 0 else [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def same(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(20))
def test_boxes_follow_what_is_drawn(mosaic, seed):
    options = Augment(mosaic=mosaic, hue=0, saturation=0, value=0)
    result = augmented(InTurn(BOXES.boxes), seed % 6, np.random.default_rng(seed), options)
    assert result.pixels.shape == (3, HEIGHT, WIDTH) and result.pixels.dtype == np.uint8
    assert result.boxes.dtype == result.ignored.dtype == np.float32 and result.classes.dtype == np.int64
    assert len(result.boxes) == len(result.classes)
    for number, box in zip(result.classes.tolist(), result.boxes, strict=True):
        np.testing.assert_allclose(coloured(result.pixels, COLOURS[number]), box, atol=2.0)


def test_what_the_former_test_compares_is_there():
    seen = [augmented(InTurn(BOXES.boxes), i % 6, np.random.default_rng(i), Augment(mosaic=1.0)) for i in range(20)]
    assert sum(len(picture.boxes) for picture in seen) > 30
    assert max(len(picture.boxes) for picture in seen) >= 3


def test_ignored_regions_go_where_boxes_go():
    for seed in range(10):
        result = augmented(BOXES, 0, np.random.default_rng(seed), Augment(mosaic=1.0))
        regions = {tuple(region) for region in result.ignored.tolist()}
        assert {tuple(box) for box in result.boxes.tolist()} <= regions


def test_all_amounts_at_zero_change_nothing():
    for index in range(6):
        assert same(augmented(BOXES, index, np.random.default_rng(0), NOTHING), BOXES(index))


def test_it_is_a_function_of_its_arguments():
    before = [BOXES(i) for i in range(6)]
    given_out = {}

    class Kept(Drawn):
        def __call__(self, index):
            return given_out.setdefault(index, super().__call__(index))

    kept = Kept(BOXES.boxes)
    first, second = (augmented(kept, 2, np.random.default_rng(5), Augment(mosaic=1.0, flip=1.0)) for _ in range(2))
    assert same(first, second)
    assert not same(first, augmented(kept, 2, np.random.default_rng(6), Augment(mosaic=1.0, flip=1.0)))
    assert all(same(picture, before[index]) for index, picture in given_out.items())


def test_a_mosaic_shows_four_and_its_own_image():
    flat = Empty(BOXES.boxes)
    options = Augment(mosaic=1.0, scale=0, translate=0, flip=0, hue=0, saturation=0, value=0)
    for seed in range(10):
        result = augmented(flat, 5, np.random.default_rng(seed), options)
        assert 250 in result.pixels and 114 not in result.pixels
        corners = {int(result.pixels[0, y, x]) for y in (0, -1) for x in (0, -1)}
        assert len(corners) > 1


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_pictures_without_objects_stay_whole(mosaic):
    result = augmented(Empty(BOXES.boxes), 0, np.random.default_rng(0), Augment(mosaic=mosaic))
    assert result.boxes.shape == result.ignored.shape == (0, 4) and result.classes.shape == (0,)
    assert result.boxes.dtype == result.ignored.dtype == np.float32 and result.classes.dtype == np.int64


def test_a_shrunken_image_leaves_grey():
    class Shrinking:
        """A generator whose every draw is the lowest."""

        def random(self):
            return 0.99

        def uniform(self, low, high, size=None):
            return low if size is None else np.full(size, low)

    options = Augment(mosaic=0, scale=0.5, translate=0, flip=0, hue=0, saturation=0, value=0)
    result = augmented(BOXES, 0, Shrinking(), options)
    assert (result.pixels[:, 0] == 114).all() and (result.pixels[:, :, -1] == 114).all()
    assert result.boxes.tolist() == [[60, 39, 85, 59]]


@pytest.mark.parametrize(
    ("box", "kept"),
    [((-90, 20, 10, 40), True), ((-91, 20, 9, 40), False), ((50, 50, 51.9, 80), False), ((50, 50, 52, 52), True),
     ((50, -1000, 60, 0), False)],
)
def test_slivers_are_dropped(box, kept):
    class One(Drawn):
        def __call__(self, index):
            boxes = np.array([box, (60, 60, 90, 90)], np.float32)
            return Picture(np.zeros((3, HEIGHT, WIDTH), np.uint8), boxes, np.array([3, 4], np.int64), boxes)

    result = augmented(One([box]), 0, np.random.default_rng(0), NOTHING)
    assert result.classes.tolist() == ([3, 4] if kept else [4])
    assert len(result.boxes) == len(result.classes) and result.boxes[-1].tolist() == [60, 60, 90, 90]


def test_mirrored_twice_is_the_picture():
    once = mirrored(BOXES(1))
    assert once.boxes.tolist() == [[100, 10, 150, 80]]
    assert coloured(once.pixels, COLOURS[1]) == [100, 10, 150, 80]
    assert same(mirrored(once), BOXES(1))


def test_colours_change_as_asked():
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[0], pixels[1], pixels[2] = 200, 100, 100
    np.testing.assert_allclose(recoloured(pixels, 0, 0, 0)[:, 0, 0], [200, 100, 100], atol=2)
    np.testing.assert_allclose(recoloured(pixels, 0, 0, -0.5)[:, 0, 0], [100, 50, 50], atol=2)
    np.testing.assert_allclose(recoloured(pixels, 0, 0, 1)[:, 0, 0], [255, 128, 128], atol=2)
    np.testing.assert_allclose(recoloured(pixels, 0, -1, 0)[:, 0, 0], [200, 200, 200], atol=2)
    np.testing.assert_allclose(recoloured(pixels, 1 / 3, 0, 0)[:, 0, 0], [100, 200, 100], atol=5)
    np.testing.assert_allclose(recoloured(pixels, -1 / 3, 0, 0)[:, 0, 0], [100, 100, 200], atol=5)


def test_flips_and_mosaics_come_as_often_as_asked():
    options = Augment(mosaic=0, scale=0, translate=0, flip=0.25, hue=0, saturation=0, value=0)
    flipped = sum(
        not same(augmented(BOXES, 1, np.random.default_rng(seed), options), BOXES(1)) for seed in range(400)
    )
    assert 70 < flipped < 130


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [("mosaic", 1.1, "1"), ("scale", 1.0, "0.95"), ("hue", -0.1, "0.5"), ("flip", float("nan"), "1")],
)
def test_amounts_out_of_range(field, value, most):
    with pytest.raises(BadOption) as caught:
        Augment(**{field: value})
    assert str(caught.value) == f"augmentation: {field} must be a number from 0 to {most}, not {value}"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32), st.floats(0, 0.95), st.floats(0, 1))
def test_any_size_and_amount_gives_boxes_inside(height, width, seed, scale, translate):
    rng = np.random.default_rng(seed)

    class Noise(Drawn):
        def __call__(self, index):
            points = np.sort(rng.uniform(0, 1, (3, 2, 2)), axis=1).reshape(3, 4) * [width, height, width, height]
            boxes = points.astype(np.float32)
            return Picture(rng.integers(0, 256, (3, height, width), np.uint8), boxes, np.arange(3), boxes)

    result = augmented(Noise([0] * 4), 1, rng, Augment(mosaic=0.7, scale=scale, translate=translate))
    assert result.pixels.shape == (3, height, width)
    for boxes in (result.boxes, result.ignored):
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
    assert (result.boxes[:, 2:] - result.boxes[:, :2] >= 2).all()
