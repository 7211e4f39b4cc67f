"""KITTI's object benchmark in its own layout: image_2/ beside label_2/, and lists of frames where there are any.

Geiger, Lenz and Urtasun, Are we ready for autonomous driving? The KITTI vision benchmark suite, CVPR 2012; the columns
are those of the devkit's readme.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.errors import BadData, nearest
from edgeprune.tasks.boxes.annotations import Found, Labels, Source
from edgeprune.tasks.boxes.drives import drives_of
from edgeprune.tasks.boxes.lines import listed, number_of, text_of
from edgeprune.tasks.boxes.mending import Mended, clipped, counted
from edgeprune.tasks.boxes.upright import sizes
from edgeprune.tasks.images import EXTENSIONS

CLASSES = ("Car", "Pedestrian", "Cyclist")
"""What the benchmark evaluates."""
IGNORED = ("Van", "Person_sitting", "Person", "DontCare")
"""Types that make a region nobody is judged in.

The devkit (evaluate_object.cpp, cleanData) counts neither for nor against a detector what it finds on a Van when it
looks for a Car, on a Person_sitting when it looks for a Pedestrian, and on DontCare whatever it looks for. Here a
region is ignored for every class, which differs only where, say, a pedestrian is found on a van. The tracking benchmark
says Person for Person_sitting.
"""
BACKGROUND = ("Truck", "Tram", "Misc")
"""Types the devkit neither evaluates nor ignores: a Car found there is a miss."""
SHARE = 0.2
"""Of the images, how many judge where no list says which."""


def tree(path: Path) -> Path | None:
    """Return the folder that holds image_2/ and label_2/: ``path`` itself, or its training/; None if neither does."""
    for folder in (path, path / "training"):
        if (folder / "image_2").is_dir() and (folder / "label_2").is_dir():
            return folder
    return None


def read(path: Path, seed: int) -> Source:
    """Return the dataset below ``path``, for which ``tree`` is not None.

    Splits are those that lists name (train.txt, val.txt, test.txt in ImageSets/ or beside image_2/); without a list
    a fifth of the images, chosen by ``seed`` and whole drives at a time where drives are known, judges. Every object
    counts, however small, hidden or cut off: the devkit's difficulties are not applied. Raises BadData for anything
    that cannot be used, and MissingPackage without Pillow.
    """
    folder = tree(path)
    assert folder is not None
    images = {f.stem: f for f in sorted((folder / "image_2").iterdir())
              if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".") and f.is_file()}
    if not images:
        raise BadData(f"{folder / 'image_2'} holds no images ({', '.join(EXTENSIONS)}); check --data")
    if not any(_label_file(image).is_file() for image in images.values()):
        first = next(iter(images.values()))
        raise BadData(f"no image of {folder / 'image_2'} has a label file; the labels of {first} were expected in "
                      f"{_label_file(first)}")
    lists, notes = _lists(folder, path, images)
    if not lists:
        lists, how = _drawn(list(images), drives_of(list(images.values()), path), seed, folder)
        notes.append(how)
    splits = []
    for name, frames in lists.items():
        mended = Mended()
        splits.append(_split(name, [images[frame] for frame in frames], path, mended))
        notes += mended.notes(name)
    return Source(splits[0], tuple(splits[1:]), CLASSES, tuple(notes))


def _split(name: str, images: Sequence[Path], root: Path, mended: Mended) -> Found:
    shapes = sizes(images)
    labels = []
    for image, size in zip(images, shapes, strict=True):
        file = _label_file(image)
        if file.is_file():
            labels.append(read_labels(file, size, mended))
        else:
            mended.background += 1
            labels.append(Labels.none())
    return Found(name, tuple(images), tuple(labels), drives_of(images, root), shapes)


def _label_file(image: Path) -> Path:
    return image.parent.parent / "label_2" / f"{image.stem}.txt"


def read_labels(file: Path, size: tuple[int, int], mended: Mended) -> Labels:
    """Return the labels in ``file`` for an image of ``size`` (width, height) pixels; what is mended is counted.

    Lines have 15 columns, the type first and the box (left, top, right, bottom, in pixels from 0) in the fifth to
    eighth; a 16th, a score, is allowed and not used. Raises BadData, naming file and line, for anything else.
    """
    numbers, boxes, ignored = [], [], []
    for number, line in enumerate(text_of(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{file}, line {number}"
        if len(words) not in (15, 16):
            raise BadData(f"{where} holds {counted(len(words), 'column', 'columns')}; KITTI's labels have 15, or 16 "
                          f"with a score")
        kind, box = words[0], [number_of(word, where) for word in words[1:]][3:7]
        if kind in CLASSES:
            numbers.append(CLASSES.index(kind))
            boxes.append(box)
        elif kind in IGNORED:
            ignored.append(box)
        elif kind not in BACKGROUND:
            known = nearest(kind, CLASSES + IGNORED + BACKGROUND)
            raise BadData(f"{where}: {kind[:40]!r} is no type of KITTI's{known}; bring a dataset with classes of its "
                          f"own into YOLO's form, with a data.yaml")
    kept, kept_numbers = mended.tidy(file, boxes, numbers, size)
    regions = clipped(np.asarray(ignored, np.float64).reshape(-1, 4), size)
    whole = (regions[:, 2] > regions[:, 0]) & (regions[:, 3] > regions[:, 1])
    return Labels(kept, kept_numbers, regions[whole].astype(np.float32))


# --- which image is in which split ------------------------------------------------------------------------------------


def _lists(folder: Path, path: Path, images: dict[str, Path]) -> tuple[dict[str, list[str]], list[str]]:
    """Return frames by split as lists name them, and notes; an empty dict if there is neither train.txt nor val.txt."""
    for place in (path / "ImageSets", folder / "ImageSets", folder.parent / "ImageSets", path, folder):
        files = {name: place / f"{name}.txt" for name in ("train", "val", "test") if (place / f"{name}.txt").is_file()}
        if "train" in files or "val" in files:
            break
    else:
        return {}, []
    notes = []
    found = {name: _frames(file) for name, file in files.items()}
    known = {frame for name in ("train", "val") for frame in found.get(name, ())}
    test = found.pop("test", None)
    # KITTI's own test.txt numbers the frames of testing/, which have no labels, with the numbers of training/.
    if test is not None and (known & set(test) or not set(test) <= set(images)):
        notes.append(f"{files['test']} names frames that are not test images of {folder}, and is left out")
        test = None
    for name, frames in found.items():
        missing = [folder / "image_2" / frame for frame in frames if frame not in images]
        if missing:
            raise BadData(f"{files[name]} names {counted(len(missing), 'image that is', 'images that are')} not there: "
                          f"{listed(missing)}; mend the list or add the images")
    for name, other in (("train", "val"), ("val", "train")):
        if name not in found:
            taken = {*known, *(test or ())}
            found[name] = [frame for frame in images if frame not in taken]
            if not found[name]:
                raise BadData(f"{files[other]} names every image and there is no {name}.txt; keep some for {name}")
            images_left = counted(len(found[name]), "image", "images")
            notes.append(f"there is no {name}.txt: {name} is the {images_left} that no list names")
    splits = {"train": found["train"], "val": found["val"]}
    return (splits | {"test": test} if test else splits), notes


def _frames(file: Path) -> list[str]:
    """Return the frames a list names, each once: 000003, 000003.png or training/image_2/000003.png."""
    frames = list(dict.fromkeys(Path(line.strip()).stem for line in text_of(file).splitlines() if line.strip()))
    if not frames:
        raise BadData(f"{file} names no image; write one frame a line, such as 000003, or remove the list")
    return frames


def _drawn(frames: list[str], drives: Sequence[str], seed: int, folder: Path) -> tuple[dict[str, list[str]], str]:
    """Return train and val drawn by ``seed``, and the sentence that says how.

    An image whose drive is not known may go anywhere.
    """
    if len(frames) < 2:
        raise BadData(f"{folder / 'image_2'} holds one image, too few for a train and a val split; add images")
    one_drive = len(set(drives)) == 1
    groups: dict[str, list[str]] = {}
    for frame, drive in zip(frames, drives, strict=True):
        groups.setdefault(drive if drive and not one_drive else f"image {frame}", []).append(frame)
    order = [list(groups.values())[i] for i in np.random.default_rng([seed, 0x517715]).permutation(len(groups))]
    wanted = max(1, round(SHARE * len(frames)))
    chosen: set[str] = set()
    for group in order:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    if not chosen:
        smallest = min(order, key=len)
        chosen.update(smallest)
    splits = {"train": [f for f in frames if f not in chosen], "val": [f for f in frames if f in chosen]}
    how = "whole drives" if not one_drive else "image by image, all being of one drive" if drives[0] else (
        "image by image, their drives not being known"
    )
    return splits, (f"no list says which images are for train and val: {len(splits['val'])} of {len(frames)} were "
                    f"drawn for val, {how}")
