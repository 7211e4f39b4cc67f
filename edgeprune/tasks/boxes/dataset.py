"""From a path to labelled splits of a detection dataset: a YOLO ``data.yaml``, or KITTI's own layout."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeprune.errors import BadData
from edgeprune.tasks.boxes import kitti, yolo_yaml
from edgeprune.tasks.boxes.annotations import Found, Labels, Source
from edgeprune.tasks.boxes.lines import text_of
from edgeprune.tasks.boxes.mending import counted

__all__ = ["LAYOUTS", "Found", "Labels", "Source", "is_detection", "read"]

LAYOUTS = (
    "a dataset for detection is a data.yaml (keys train, val and names), a folder that holds one, or a folder with "
    "KITTI's image_2/ and label_2/"
)
SUFFIXES = (".yaml", ".yml")


def is_detection(path: Path) -> bool:
    """Say whether ``path`` looks like a dataset for detection: then ``read`` returns it or says what is wrong with it.

    Reads no more than yaml files that lie in the folder, and needs no package for it.
    """
    try:
        if path.is_file():
            return path.suffix.lower() in SUFFIXES
        return path.is_dir() and (bool(_yamls(path)) or kitti.tree(path) is not None)
    except PermissionError:
        return False


def read(path: Path, seed: int = 0) -> Source:
    """Return the splits of the dataset at ``path``, which exists; a yaml in a folder goes before KITTI's layout.

    Images that train shares with a split that judges are taken out of train, with a note. ``seed`` draws the split of
    a KITTI tree without lists, and nothing else. Raises BadData for anything that cannot be used, and MissingPackage
    without PyYAML (where there is a yaml) or Pillow.
    """
    try:
        source = _read(path, seed)
    except PermissionError as error:
        raise BadData(f"{error.filename} may not be read; change its permissions") from error
    return _apart(_judged(source))


def _read(path: Path, seed: int) -> Source:
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return yolo_yaml.read(path)
    yamls = _yamls(path) if path.is_dir() else []
    if len(yamls) > 1:
        raise BadData(f"{path} holds {len(yamls)} dataset yamls, {yamls[0].name} and {yamls[1].name} among them; "
                      f"name one")
    if yamls:
        return yolo_yaml.read(yamls[0])
    if kitti.tree(path) is not None:
        return kitti.read(path, seed)
    raise BadData(f"{path} is not a dataset for detection; {LAYOUTS}")


def _yamls(folder: Path) -> list[Path]:
    """Return the yaml files in a folder that have the keys of a dataset, by a look at their text."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and file.is_file() and file.stat().st_size <= yolo_yaml.LONGEST:
            try:
                text = text_of(file)
            except BadData:
                continue
            if all(re.search(rf"(?m)(?:^|[{{,]\s*)[\"']?{key}[\"']?\s*:", text) for key in ("train", "val", "names")):
                found.append(file)
    return found


def _judged(source: Source) -> Source:
    """Return the source if each split shows an object. Raises BadData otherwise: nothing could be learned or judged."""
    for found in (source.train, *source.evaluation):
        if not any(len(labels.classes) for labels in found.labels):
            images = counted(len(found.files), "image", "images")
            raise BadData(f"{found.name} shows no object of any class in {images}; label some")
    return source


def _apart(source: Source) -> Source:
    """Return the source with no image in two splits. Raises BadData where that cannot be mended without loss."""
    notes = list(source.notes)
    places = [_places(found) for found in source.evaluation]
    evaluation = source.evaluation
    if len(evaluation) == 2 and places[0] & places[1]:
        if places[0] != places[1]:
            raise BadData(f"{evaluation[0].name} and {evaluation[1].name} share "
                          f"{counted(len(places[0] & places[1]), 'image', 'images')}; keep each in one of them")
        notes.append(f"{evaluation[1].name} is the same as {evaluation[0].name} and is left out")
        evaluation = evaluation[:1]
    judging = set().union(*places)
    shared = {i for i, file in enumerate(source.train.files) if os.path.realpath(file) in judging}
    train = source.train
    if len(shared) == len(train.files):
        raise BadData(f"all images of {train.name} are in {' and '.join(f.name for f in evaluation)} too; what is "
                      f"trained on cannot judge, so give other images to one of them")
    if shared:
        train = train.without(shared)
        images = counted(len(shared), "image judges too and was", "images judge too and were")
        notes.append(f"{train.name}: {images} left out, as what is trained on cannot judge")
        _judged(Source(train, (), source.classes, ()))
    return Source(train, evaluation, source.classes, tuple(notes))


def _places(found: Found) -> set[str]:
    return {os.path.realpath(file) for file in found.files}
