import hashlib
import os

import numpy as np
import pytest
import toy_boxes
from toy_boxes import refused, write

from edgeprune.errors import BadData
from edgeprune.tasks.boxes import dataset
from edgeprune.tasks.boxes.annotations import Found, Labels


def test_what_looks_like_detection(tmp_path):
    assert not dataset.is_detection(tmp_path) and not dataset.is_detection(tmp_path / "gone")
    write(tmp_path / "config.yaml", "name: x\ntrain: yes\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    assert not dataset.is_detection(tmp_path)
    assert dataset.is_detection(tmp_path / "config.yaml")
    assert not dataset.is_detection(toy_boxes.image(tmp_path / "a.png"))
    assert dataset.is_detection(toy_boxes.yolo(tmp_path).parent)
    assert dataset.is_detection(toy_boxes.kitti(tmp_path / "k")) and dataset.is_detection(tmp_path / "k" / "training")


def test_a_folder_without_a_dataset_and_one_with_two(tmp_path):
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", f"ROOT/none is not a dataset for detection; {dataset.LAYOUTS}", tmp_path)
    write(tmp_path / "a.json", "{}")
    refused(tmp_path / "a.json", f"ROOT/a.json is not a dataset for detection; {dataset.LAYOUTS}", tmp_path)
    toy_boxes.yolo(tmp_path)
    write(tmp_path / "a.yml", toy_boxes.YAML)
    refused(tmp_path, "ROOT holds 2 dataset yamls, a.yml and data.yaml among them; name one", tmp_path)


def test_a_yaml_goes_before_a_kitti_tree(tmp_path):
    toy_boxes.kitti(tmp_path)
    toy_boxes.yolo(tmp_path)
    assert dataset.read(tmp_path).classes == ("ant", "bee")


def test_a_split_must_show_an_object(tmp_path):
    file = toy_boxes.yolo(tmp_path)
    for number in range(3):
        write(tmp_path / "labels" / "val" / f"val{number}.txt", "")
    refused(file, "val shows no object of any class in 3 images; label some", tmp_path)


def test_images_that_judge_are_not_trained_on(tmp_path):
    file = toy_boxes.yolo(tmp_path)
    write(tmp_path / "val.txt", "images/val/val0.png\nimages/train/train1.png\n")
    write(file, toy_boxes.YAML.replace("images/val", "val.txt"))
    source = dataset.read(file)
    assert [f.name for f in source.train.files] == ["train0.png", "train2.png"]
    assert len(source.train.labels) == len(source.train.sizes) == len(source.train.drives) == 2
    assert source.notes == ("train: 1 image judges too and was left out, as what is trained on cannot judge",)


def test_links_to_one_image_are_one_image(tmp_path):
    file = toy_boxes.yolo(tmp_path)
    folder = tmp_path / "images"
    (folder / "val" / "link.png").symlink_to(folder / "train" / "train0.png")
    (folder / "train" / "link.png").symlink_to(folder / "val" / "val0.png")
    (folder / "train" / "other.png").symlink_to(folder / "train" / "train2.png")
    source = dataset.read(file)
    assert [f.name for f in source.train.files] == ["other.png", "train1.png"]
    assert source.notes[0] == "train: 1 image is named twice and used once"


def test_train_and_val_the_same(tmp_path):
    file = toy_boxes.yolo(tmp_path, text=toy_boxes.YAML.replace("images/val", "images/train"))
    message = (
        "all images of train are in val too; what is trained on cannot judge, so give other images to one of them"
    )
    refused(file, message, tmp_path)


def test_val_and_test_may_not_share_some(tmp_path):
    file = toy_boxes.yolo(tmp_path, ("train", "val", "test"), text=f"{toy_boxes.YAML}test: [images/test, images/val]\n")
    refused(file, "val and test share 3 images; keep each in one of them", tmp_path)


def test_what_is_left_to_train_on_must_show_an_object(tmp_path):
    file = toy_boxes.yolo(tmp_path, text=toy_boxes.YAML.replace("images/val", "[images/val, images/train/train0.png]"))
    write(tmp_path / "one.txt", "images/train/train0.png")
    write(file, toy_boxes.YAML.replace("images/val", "[images/val, one.txt]"))
    for number in (1, 2):
        write(tmp_path / "labels" / "train" / f"train{number}.txt", "")
    refused(file, "train shows no object of any class in 2 images; label some", tmp_path)


def digest(path):
    result = hashlib.sha256()
    source = dataset.read(path)
    for found in (source.train, *source.evaluation):
        found.update(result)
    return result.hexdigest()


def test_the_digest_is_of_the_content(tmp_path):
    first, second = (toy_boxes.yolo(tmp_path / name) for name in "ab")
    before = digest(first)
    assert digest(second) == before
    os.utime(tmp_path / "b" / "images" / "val" / "val0.png", (0, 0))
    assert digest(second) == before
    label = write(tmp_path / "b" / "labels" / "val" / "val0.txt", toy_boxes.LINE.replace("0 ", "1 ", 1))
    assert digest(second) != before
    write(label, toy_boxes.LINE)
    assert digest(second) == before
    picture = tmp_path / "b" / "images" / "train" / "train0.png"
    toy_boxes.image(picture, colour=(9, 9, 8))
    assert digest(second) != before
    toy_boxes.image(picture)
    picture.rename(picture.with_name("other.png"))
    (tmp_path / "b" / "labels" / "train" / "train0.txt").rename(tmp_path / "b" / "labels" / "train" / "other.txt")
    assert digest(second) != before


def test_the_digest_sees_ignored_regions_apart_from_boxes(tmp_path):
    first = toy_boxes.kitti(tmp_path / "a", text=toy_boxes.kitti_line("Car") + toy_boxes.kitti_line("Van"))
    second = toy_boxes.kitti(tmp_path / "b", text=toy_boxes.kitti_line("Car") + toy_boxes.kitti_line("DontCare"))
    third = toy_boxes.kitti(tmp_path / "c")
    assert digest(first) == digest(second) != digest(third)


def test_the_digest_tells_boxes_from_regions_of_the_same_bytes(tmp_path):
    file = toy_boxes.image(tmp_path / "a.png")
    boxes, regions = np.zeros((2, 4), np.float32), np.zeros((3, 4), np.float32)
    both = [
        Labels(boxes, np.zeros(2, np.int64), regions[:0]),
        Labels(boxes[:0], np.zeros(0, np.int64), regions),
    ]
    digests = []
    for labels in both:
        digests.append(hashlib.sha256())
        Found("val", (file,), (labels,), ("",), ((40, 20),)).update(digests[-1])
    assert digests[0].digest() != digests[1].digest()


def test_a_file_that_vanished_is_named(tmp_path):
    source = dataset.read(toy_boxes.yolo(tmp_path))
    gone = source.train.files[0]
    gone.unlink()
    with pytest.raises(BadData) as caught:
        source.train.update(hashlib.sha256())
    assert str(caught.value) == f"{gone} cannot be read (No such file or directory); replace or remove it"


@pytest.mark.parametrize("name", ["kitti/data.yaml", "kitti"])
def test_the_kitti_pack(data_pack, name):
    source = dataset.read(data_pack / name)
    assert source.classes == ("Car", "Pedestrian", "Cyclist") and source.notes == ()
    counts = [np.bincount(np.concatenate([one.classes for one in f.labels])).tolist()
              for f in (source.train, *source.evaluation)]
    assert counts == [[1996, 1062, 734], [800, 176, 291]]


def test_the_coco_pack(data_pack):
    source = dataset.read(data_pack / "coco256")
    assert [sum(len(one.boxes) for one in f.labels) for f in (source.train, *source.evaluation)] == [929, 898]
    assert source.notes == ("train: 2 images have no label file and are taken as background",)
    assert len(source.classes) == 80
