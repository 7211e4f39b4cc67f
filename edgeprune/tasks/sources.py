"""From a path to labelled splits: image folders, one ``.npz``, or a folder of ``.npz`` files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadData
from edgeprune.tasks import npz
from edgeprune.tasks.images import EXTENSIONS

LAYOUTS = (
    "a dataset is a folder with train/ and val/ (one folder a class in each), an .npz with x_train, y_train, x_test "
    "and y_test, or a folder with one *_train*.npz and one *_test*.npz (x and y in each)"
)
MOST_CLASSES = 2**20
"""Labels from here on are taken for damage: no classifier has so many outputs."""


@dataclass(frozen=True, eq=False)
class Found:
    """A split as it lies on disk: ``pixels`` (n, H, W, C) uint8 or image ``files``, and labels (n,) int64.

    ``name`` says where in the dataset it was, for messages and the report.
    """

    name: str
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8] | None = None
    files: tuple[Path, ...] = ()

    def update(self, digest: Any) -> None:
        """Feed names and content to a hashlib object. Raises BadData if a file cannot be read."""
        digest.update(f"{self.name}|{len(self.labels)}".encode())
        digest.update(self.labels.tobytes())
        if self.pixels is not None:
            digest.update(f"{self.pixels.shape}".encode())
            digest.update(np.ascontiguousarray(self.pixels).data)
        for file in self.files:
            try:
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").digest()
            except OSError as error:
                raise BadData(f"{file} cannot be read ({error.strerror}); replace or remove it") from error
            digest.update(file.name.encode() + content)


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset: ``evaluation`` holds one split, to be halved, or two: one that judges inside a build, and the test."""

    classes: tuple[str, ...]
    train: Found
    evaluation: tuple[Found, ...]


def resolve(path: Path) -> Path:
    """Return ``path`` if it exists, else the same below $EDGEPRUNE_DATA. Raises BadData if neither does."""
    if path.exists():
        return path
    root = os.environ.get("EDGEPRUNE_DATA")
    if root and not path.is_absolute():
        if (Path(root) / path).exists():
            return Path(root) / path
        raise BadData(f"there is no {path}, neither here nor in EDGEPRUNE_DATA ({root}); check --data")
    raise BadData(f"there is no {path}; check --data, or name the folder of your datasets in EDGEPRUNE_DATA")


def read(path: Path) -> Source:
    """Recognise the layout and return its splits. Raises BadData for anything that cannot be used."""
    try:
        if path.is_file():
            return _check(_one_npz(path))
        if (path / "train").is_dir():
            return _check(_tree(path))
        if any(path.glob("*.npz")):
            return _check(_npz_folder(path))
        state = "is empty" if not any(path.iterdir()) else "holds no dataset"
    except PermissionError as error:
        raise BadData(f"{error.filename} may not be read; change its permissions") from error
    raise BadData(f"{path} {state}; {LAYOUTS}")


def _check(source: Source) -> Source:
    known = np.unique(source.train.labels)
    for found in source.evaluation:
        strange = np.setdiff1d(found.labels, known)
        if len(strange):
            raise BadData(
                f"label {strange[0]} occurs in {found.name} but never in {source.train.name}; every class that is "
                f"evaluated must be trained on"
            )
    shapes = {f.name: f.pixels.shape[1:] for f in (source.train, *source.evaluation) if f.pixels is not None}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{'x'.join(map(str, shape))} in {name}" for name, shape in shapes.items())
        raise BadData(f"the splits hold images of different shapes: {listed}; bring them to one shape")
    return source


# --- image folders ----------------------------------------------------------------------------------------------------


def _tree(root: Path) -> Source:
    classes = tuple(sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir()))
    if not classes:
        raise BadData(f"{root / 'train'} holds no class folders; {LAYOUTS}")
    names = [name for name in ("val", "test") if (root / name).is_dir()]
    if not names:
        raise BadData(f"{root} has train/ but no val/ (or test/) to evaluate on; {LAYOUTS}")
    return Source(classes, _tree_split(root / "train", classes), tuple(_tree_split(root / n, classes) for n in names))


def _tree_split(folder: Path, classes: tuple[str, ...]) -> Found:
    files: list[Path] = []
    labels: list[int] = []
    for entry in sorted(e for e in folder.iterdir() if e.is_dir()):
        if entry.name not in classes:
            raise BadData(f"class {entry.name!r} is in {folder} but not in train/; every class must be in both")
        found = sorted(f for f in entry.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
        if not found:
            raise BadData(f"{entry} holds no images ({', '.join(EXTENSIONS)}); fill or remove it")
        files += found
        labels += [classes.index(entry.name)] * len(found)
    if not files:
        raise BadData(f"{folder} holds no class folders; {LAYOUTS}")
    return Found(f"{folder.name}/", np.asarray(labels, np.int64), files=tuple(files))


# --- arrays -----------------------------------------------------------------------------------------------------------


def _one_npz(path: Path) -> Source:
    if path.suffix != ".npz":
        raise BadData(f"{path} is not a dataset; {LAYOUTS}")
    splits = ["train", "test"]
    if {"x_val", "y_val"} & set(npz.keys(path)):
        splits.insert(1, "val")
    arrays = npz.load(path, [f"{axis}_{split}" for split in splits for axis in "xy"])
    train, *evaluation = (
        _array_split(path, f"x_{s}", arrays[f"x_{s}"], f"y_{s}", arrays[f"y_{s}"]) for s in splits
    )
    return Source(_class_names(None, train), train, tuple(evaluation))


def _npz_folder(folder: Path) -> Source:
    found = []
    for split in ("train", "val", "test"):
        files = sorted(folder.glob(f"*_{split}*.npz"))
        if len(files) > 1:
            raise BadData(f"{folder} holds {len(files)} *_{split}*.npz files, {files[0].name} and {files[1].name} "
                          f"among them; keep one")
        if not files and split != "val":
            raise BadData(f"{folder} holds no *_{split}*.npz; {LAYOUTS}")
        for file in files:
            arrays = npz.load(file, ["x", "y"])
            found.append(_array_split(file, f"x of {file.name}", arrays["x"], f"y of {file.name}", arrays["y"]))
    return Source(_class_names(folder / "classes.txt", found[0]), found[0], tuple(found[1:]))


def _array_split(path: Path, x_name: str, x: NDArray[Any], y_name: str, y: NDArray[Any]) -> Found:
    def fail(text: str) -> BadData:
        return BadData(f"{path}: {text}")

    if x.dtype != np.uint8:
        raise fail(f"{x_name} is {x.dtype}; give pixels as uint8 in 0..255")
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape[1:]:
        raise fail(f"{x_name} has shape {x.shape}; give (n, height, width), or with 1 or 3 channels at the end")
    if not np.issubdtype(y.dtype, np.integer):
        raise fail(f"{y_name} is {y.dtype}; give labels as whole numbers from 0")
    if y.ndim != 1:
        raise fail(f"{y_name} has shape {y.shape}; give one label an image, shape (n,)")
    if len(x) != len(y):
        raise fail(f"{x_name} holds {len(x)} images but {y_name} {len(y)} labels; give as many of each")
    if len(x) == 0:
        raise fail(f"{x_name} is empty; every split needs images")
    if y.min() < 0 or y.max() >= MOST_CLASSES:
        wrong = y.min() if y.min() < 0 else y.max()
        raise fail(f"{y_name} holds the label {wrong}; labels are class numbers from 0 to below {MOST_CLASSES}")
    return Found(x_name, y.astype(np.int64), pixels=x if x.ndim == 4 else x[..., None])


def _class_names(file: Path | None, train: Found) -> tuple[str, ...]:
    """Return the names in ``classes.txt``, one a line, else the numbers as text."""
    count = int(train.labels.max()) + 1
    if file is None or not file.is_file():
        return tuple(map(str, range(count)))
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is not text; write one class name a line, or remove it") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) < count:
        raise BadData(
            f"{file} names {len(names)} classes but {train.name} holds labels up to {count - 1}; complete or remove it"
        )
    return names
