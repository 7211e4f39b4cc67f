import re
from pathlib import Path

import numpy as np
import pytest
import toy_data

from edgeprune.errors import BadData
from edgeprune.tasks import sources
from edgeprune.tasks.sampling import halves


def refused(path: Path, message: str) -> None:
    with pytest.raises(BadData) as caught:
        sources.read(path)
    assert str(caught.value).replace(str(path), "PATH") == message


def test_relative_paths_are_looked_up_in_the_data_folder_too(tmp_path, monkeypatch):
    (tmp_path / "data" / "set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    with pytest.raises(BadData, match="there is no set; check --data, or name the folder of your datasets in EDGEPR"):
        sources.resolve(Path("set"))
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "data"))
    assert sources.resolve(Path("set")) == tmp_path / "data" / "set"
    with pytest.raises(BadData, match="there is no sat, neither here nor in EDGEPRUNE_DATA"):
        sources.resolve(Path("sat"))
    (tmp_path / "set").mkdir()
    assert sources.resolve(Path("set")) == Path("set")


def test_an_image_tree(tmp_path):
    found = sources.read(toy_data.tree(tmp_path / "t", each=2))
    assert found.classes == ("ant", "bee") and [f.name for f in found.evaluation] == ["val/"]
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    assert [f.parent.name for f in found.train.files] == ["ant", "ant", "bee", "bee"]


def test_val_beside_test_are_two_splits_and_test_alone_is_halved(tmp_path):
    both = sources.read(toy_data.tree(tmp_path / "a", ("train", "val", "test")))
    alone = sources.read(toy_data.tree(tmp_path / "b", ("train", "test")))
    assert [f.name for f in both.evaluation] == ["val/", "test/"]
    assert [f.name for f in alone.evaluation] == ["test/"]


def test_validation_may_lack_a_class_without_shifting_the_labels(tmp_path):
    toy_data.tree(tmp_path / "t", ("train",), ("ant", "bee", "cat"))
    toy_data.tree(tmp_path / "t", ("val",), ("bee", "cat"))
    assert np.unique(sources.read(tmp_path / "t").evaluation[0].labels).tolist() == [1, 2]


def test_broken_trees(tmp_path):
    refused(tmp_path, f"PATH is empty; {sources.LAYOUTS}")
    (tmp_path / "readme.txt").touch()
    refused(tmp_path, f"PATH holds no dataset; {sources.LAYOUTS}")
    (tmp_path / "train").mkdir()
    refused(tmp_path, f"PATH/train holds no class folders; {sources.LAYOUTS}")
    toy_data.tree(tmp_path, ("train",))
    refused(tmp_path, f"PATH has train/ but no val/ (or test/) to evaluate on; {sources.LAYOUTS}")
    (tmp_path / "val").mkdir()
    refused(tmp_path, f"PATH/val holds no class folders; {sources.LAYOUTS}")
    (tmp_path / "val" / "cat").mkdir()
    refused(tmp_path, "class 'cat' is in PATH/val but not in train/; every class must be in both")
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "bee")
    (tmp_path / "val" / "bee" / "notes.txt").touch()
    with pytest.raises(BadData, match=r"val/bee holds no images \(\.jpg, .*\); fill or remove it"):
        sources.read(tmp_path)


def test_one_npz_grey_or_colour(tmp_path):
    content = toy_data.arrays(channels=1)
    content["x_train"] = content["x_train"][..., 0]
    content["y_test"] = content["y_test"].astype(np.uint8)
    found = sources.read(toy_data.write(tmp_path / "d.npz", **content))
    assert found.train.pixels.shape == (24, 8, 8, 1) and found.evaluation[0].labels.dtype == np.int64


def test_a_folder_of_npz(tmp_path):
    a = toy_data.arrays()
    toy_data.write(tmp_path / "my_train20k.npz", x=a["x_train"], y=a["y_train"], index=np.arange(3))
    refused(tmp_path, f"PATH holds no *_test*.npz; {sources.LAYOUTS}")
    toy_data.write(tmp_path / "my_test.npz", x=a["x_test"], y=a["y_test"])
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert sources.read(tmp_path).classes == ("ant", "bee", "cat")
    (tmp_path / "classes.txt").write_text("ant\n")
    names = "PATH/classes.txt names 1 classes but x of my_train20k.npz holds labels up to 2; complete or remove it"
    refused(tmp_path, names)
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path, "PATH/classes.txt is not text; write one class name a line, or remove it")
    (tmp_path / "classes.txt").unlink()
    toy_data.write(tmp_path / "my_train2.npz", x=a["x_train"], y=a["y_train"])
    refused(tmp_path, "PATH holds 2 *_train*.npz files, my_train2.npz and my_train20k.npz among them; keep one")


LABELS = toy_data.arrays()["y_train"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"x_train": np.zeros((24, 8, 8, 3), np.float32)}, "PATH: x_train is float32; give pixels as uint8 in 0..255"),
        ({"x_train": np.zeros((24, 3, 8, 8), np.uint8)},
         "PATH: x_train has shape (24, 3, 8, 8); give (n, height, width), or with 1 or 3 channels at the end"),
        ({"x_train": np.zeros((24, 0, 8, 3), np.uint8)},
         "PATH: x_train has shape (24, 0, 8, 3); give (n, height, width), or with 1 or 3 channels at the end"),
        ({"y_train": LABELS.astype(float)}, "PATH: y_train is float64; give labels as whole numbers from 0"),
        ({"y_train": LABELS > 0}, "PATH: y_train is bool; give labels as whole numbers from 0"),
        ({"y_train": LABELS[:, None]}, "PATH: y_train has shape (24, 1); give one label an image, shape (n,)"),
        ({"y_train": LABELS[1:]}, "PATH: x_train holds 24 images but y_train 23 labels; give as many of each"),
        ({"y_train": LABELS - 1}, "PATH: y_train holds the label -1; labels are class numbers from 0 to below 1048576"),
        ({"y_train": LABELS + 2**40},
         f"PATH: y_train holds the label {2**40 + 2}; labels are class numbers from 0 to below 1048576"),
        ({"y_test": LABELS + 1},
         "label 3 occurs in x_test but never in x_train; every class that is evaluated must be trained on"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": LABELS[:0]},
         "PATH: x_test is empty; every split needs images"),
        ({"x_test": np.zeros((24, 9, 9, 3), np.uint8)},
         "the splits hold images of different shapes: 8x8x3 in x_train, 9x9x3 in x_test; bring them to one shape"),
        ({"y_test": None}, "PATH lacks y_test; it holds x_train, y_train, x_test"),
        ({"x_val": np.zeros((1, 8, 8, 3), np.uint8)},
         "PATH lacks y_val; it holds x_train, y_train, x_test, y_test, x_val"),
    ],
)
def test_broken_arrays(tmp_path, replaced, message):
    refused(toy_data.write(tmp_path / "d.npz", **toy_data.arrays(**replaced)), message)


def test_another_file_is_no_dataset(tmp_path):
    (tmp_path / "a.csv").touch()
    refused(tmp_path / "a.csv", f"PATH is not a dataset; {sources.LAYOUTS}")


def test_halves_share_every_class_and_alternate_the_spare_image():
    labels = np.repeat([0, 1, 2, 5], [5, 7, 4, 3])
    first, second = halves(labels, 0, "val/")
    assert sorted([*first, *second]) == list(range(19))
    assert np.bincount(labels[first]).tolist() == [2, 4, 2, 0, 0, 1]
    assert np.bincount(labels[second]).tolist() == [3, 3, 2, 0, 0, 2]


def test_a_single_image_cannot_be_halved():
    message = "class 1 has one image in val/, too few to halve it into a search and a test split"
    with pytest.raises(BadData, match=re.escape(message)):
        halves(np.array([0, 0, 1]), 0, "val/")
