"""Small datasets for the tests of tasks."""

from pathlib import Path

import numpy as np
from PIL import Image


def arrays(per_class=8, classes=3, size=8, channels=3, **replaced):
    """x_train, y_train, x_test, y_test; each image's first pixel is its label, so a perfect model can be written."""
    result = {}
    for number, split in enumerate(("train", "test")):
        rng = np.random.default_rng(number)
        labels = rng.permutation(np.repeat(np.arange(classes), per_class))
        images = rng.integers(0, 256, (len(labels), size, size, channels), np.uint8)
        images[:, 0, 0, :] = labels[:, None]
        result |= {f"x_{split}": images, f"y_{split}": labels}
    return {k: v for k, v in {**result, **replaced}.items() if v is not None}


def write(path: Path, **content) -> Path:
    np.savez(path, **content)
    return path


def tree(root: Path, splits=("train", "val"), classes=("ant", "bee"), each=4, size=(12, 9)) -> Path:
    """An image folder whose images hold their class number times 100 in every pixel; ``size`` is (width, height)."""
    for split in splits:
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                Image.new("RGB", size, (100 * label,) * 3).save(root / split / name / f"{number}.png")
    return root


def oracle(spec):
    """A model that reads the label back from the first pixel."""

    def predict(images):
        first = images[:, 0, 0, 0] * spec.std[0] + spec.mean[0]
        return np.eye(16, dtype=np.float32)[np.rint(first * 255).astype(int)]

    return predict
