"""Datasets described by a YOLO ``data.yaml``: its keys path, train, val, test, nc and names. Nothing in it is run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeprune.errors import BadData, MissingPackage
from edgeprune.tasks.boxes.annotations import Found, Labels, Source
from edgeprune.tasks.boxes.drives import drives_of
from edgeprune.tasks.boxes.lines import listed, text_of
from edgeprune.tasks.boxes.mending import Mended, counted
from edgeprune.tasks.boxes.upright import sizes
from edgeprune.tasks.boxes.yolo_labels import label_file, read_labels
from edgeprune.tasks.images import EXTENSIONS

KEYS = "a dataset's yaml has the keys train, val and names (and path, test, nc where needed)"
LONGEST = 2**22
"""Bytes of a yaml file beyond which it is not read: the longest known (over a thousand class names) has 30 kB."""


def read(file: Path) -> Source:
    """Return the dataset a yaml describes.

    ``path`` is relative to the yaml's folder, or failing that to $EDGEPRUNE_DATA; train, val and test are relative to
    ``path``, each a folder of images (searched in depth), a list file (.txt) or a list of these. ``val`` judges, and so
    does ``test`` beside it where it is given, there and labelled. Raises BadData for anything that cannot be used, and
    MissingPackage without PyYAML or Pillow.
    """
    content = _load(file)
    classes = _names(content, file)
    for key in ("train", "val"):
        if not content.get(key):
            raise BadData(f"{file} says no {key}; {KEYS}")
    root = _root(content, file)
    splits, notes = [], []
    for key in ("train", "val", "test"):
        if not content.get(key):
            continue
        places = _places(content[key], key, root, file)
        if key == "test" and not all(place.exists() for place in places):
            notes.append("test is named but not there, and is left out")
            continue
        images, repeated = _images(places, key, root, content, file)
        if repeated:
            notes.append(f"{key}: {counted(repeated, 'image is', 'images are')} named twice and used once")
        if not any(label_file(image).is_file() for image in images):
            if key == "test":
                notes.append("test has no labels and is left out")
                continue
            raise BadData(f"no image of {key} has a label file; the labels of {images[0]} were expected in "
                          f"{label_file(images[0])}")
        mended = Mended()
        splits.append(_split(key, images, classes, file.parent, mended))
        notes += mended.notes(key)
    return Source(splits[0], tuple(splits[1:]), classes, tuple(notes))


def _split(key: str, images: Sequence[Path], classes: tuple[str, ...], folder: Path, mended: Mended) -> Found:
    shapes = sizes(images)
    labels = []
    for image, size in zip(images, shapes, strict=True):
        file = label_file(image)
        if file.is_file():
            labels.append(read_labels(file, classes, size, mended))
        else:
            mended.background += 1
            labels.append(Labels.none())
    return Found(key, tuple(images), tuple(labels), drives_of(images, folder), shapes)


# --- the yaml itself --------------------------------------------------------------------------------------------------


def _load(file: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingPackage("PyYAML", "detection", f"Reading {file.name}") from error
    if file.stat().st_size > LONGEST:
        raise BadData(f"{file} has over {LONGEST} bytes, too many for a dataset's yaml; check --data")
    try:
        content = yaml.safe_load(text_of(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadData(f"{file}{where} is not valid YAML; mend it") from error
    if not isinstance(content, dict):
        raise BadData(f"{file} holds no keys; {KEYS}")
    if "kpt_shape" in content:
        raise BadData(f"{file} describes key points (kpt_shape), which are not boxes; give a dataset for detection")
    return content


def _names(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if not all(type(key) is int for key in names) or sorted(names) != list(range(len(names))):
            raise BadData(f"{file} numbers its {len(names)} names otherwise than 0 to {len(names) - 1}; number them so")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise BadData(f"{file} holds no names; list the classes' names in the order of their numbers")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise BadData(f"{file} has {name!r} among its names; write every name as text, in quotes")
    count = content.get("nc", len(names))
    if count != len(names):
        raise BadData(f"{file} says nc: {count} but holds {counted(len(names), 'name', 'names')}; make them agree")
    return tuple(map(str, names))


def _root(content: Mapping[str, Any], file: Path) -> Path:
    given = content.get("path")
    if given is None:
        return file.parent.absolute()
    if not isinstance(given, str):
        raise BadData(f"{file} says path: {given!r}; give a folder's name")
    data = os.environ.get("EDGEPRUNE_DATA")
    for folder in (file.parent.absolute(), *([Path(data).absolute()] if data else [])):
        if (folder / given).is_dir():
            return folder / given
    raise BadData(f"{file} says path: {given}, but there is no such folder beside it{_download(content)}; mend the "
                  f"path or put the dataset there")


def _download(content: Mapping[str, Any]) -> str:
    return " (its download entry is never run: download the dataset yourself)" if content.get("download") else ""


# --- from an entry to images ------------------------------------------------------------------------------------------


def _places(entry: Any, key: str, root: Path, file: Path) -> list[Path]:
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(one, str) for one in entries):
        raise BadData(f"{file} says {key}: {entry!r}; give a folder, a list file or a list of them")
    result = []
    for one in entries:
        place = root / one
        # Roboflow writes ../train/images for what lies in train/images beside the yaml.
        if not place.exists() and one.startswith("../") and (root / one[3:]).exists():
            place = root / one[3:]
        result.append(place)
    return result


def _images(
    places: Sequence[Path], key: str, root: Path, content: Mapping[str, Any], file: Path
) -> tuple[list[Path], int]:
    """Return the images of a split, each once, and how many were named again."""
    images: list[Path] = []
    for place in places:
        if place.is_dir():
            # A name that starts with a dot is a file system's own, such as macOS's ._ companions.
            found = sorted(
                f for f in place.rglob("*")
                if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".") and f.is_file()
            )
            if not found:
                raise BadData(f"{key} of {file}: {place} holds no images ({', '.join(EXTENSIONS)}); check the path")
            images += found
        elif place.is_file() and place.suffix == ".txt":
            images += _listed_in(place, root)
        elif place.exists():
            raise BadData(f"{key} of {file}: {place} is neither a folder of images nor a list of them (.txt)")
        else:
            raise BadData(f"{key} of {file}: there is no {place}{_download(content)}; check the path")
    once: dict[str, Path] = {}
    for image in images:
        once.setdefault(os.path.realpath(image), image)
    return list(once.values()), len(images) - len(once)


def _listed_in(file: Path, root: Path) -> list[Path]:
    """Return the images that a list file names, one a line, relative to its own folder or failing that to ``root``."""
    images: list[Path] = []
    missing: list[Path] = []
    for number, line in enumerate(text_of(file).splitlines(), 1):
        if not line.strip():
            continue
        image = file.parent / line.strip()
        if image.suffix.lower() not in EXTENSIONS:
            raise BadData(f"{file}, line {number}: {line.strip()[:200]} is no image ({', '.join(EXTENSIONS)}); write "
                          f"one image file a line")
        if not image.is_file() and (root / line.strip()).is_file():
            image = root / line.strip()
        (images if image.is_file() else missing).append(image)
    if missing:
        raise BadData(f"{file} names {counted(len(missing), 'image that is', 'images that are')} not there: "
                      f"{listed(missing)}; mend the list or its images' places")
    if not images:
        raise BadData(f"{file} names no image; write one image file a line")
    return images
