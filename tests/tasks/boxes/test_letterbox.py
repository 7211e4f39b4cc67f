import numpy as np
import pytest
import toy_boxes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from edgeprune.errors import BadData, BadOption
from edgeprune.tasks.boxes import dataset
from edgeprune.tasks.boxes.letterbox import Letterbox, Placement, letterbox
from edgeprune.tasks.boxes.pictures import Pictures

SIDES = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [  # (width, height), (H, W), (scale, left, top, scaled width, scaled height) as the official letterbox gives
        ((1242, 375), (192, 640), (192 / 375, 2, 0, 636, 192)),
        ((1224, 370), (192, 640), (192 / 370, 2, 0, 635, 192)),
        ((640, 480), (320, 320), (0.5, 0, 40, 320, 240)),
        ((480, 357), (320, 320), (320 / 480, 0, 41, 320, 238)),
        ((333, 500), (640, 640), (1.28, 107, 0, 426, 640)),
        ((20, 10), (320, 320), (16, 0, 80, 320, 160)),
        ((5000, 2), (64, 64), (64 / 5000, 0, 31, 64, 1)),
    ],
)
def test_places_as_the_official_letterbox(size, target, expected):
    place = Placement.of(*size, *target)
    assert (place.scale, place.left, place.top, *place.scaled) == expected
    assert (place.width, place.height) == size


@given(SIDES, SIDES, SIDES, SIDES)
def test_the_image_always_fits_and_touches_two_edges(width, height, input_height, input_width):
    place = Placement.of(width, height, input_height, input_width)
    scaled_width, scaled_height = place.scaled
    assert place.left >= 0 and place.left + scaled_width <= input_width
    assert place.top >= 0 and place.top + scaled_height <= input_height
    assert scaled_width == input_width or scaled_height == input_height
    assert abs(input_width - scaled_width - 2 * place.left) <= 1 and input_width - scaled_width >= 2 * place.left


@given(SIDES, SIDES, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4))
def test_boxes_go_there_and_back(width, height, fractions):
    place = Placement.of(width, height, 192, 640)
    boxes = (np.array(fractions).reshape(-1, 4) * [width, height, width, height]).astype(np.float32)
    there = place.forward(boxes)
    assert there.dtype == np.float32 and there.shape == boxes.shape
    back = place.backward(there)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, boxes, atol=1e-3 * max(width, height))


def test_backward_clips_to_the_image():
    place = Placement.of(100, 50, 64, 64)
    everything = place.backward(np.array([[-10, -10, 74, 74]], np.float32))
    assert everything.tolist() == [[0, 0, 100, 50]]


@pytest.mark.parametrize("size", [(121, 37), (31, 90), (12, 12)])
def test_a_drawn_rectangle_lies_where_its_box_goes(size):
    image, box = Image.new("RGB", size), (size[0] // 4, size[1] // 3, size[0] // 2, size[1] - 2)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), (255, 0, 0))
    pixels, place = letterbox(image, 96, 160)
    assert pixels.shape == (3, 96, 160) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    rows, columns = np.nonzero((pixels[0] > 127) & (pixels[1] < 60))
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(place.forward(np.array([box], np.float32))[0], drawn, atol=1.0)


def test_what_is_left_free_is_grey():
    pixels, _ = letterbox(Image.new("RGB", (20, 10), (1, 2, 3)), 20, 20)
    assert (pixels[:, :5] == 114).all() and (pixels[:, 15:] == 114).all()
    assert (pixels[:, 5:15] == np.array([1, 2, 3])[:, None, None]).all()
    assert (letterbox(Image.new("RGB", (20, 10)), 20, 20, fill=7)[0][:, :5] == 7).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_every_colour_mode_becomes_rgb(mode):
    pixels, _ = letterbox(Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode), 16, 16)
    assert pixels.shape == (3, 16, 16) and pixels.min() == 255


@pytest.mark.parametrize("text", ["letterbox", "letterbox 256", "letterbox -1", "squash bilinear", "letterbox 1.5", ""])
def test_a_letterbox_that_is_not_understood(text):
    with pytest.raises(BadOption) as caught:
        Letterbox.parse(text)
    assert str(caught.value) == (
        f"resize {text!r} is not understood by detection; give 'letterbox 114' (or another grey value from 0 to 255)"
    )


def test_the_text_form():
    assert Letterbox.parse("letterbox 114") == Letterbox() and Letterbox.parse("letterbox 0").fill == 0


def test_pictures_hold_pixels_and_labels_at_the_input_size(tmp_path):
    source = dataset.read(toy_boxes.yolo(tmp_path))
    (tmp_path / "labels" / "train" / "train1.txt").write_text("")
    pictures = Pictures(dataset.read(tmp_path).train, 32, 32)
    assert len(pictures) == 3
    picture = pictures(0)
    assert picture.boxes.tolist() == [[8, 12, 24, 20]] and picture.classes.tolist() == [0]
    np.testing.assert_array_equal(picture.pixels, pictures.pixels(np.array([2, 0]))[1])
    assert (picture.pixels[:, 8:24] == 9).all() and (picture.pixels[:, :8] == 114).all()
    assert (pictures.placements[0].width, pictures.placements[0].height) == source.train.sizes[0]
    none = pictures(1)
    assert none.boxes.shape == none.ignored.shape == (0, 4) and none.boxes.dtype == none.ignored.dtype == np.float32
    assert none.classes.shape == (0,) and none.classes.dtype == np.int64
    picture.pixels[:] = 0
    assert pictures(0).pixels.max() == 114


def test_pictures_are_kept_while_memory_lasts(tmp_path):
    found = dataset.read(toy_boxes.yolo(tmp_path)).train
    pictures = Pictures(found, 32, 32, cache_bytes=2 * 3 * 32 * 32)
    pictures.pixels(np.arange(3))
    for file in found.files:
        file.write_bytes(b"")
    assert pictures(0).pixels.max() == pictures(1).pixels.max() == 114
    with pytest.raises(BadData) as caught:
        pictures(2)
    assert str(caught.value) == f"{found.files[2]} cannot be decoded as an image; replace or remove it"
