"""What stands in for data where there is none: agreement with the original on synthetic images, and no floor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.errors import UnmetRequirement
from edgeprune.model import ModelSpec, Predict, TorchModel
from edgeprune.report import Score
from edgeprune.tasks.base import Batch, Split, SplitInfo, Task

IMAGES = 64
"""How many synthetic images each split holds."""
_STREAMS = {"search": 1, "test": 2, "calibration": 3, "warm-up": 4}
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Synthetic(Task):
    """Scores a model by how closely its outputs follow the original's on seeded synthetic images.

    ``model`` is the original; it must not change afterwards. The score says that a transformation kept the function (an
    exporter's bug or a wrong cut shows), not that it kept the accuracy on real images, so it never carries a floor.
    """

    name: ClassVar[str] = "synthetic"
    metric: ClassVar[str] = "agreement of the outputs"

    model: TorchModel
    seed: int = 0

    def spec(self) -> ModelSpec:
        """Return the original's spec."""
        return self.model.spec

    def splits(self) -> tuple[SplitInfo, ...]:
        """Return an empty train split and two of 64 synthetic images."""
        worth = "synthetic smooth noise: tells whether outputs follow the original's, nothing about accuracy"
        return (
            SplitInfo("train", 0, "none: there is no --data"),
            SplitInfo("search", IMAGES, worth),
            SplitInfo("test", IMAGES, worth),
        )

    def train_steps(self) -> int:
        """Return 0: there is nothing to train on."""
        return 0

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Raise UnmetRequirement: there is nothing to train on."""
        _needs_data()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Raise UnmetRequirement: there are no labels."""
        _needs_data()

    def calibration_batches(self) -> Iterator[Tensor]:
        """Yield synthetic images that neither split holds."""
        yield from torch.split(synthetic_images(self.spec(), IMAGES, self.seed, "calibration"), _BATCH)

    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        """Return one minus the relative error of the outputs, an image at a time, clipped to [0, 1].

        The error of an image is ||y - y0|| over the spread of the original's outputs y0 on this split,
        sqrt(mean ||y0 - mean y0||^2): 1 means equal outputs, 0 an error as large as telling the images apart
        takes. Outputs that are not finite, or of another shape than the original's, score 0.
        """
        images, expected, spread = self._reference[split]
        chosen = np.arange(IMAGES) if indices is None else np.asarray(indices, np.int64)
        outputs = predict(images[chosen])
        if outputs.shape != (len(chosen), *expected.shape[1:]):
            return Score(0.0, len(chosen), np.zeros(len(chosen)))
        difference = (outputs.astype(np.float64) - expected[chosen]).reshape(len(chosen), -1)
        error = np.linalg.norm(difference, axis=1) / spread
        per_item = np.clip(1.0 - np.nan_to_num(error, nan=1.0, posinf=1.0), 0.0, 1.0)
        return Score(float(per_item.mean()) if len(chosen) else 0.0, len(chosen), per_item)

    def digest(self) -> str:
        """Return the sha256 over the original model and the seed, which decide everything here."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(f"synthetic|{self.seed}|{self.model.digest()}".encode()).hexdigest()

    @cached_property
    def _reference(self) -> dict[Split, tuple[NDArray[np.float32], NDArray[np.float64], float]]:
        return {"search": self._expected("search"), "test": self._expected("test")}

    def _expected(self, split: Split) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
        images: NDArray[np.float32] = synthetic_images(self.spec(), IMAGES, self.seed, split).numpy()
        outputs = self.model.predict(images, batch=_BATCH).astype(np.float64)
        centred = (outputs - outputs.mean(0)).reshape(IMAGES, -1)
        spread = float(np.sqrt((centred**2).sum(1).mean()))
        # A constant output has no spread to compare with: then only equality counts.
        return images, outputs, max(spread, float(np.finfo(np.float64).tiny))


def synthetic_images(spec: ModelSpec, count: int, seed: int, stream: str) -> Tensor:
    """Return (count, C, H, W) normalised float32: smooth random shapes, uneven light, a little fine noise.

    Energy falls with frequency as in photographs. Uniform noise would not do: a trained network puts nearly all of it
    into one class. Streams (``_STREAMS``) of one seed are independent.
    """
    _, channels, height, width = spec.input_shape
    generator = torch.Generator().manual_seed(_seed(seed, stream))
    canvas = torch.zeros(count, channels, height, width)
    for cells in (2, 4, 8, 16):
        coarse = torch.randn(count, channels, min(cells, height), min(cells, width), generator=generator)
        grey = coarse.mean(1, keepdim=True).expand_as(coarse)
        mixed = F.interpolate(coarse + 2 * grey, (height, width), mode="bicubic", align_corners=False)
        canvas += mixed * 2 / cells
    canvas += 0.05 * torch.randn(canvas.shape, generator=generator)
    contrast = 0.5 + 2 * torch.rand(count, 1, 1, 1, generator=generator)
    pixels = torch.sigmoid(contrast * canvas)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    return (pixels - mean) / std


def warm_batchnorm(model: TorchModel, seed: int = 0) -> bool:
    """Estimate BatchNorm statistics on synthetic images if they still are as built (mean 0, variance 1); say whether.

    Changes ``model.module`` in place. A network with random weights and unit statistics gives nearly the same output
    for every image, so nothing could be compared; a trained network (any statistic moved) is left alone.
    """
    norms = [m for m in model.module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or not all(_untouched(m) for m in norms):
        return False
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average: every batch counts the same
        norm.train()
    try:
        with torch.no_grad():
            for batch in torch.split(synthetic_images(model.spec, IMAGES, seed, "warm-up"), _BATCH):
                model.module(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    return True


def _untouched(norm: nn.Module) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return isinstance(mean, Tensor) and isinstance(variance, Tensor) and not mean.any() and bool((variance == 1).all())


def _seed(seed: int, stream: str) -> int:
    return int(np.random.SeedSequence([seed, _STREAMS[stream]]).generate_state(1, np.uint64)[0] >> 1)


def _needs_data() -> NoReturn:
    raise UnmetRequirement("training needs images and labels, and there are none here; give a dataset with --data")
