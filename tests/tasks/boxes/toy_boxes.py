"""Small detection datasets for the tests of boxes."""

from pathlib import Path

import pytest
from PIL import Image

from edgeprune.errors import BadData
from edgeprune.tasks.boxes import dataset

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [ant, bee]\n"
LINE = "0 0.5 0.5 0.5 0.5\n"


def image(file: Path, size=(40, 20), colour=(9, 9, 9)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def yolo(root: Path, splits=("train", "val"), count=3, text=YAML, line=LINE) -> Path:
    """A YOLO dataset of images 40 wide and 20 high with one box each; returns its data.yaml."""
    for split in splits:
        for number in range(count):
            image(root / "images" / split / f"{split}{number}.png")
            write(root / "labels" / split / f"{split}{number}.txt", line)
    return write(root / "data.yaml", text)


def kitti_line(kind: str, box=(10, 5, 30, 15)) -> str:
    return f"{kind} 0.00 0 -0.20 {' '.join(map(str, box))} 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n"


def kitti(root: Path, count=10, text=None) -> Path:
    """A KITTI tree of images 40 wide and 20 high, a Car in each; returns ``root``."""
    for number in range(count):
        image(root / "training" / "image_2" / f"{number:06d}.png")
        write(root / "training" / "label_2" / f"{number:06d}.txt", kitti_line("Car") if text is None else text)
    return root


def refused(path: Path, message: str, root: Path) -> None:
    with pytest.raises(BadData) as caught:
        dataset.read(path)
    assert str(caught.value).replace(str(root), "ROOT") == message
