import sys

import numpy as np
import pytest
import toy_boxes
from toy_boxes import refused, write

from edgeprune.errors import MissingPackage
from edgeprune.tasks.boxes import dataset
from edgeprune.tasks.images import EXTENSIONS

IMAGES = ", ".join(EXTENSIONS)
KEYS = "a dataset's yaml has the keys train, val and names (and path, test, nc where needed)"


def test_a_dataset_by_its_yaml_or_its_folder(tmp_path):
    file = toy_boxes.yolo(tmp_path)
    for path in (file, tmp_path):
        source = dataset.read(path)
        assert source.classes == ("ant", "bee") and source.notes == ()
        assert [f.name for f in (source.train, *source.evaluation)] == ["train", "val"]
        assert [f.name for f in source.train.files] == ["train0.png", "train1.png", "train2.png"]
        assert source.train.sizes == ((40, 20),) * 3 and source.train.drives == ("",) * 3
        labels = source.evaluation[0].labels[2]
        np.testing.assert_array_equal(labels.boxes, np.array([[10, 5, 30, 15]], np.float32))
        assert labels.boxes.dtype == np.float32 and labels.classes.dtype == np.int64
        assert labels.classes.tolist() == [0] and labels.ignored.shape == (0, 4)


@pytest.mark.parametrize("path", ["path: .\n", "", "path: ../set\n", "path: ABSOLUTE\n"])
def test_the_path_is_relative_to_the_yaml(tmp_path, monkeypatch, path):
    monkeypatch.chdir("/")
    text = toy_boxes.YAML.replace("path: .\n", path.replace("ABSOLUTE", str(tmp_path / "set")))
    assert len(dataset.read(toy_boxes.yolo(tmp_path / "set", text=text)).train.files) == 3


def test_the_path_is_looked_up_in_the_data_folder_too(tmp_path, monkeypatch):
    toy_boxes.yolo(tmp_path / "data" / "set")
    file = write(tmp_path / "a.yaml", toy_boxes.YAML.replace(".\n", "set\ndownload: echo never run\n", 1))
    message = (
        "ROOT/a.yaml says path: set, but there is no such folder beside it (its download entry is never run: download "
        "the dataset yourself); mend the path or put the dataset there"
    )
    refused(file, message, tmp_path)
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "data"))
    assert len(dataset.read(file).train.files) == 3


def test_roboflows_paths_from_a_folder_too_high(tmp_path):
    for split in ("train", "valid"):
        toy_boxes.image(tmp_path / split / "images" / f"{split}.jpg")
        write(tmp_path / split / "labels" / f"{split}.txt", toy_boxes.LINE)
    text = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['item']\n"
    source = dataset.read(write(tmp_path / "data.yaml", text))
    assert source.train.files == (tmp_path / "train" / "images" / "train.jpg",)
    assert len(source.train.labels[0].boxes) == 1


def test_names_as_a_dictionary_and_a_test_split(tmp_path):
    text = "{train: images/train, val: images/val, test: images/test, nc: 2, names: {1: 7, 0: ant}}"
    source = dataset.read(toy_boxes.yolo(tmp_path, ("train", "val", "test"), text=text))
    assert source.classes == ("ant", "7") and [f.name for f in source.evaluation] == ["val", "test"]


@pytest.mark.parametrize(
    ("test", "note"),
    [
        ("nowhere", "test is named but not there, and is left out"),
        ("bare", "test has no labels and is left out"),
        ("images/val", "test is the same as val and is left out"),
        ("", None),
    ],
)
def test_a_test_split_that_cannot_judge_is_left_out(tmp_path, test, note):
    toy_boxes.image(tmp_path / "bare" / "a.png")
    source = dataset.read(toy_boxes.yolo(tmp_path, text=f"{toy_boxes.YAML}test: {test}\n"))
    assert [f.name for f in source.evaluation] == ["val"] and source.notes == (() if note is None else (note,))


def test_list_files_and_lists_of_places(tmp_path):
    file = toy_boxes.yolo(tmp_path, ("a", "b", "val"))
    write(tmp_path / "lists" / "b.txt", "./../images/b/b2.png\n\nimages/b/b0.png\n../images/b/b2.png\n")
    write(file, toy_boxes.YAML.replace("train: images/train", "train: [images/a, lists/b.txt]"))
    source = dataset.read(file)
    assert [f.name for f in source.train.files] == ["a0.png", "a1.png", "a2.png", "b2.png", "b0.png"]
    assert source.notes == ("train: 1 image is named twice and used once",)
    assert all(len(labels.boxes) == 1 for labels in source.train.labels)


def test_folders_are_searched_in_depth_and_hidden_files_passed_over(tmp_path):
    file = toy_boxes.yolo(tmp_path)
    toy_boxes.image(tmp_path / "images" / "train" / "deep" / "er" / "z.JPG".lower())
    write(tmp_path / "images" / "train" / "._z.jpg", "not an image")
    source = dataset.read(file)
    assert source.train.files[0].name == "z.jpg" and len(source.train.files) == 4
    assert source.notes == ("train: 1 image has no label file and is taken as background",)
    assert source.train.labels[0].boxes.shape == (0, 4) and source.train.labels[0].boxes.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", "ROOT/data.yaml, line 2 is not valid YAML; mend it"),
        ("[" * 5000, "ROOT/data.yaml is not valid YAML; mend it"),
        ("!!python/object/apply:os.system [ls]", "ROOT/data.yaml, line 1 is not valid YAML; mend it"),
        ("3", f"ROOT/data.yaml holds no keys; {KEYS}"),
        ("names: [ant]\ntrain: a\n", f"ROOT/data.yaml says no val; {KEYS}"),
        ("names: [ant]\ntrain:\nval: a\n", f"ROOT/data.yaml says no train; {KEYS}"),
        ("train: a", "ROOT/data.yaml holds no names; list the classes' names in the order of their numbers"),
        ("names: ant", "ROOT/data.yaml holds no names; list the classes' names in the order of their numbers"),
        ("names: {1: a, 2: b}", "ROOT/data.yaml numbers its 2 names otherwise than 0 to 1; number them so"),
        ("names: {a: 0, b: 1}", "ROOT/data.yaml numbers its 2 names otherwise than 0 to 1; number them so"),
        ("names: [yes, no]", "ROOT/data.yaml has True among its names; write every name as text, in quotes"),
        ("nc: 3\nnames: [ant, bee]", "ROOT/data.yaml says nc: 3 but holds 2 names; make them agree"),
        ("kpt_shape: [17, 3]\n", "ROOT/data.yaml describes key points (kpt_shape), which are not boxes; give a dataset "
         "for detection"),
        ("path: [a]\ntrain: a\nval: b\nnames: [a]", "ROOT/data.yaml says path: ['a']; give a folder's name"),
        ("train: {a: 1}\nval: b\nnames: [a]", "ROOT/data.yaml says train: {'a': 1}; give a folder, a list file or a "
         "list of them"),
        ("train: gone\nval: gone\nnames: [a]\ndownload: |\n  import os\n", "train of ROOT/data.yaml: there is no "
         "ROOT/gone (its download entry is never run: download the dataset yourself); check the path"),
        ("train: empty\nval: gone\nnames: [a]", f"train of ROOT/data.yaml: ROOT/empty holds no images ({IMAGES}); "
         f"check the path"),
        ("train: data.yaml\nval: gone\nnames: [a]", "train of ROOT/data.yaml: ROOT/data.yaml is neither a folder of "
         "images nor a list of them (.txt)"),
        ("train: bad.txt\nval: gone\nnames: [a]", f"ROOT/bad.txt, line 2: labels/a.txt is no image ({IMAGES}); write "
         f"one image file a line"),
        ("train: gone.txt\nval: gone\nnames: [a]", "ROOT/gone.txt names 7 images that are not there: ROOT/0.png, "
         "ROOT/1.png, ROOT/2.png, ROOT/3.png, ROOT/4.png and 2 more; mend the list or its images' places"),
        ("train: nothing.txt\nval: gone\nnames: [a]", "ROOT/nothing.txt names no image; write one image file a line"),
    ],
)
def test_yamls_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "empty").mkdir()
    toy_boxes.image(tmp_path / "a.png")
    write(tmp_path / "bad.txt", "a.png\nlabels/a.txt\n")
    write(tmp_path / "gone.txt", "".join(f"{number}.png\n" for number in range(7)))
    write(tmp_path / "nothing.txt", "\n\n")
    refused(write(tmp_path / "data.yaml", text), message, tmp_path)


def test_a_yaml_that_is_not_text_or_too_long(tmp_path, monkeypatch):
    file = tmp_path / "data.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    refused(file, "ROOT/data.yaml is not text; replace or remove it", tmp_path)
    monkeypatch.setattr(dataset.yolo_yaml, "LONGEST", 2)
    refused(file, "ROOT/data.yaml has over 2 bytes, too many for a dataset's yaml; check --data", tmp_path)


def test_labels_expected_elsewhere(tmp_path):
    file = toy_boxes.yolo(tmp_path)
    (tmp_path / "labels" / "val").rename(tmp_path / "labels" / "vel")
    message = (
        "no image of val has a label file; the labels of ROOT/images/val/val0.png were expected in "
        "ROOT/labels/val/val0.txt"
    )
    refused(file, message, tmp_path)


def test_images_whose_header_cannot_be_read(tmp_path):
    file = toy_boxes.yolo(tmp_path, count=7)
    folder = tmp_path / "images" / "train"
    (folder / "train0.png").write_bytes(b"")
    refused(file, "ROOT/images/train/train0.png cannot be read as an image; replace or remove it", tmp_path)
    for number in range(6):
        write(folder / f"train{number}.png", "<html>")
    five = ", ".join(f"ROOT/images/train/train{number}.png" for number in range(5))
    refused(file, f"{five} and 1 more cannot be read as images; replace or remove them", tmp_path)


def test_without_pyyaml_the_install_line_is_given(tmp_path, monkeypatch):
    file = toy_boxes.yolo(tmp_path)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert dataset.is_detection(tmp_path)
    with pytest.raises(MissingPackage) as caught:
        dataset.read(file)
    assert str(caught.value) == "Reading data.yaml needs PyYAML; install it with: pip install 'edgeprune[detection]'"
