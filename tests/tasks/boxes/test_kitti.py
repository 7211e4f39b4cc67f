from pathlib import Path

import numpy as np
import pytest
import toy_boxes
from toy_boxes import kitti, kitti_line, refused, write

from edgeprune.errors import BadData
from edgeprune.tasks.boxes import dataset
from edgeprune.tasks.boxes.drives import drives_of
from edgeprune.tasks.boxes.kitti import read_labels
from edgeprune.tasks.boxes.mending import Mended
from edgeprune.tasks.images import EXTENSIONS


def stems(found):
    return [int(file.stem) for file in found.files]


def test_types_become_classes_ignored_regions_or_background(tmp_path):
    kinds = ("Cyclist", "Van", "Truck", "Pedestrian", "Person_sitting", "DontCare", "Tram", "Misc", "Car", "Person")
    lines = "".join(kitti_line(kind, (n, 0, n + 5.5, 9)) for n, kind in enumerate(kinds))
    labels = read_labels(write(tmp_path / "a.txt", lines), (40, 20), Mended())
    assert labels.classes.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(labels.boxes, np.array([[0, 0, 5.5, 9], [3, 0, 8.5, 9], [8, 0, 13.5, 9]], np.float32))
    assert labels.ignored[:, 0].tolist() == [1, 4, 5, 9] and labels.ignored.dtype == np.float32


def test_a_score_is_passed_over_and_everything_is_clipped(tmp_path):
    mended = Mended()
    text = kitti_line("Car", (-3, 2, 60, 30)).strip() + " 0.9\n" + kitti_line("DontCare", (30, 10, 99, 99))
    labels = read_labels(write(tmp_path / "a.txt", text + kitti_line("Van", (50, 1, 60, 2))), (40, 20), mended)
    assert labels.boxes.tolist() == [[0, 2, 40, 20]] and labels.ignored.tolist() == [[30, 10, 40, 20]]
    assert mended.notes("val") == ["val: 1 box of 1 label file reached outside its image and was clipped"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 1 2", "PATH, line 2 holds 3 columns; KITTI's labels have 15, or 16 with a score"),
        (kitti_line("Cra"), "PATH, line 2: 'Cra' is no type of KITTI's; did you mean 'Car'?; bring a dataset with "
         "classes of its own into YOLO's form, with a data.yaml"),
        (kitti_line("Car", (1, 2, "x", 4)), "PATH, line 2: 'x' is not a number; mend the line or remove it"),
        (kitti_line("Car", (1, 2, "nan", 4)), "PATH, line 2: 'nan' is not a finite number; mend the line or remove it"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(BadData) as caught:
        read_labels(write(tmp_path / "a.txt", kitti_line("Car") + line), (40, 20), Mended())
    assert str(caught.value).replace(str(tmp_path / "a.txt"), "PATH") == message


@pytest.mark.parametrize(
    ("place", "inside"),
    [("ImageSets", False), ("ImageSets", True), ("training", False), ("training", True), (".", False)],
)
def test_lists_name_the_splits(tmp_path, inside, place):
    kitti(tmp_path)
    write(tmp_path / place / "train.txt", "000003\n000001.png\n\n")
    write(tmp_path / place / "val.txt", "training/image_2/000007.png\n")
    source = dataset.read(tmp_path / "training" if inside else tmp_path)
    assert stems(source.train) == [3, 1] and [stems(f) for f in source.evaluation] == [[7]]
    assert source.notes == () and source.classes == ("Car", "Pedestrian", "Cyclist")


def test_one_list_alone_leaves_the_rest_to_the_other(tmp_path):
    kitti(tmp_path)
    val = write(tmp_path / "ImageSets" / "val.txt", "000000\n000009\n")
    source = dataset.read(tmp_path)
    assert stems(source.train) == list(range(1, 9)) and stems(source.evaluation[0]) == [0, 9]
    assert source.notes == ("there is no train.txt: train is the 8 images that no list names",)
    val.rename(val.with_name("train.txt"))
    assert stems(dataset.read(tmp_path).evaluation[0]) == list(range(1, 9))
    write(val.with_name("train.txt"), "".join(f"{n:06d}\n" for n in range(10)))
    refused(tmp_path, "ROOT/ImageSets/train.txt names every image and there is no val.txt; keep some for val", tmp_path)


def test_a_test_list_counts_only_if_it_is_of_labelled_images(tmp_path):
    kitti(tmp_path)
    write(tmp_path / "ImageSets" / "train.txt", "000000\n000001\n")
    write(tmp_path / "ImageSets" / "val.txt", "000002\n000003\n")
    test = write(tmp_path / "ImageSets" / "test.txt", "000004\n")
    assert [stems(f) for f in dataset.read(tmp_path).evaluation] == [[2, 3], [4]]
    for text in ("000001\n000004\n", "007480\n"):
        write(test, text)
        source = dataset.read(tmp_path)
        assert [stems(f) for f in source.evaluation] == [[2, 3]]
        assert source.notes == (f"{test} names frames that are not test images of {tmp_path / 'training'}, and is left "
                                f"out",)


def test_lists_that_cannot_be_used(tmp_path):
    kitti(tmp_path)
    file = write(tmp_path / "train.txt", "\n")
    message = "ROOT/train.txt names no image; write one frame a line, such as 000003, or remove the list"
    refused(tmp_path, message, tmp_path)
    write(file, "000001\n000044\n")
    message = (
        "ROOT/train.txt names 1 image that is not there: ROOT/training/image_2/000044; mend the list or add the images"
    )
    refused(tmp_path, message, tmp_path)


def test_without_lists_a_fifth_is_drawn_by_the_seed(tmp_path):
    kitti(tmp_path, count=20)
    source, again, other = dataset.read(tmp_path), dataset.read(tmp_path), dataset.read(tmp_path, seed=1)
    judging = stems(source.evaluation[0])
    assert len(judging) == 4 and sorted(stems(source.train) + judging) == list(range(20))
    assert stems(again.evaluation[0]) == judging != stems(other.evaluation[0])
    assert source.notes == ("no list says which images are for train and val: 4 of 20 were drawn for val, image by "
                            "image, their drives not being known",)


def mapping(root, drives):
    """The devkit's two files: the frames' lines in reverse order."""
    lines = [f"2011_09_26 2011_09_26_drive_{drive:04d}_sync 0000000{n:03d}" for n, drive in enumerate(drives)]
    write(root / "mapping" / "train_mapping.txt", "\n".join(reversed(lines)) + "\n")
    write(root / "mapping" / "train_rand.txt", ",".join(str(len(drives) - n) for n in range(len(drives))))


@pytest.mark.parametrize("seed", range(5))
def test_whole_drives_are_drawn_where_they_are_known(tmp_path, seed):
    kitti(tmp_path, count=20)
    mapping(tmp_path, [1] * 6 + [2] * 3 + [5] * 8 + [7] * 3)
    source = dataset.read(tmp_path, seed)
    (val,) = source.evaluation
    assert set(val.drives) <= {"2011_09_26_drive_0002", "2011_09_26_drive_0007"} and len(val.files) == 3
    assert not set(val.drives) & set(source.train.drives)
    assert source.train.drives[0] == "2011_09_26_drive_0001"
    assert source.notes[0].endswith("3 of 20 were drawn for val, whole drives")


def test_large_drives_go_by_the_smallest_and_one_drive_is_divided(tmp_path):
    kitti(tmp_path)
    mapping(tmp_path, [1] * 6 + [2] * 4)
    assert stems(dataset.read(tmp_path).evaluation[0]) == [6, 7, 8, 9]
    mapping(tmp_path, [1] * 10)
    source = dataset.read(tmp_path)
    assert len(source.evaluation[0].files) == 2
    assert source.notes[0].endswith("drawn for val, image by image, all being of one drive")


def test_a_mapping_that_does_not_fit(tmp_path):
    kitti(tmp_path)
    mapping(tmp_path, [1] * 10)
    rand = write(tmp_path / "mapping" / "train_rand.txt", "1,2,11")
    message = (
        "ROOT/mapping/train_rand.txt: '11' is no line of ROOT/mapping/train_mapping.txt, which has 10; restore both "
        "files from KITTI's devkit, or remove them"
    )
    refused(tmp_path, message, tmp_path)
    rand.unlink()
    assert set(dataset.read(tmp_path).train.drives) == {""}


def test_the_drive_nearest_to_the_end_of_the_path_counts():
    file = Path("2011_09_26_drive_0001_sync/2011_10_03_drive_0042_extract/image_2/0000000007.png")
    assert drives_of([file, Path("a.png")], Path("nowhere")) == ("2011_10_03_drive_0042", "")


def test_raw_names_are_drives(tmp_path):
    for drive in (1, 2, 3, 4, 5):
        name = f"2011_09_26_drive_{drive:04d}_sync_0000000000"
        toy_boxes.image(tmp_path / "image_2" / f"{name}.jpg")
        write(tmp_path / "label_2" / f"{name}.txt", kitti_line("Car"))
    drives = sorted(dataset.read(tmp_path).train.drives)
    assert len(drives) == 4 and all(d.startswith("2011_09_26_drive_000") and len(d) == 21 for d in drives)


def test_a_tree_with_nothing_in_it(tmp_path):
    for name in ("image_2", "label_2"):
        (tmp_path / name).mkdir()
    refused(tmp_path, f"ROOT/image_2 holds no images ({', '.join(EXTENSIONS)}); check --data", tmp_path)
    toy_boxes.image(tmp_path / "image_2" / "a.png")
    message = "no image of ROOT/image_2 has a label file; the labels of ROOT/image_2/a.png were expected in "
    refused(tmp_path, f"{message}ROOT/label_2/a.txt", tmp_path)
    write(tmp_path / "label_2" / "a.txt", kitti_line("Car"))
    message = "ROOT/image_2 holds one image, too few for a train and a val split; add images"
    refused(tmp_path, message, tmp_path)


def test_an_image_without_labels_is_background(tmp_path):
    kitti(tmp_path)
    for number in range(8):
        (tmp_path / "training" / "label_2" / f"{number:06d}.txt").unlink()
    write(tmp_path / "val.txt", "000009\n")
    source = dataset.read(tmp_path)
    assert "train: 8 images have no label file and are taken as background" in source.notes
    assert [len(labels.boxes) for labels in source.train.labels] == [0] * 8 + [1]


def test_ten_real_frames(data_pack):
    source = dataset.read(data_pack / "kitti_raw10")
    found = {file.stem: labels for f in (source.train, *source.evaluation)
             for file, labels in zip(f.files, f.labels, strict=True)}
    assert len(found) == 10 and len(source.evaluation[0].files) == 2
    first = found["000001"]
    np.testing.assert_allclose(first.boxes, [[387.63, 181.54, 423.81, 203.12], [676.60, 163.95, 688.98, 193.93]])
    assert first.classes.tolist() == [0, 2] and len(first.ignored) == 4
