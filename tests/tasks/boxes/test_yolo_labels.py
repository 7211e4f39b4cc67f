import re

import numpy as np
import pytest
import toy_boxes
from hypothesis import given
from hypothesis import strategies as st
from toy_boxes import write

from edgeprune.errors import BadData
from edgeprune.tasks.boxes.mending import Mended
from edgeprune.tasks.boxes.yolo_labels import FORM, label_file, read_labels


def labels(tmp_path, text, mended=None, size=(100, 50)):
    return read_labels(write(tmp_path / "a.txt", text), ("ant", "bee"), size, mended or Mended())


def test_boxes_and_polygons(tmp_path):
    found = labels(tmp_path, "1 .5 .5 .2 .4\r\n\n0 0.1 0.2 0.3 0.2 0.25 0.8\n1.0 0 0 0.5 0 0.5 1 0 1\n")
    np.testing.assert_allclose(found.boxes, [[40, 15, 60, 35], [10, 10, 30, 40], [0, 0, 50, 50]], atol=1e-5)
    assert found.classes.tolist() == [1, 0, 1] and found.ignored.shape == (0, 4)


def test_an_empty_file_and_a_byte_order_mark(tmp_path):
    found = labels(tmp_path, " \n")
    assert found.boxes.shape == (0, 4) and found.boxes.dtype == np.float32
    assert found.classes.shape == (0,) and found.classes.dtype == np.int64
    assert labels(tmp_path, "\ufeff0 .5 .5 .2 .4").classes.tolist() == [0]


def test_what_is_mended_is_counted(tmp_path):
    mended = Mended()
    text = "0 0 0 .2 .4\n" * 2 + "1 0 0 .2 .4\n0 1 1 .5 .5\n0 1.2 .5 .1 .1\n0 .5 .5 0 .1\n0 .5 .5 1.004 1\n"
    found = labels(tmp_path, text, mended)
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 10], [0, 0, 10, 10], [75, 37.5, 100, 50], [0, 0, 100, 50]])
    assert found.classes.tolist() == [0, 1, 0, 0]
    assert mended.notes("val") == [
        "val: 4 boxes of 1 label file reached outside their image and were clipped",
        "val: 2 boxes of 1 label file were empty inside their image and were left out",
        "val: 1 box of 1 label file was there twice and was kept once",
    ]


def test_notes_count_files_and_images(tmp_path):
    mended = Mended(background=2)
    for name in "abc":
        read_labels(write(tmp_path / name, "0 0 .5 .5 .5\n" if name < "c" else ""), ("ant",), (10, 10), mended)
    assert mended.notes("train") == [
        "train: 2 boxes of 2 label files reached outside their image and were clipped",
        "train: 2 images have no label file and are taken as background",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 1 2 3", f"PATH, line 2 holds 4 values; {FORM}"),
        ("0", f"PATH, line 2 holds 1 value; {FORM}"),
        ("0 .1 .1 .1 .1 .9", f"PATH, line 2 holds 6 values; {FORM}"),
        ("0 .1 .1 .1 .1 .1 .1 .1", f"PATH, line 2 holds 8 values; {FORM}"),
        ("0 .1 .1 .1 a", "PATH, line 2: 'a' is not a number; mend the line or remove it"),
        ("ant .1 .1 .1 .1", "PATH, line 2: 'ant' is not a number; mend the line or remove it"),
        ("0 .1 .1 nan .1", "PATH, line 2: 'nan' is not a finite number; mend the line or remove it"),
        ("0 .1 .1 .1 -inf", "PATH, line 2: '-inf' is not a finite number; mend the line or remove it"),
        ("0 20 10 8 4", f"PATH, line 2: 20 is no fraction of the image but looks like pixels; {FORM}"),
        ("0 0 0 .5 .5 -3 0", f"PATH, line 2: -3 is no fraction of the image but looks like pixels; {FORM}"),
        ("2 .5 .5 .1 .1", "PATH, line 2: there is no class 2; names holds 2 classes, numbered from 0"),
        ("-1 .5 .5 .1 .1", "PATH, line 2: there is no class -1; names holds 2 classes, numbered from 0"),
        ("0.5 .5 .5 .1 .1", "PATH, line 2: 0.5 is not a class number; classes are whole numbers from 0"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(BadData) as caught:
        labels(tmp_path, f"{toy_boxes.LINE}{line}\n")
    assert str(caught.value).replace(str(tmp_path / "a.txt"), "PATH") == message


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\x80\x81")
    with pytest.raises(BadData, match=re.escape(f"{tmp_path / 'a.txt'} is not text; replace or remove it")):
        read_labels(tmp_path / "a.txt", ("ant",), (10, 10), Mended())


@given(st.text(alphabet="0123456789.-e \n\tna_x", max_size=60))
def test_any_text_is_labels_inside_the_image_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    try:
        found = labels(folder, text, size=(64, 32))
    except BadData as error:
        assert str(error).startswith(f"{folder / 'a.txt'}, line ")
        return
    assert (found.boxes >= 0).all() and (found.boxes <= (64, 32, 64, 32)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all() and set(found.classes.tolist()) <= {0, 1}


def test_labels_lie_beside_the_last_images_folder_or_the_image(tmp_path):
    image = tmp_path / "images" / "images" / "train" / "a.b.png"
    assert label_file(image) == tmp_path / "images" / "labels" / "train" / "a.b.txt"
    assert label_file(tmp_path / "train" / "a.png") == tmp_path / "train" / "a.txt"
    beside = write(image.with_suffix(".txt"), "")
    assert label_file(image) == beside
    apart = write(tmp_path / "images" / "labels" / "train" / "a.b.txt", "")
    assert label_file(image) == apart
