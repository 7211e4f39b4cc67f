"""How near a plan's outputs stay to the original's: what a few images tell of a plan, and labels only of many.

Whether an image is right is one bit, and two plans that differ by a point differ in one image of a hundred. Outputs
differ in every image. On ResNet-56 at half its MACs the order of the better plans by their distance on 100 images is
nearer to that of their accuracy on others than the order by accuracy on 400 is (benchmarks/results/agreement.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import BadModel, BadOption
from edgeprune.model import Predict
from edgeprune.tasks.base import Task

TEMPERATURE = 4.0
"""Softens outputs, as in distillation: at 1 a few images with a confident mistake decide the whole distance."""
MOST = 1e9
"""Bytes of outputs that are kept, at most: a detector's heads are large."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """What the original answers to the images ``indices`` of the search split, batch by batch, and how far an answer
    lies from it that is the same for every image, ``spread`` > 0.
    """

    task: Task
    indices: Sequence[int]
    wanted: Sequence[torch.Tensor]
    spread: float

    def of(self, predict: Predict) -> float:
        """Return 1 / (1 + distance / spread), in [0, 1]: 1 for the original's own outputs, a half for the mean of them
        whatever the image, 0 where outputs are not finite. The distance is the task's, of no labels.
        """
        found = _answers(self.task, predict, self.indices)
        apart = distance(self.task, found, self.wanted)
        return 1.0 / (1.0 + apart / self.spread) if np.isfinite(apart) else 0.0


def agreement(task: Task, predict: Predict, indices: Sequence[int]) -> Agreement:
    """Ask the original. Raises BadModel where the task's distance does not tell its outputs from their mean, BadOption
    where its outputs would take more memory than MOST.
    """
    wanted = _answers(task, predict, indices, MOST)
    total = sum(len(part) for part in wanted)
    mean = torch.stack([part.sum(0) for part in wanted]).sum(0) / max(total, 1)
    spread = distance(task, [mean.expand_as(part) for part in wanted], wanted)
    if not (np.isfinite(spread) and spread > 0.0):
        raise BadModel(
            f"the original's outputs lie {spread:g} from their mean over {total} images, so plans cannot be told apart "
            "by how near they stay to them; give --set sparsify.objective=metric"
        )
    return Agreement(task, indices, wanted, spread)


def distance(task: Task, found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Return the mean over all images of the task's distance between outputs, batch by batch of the same sizes."""
    total = sum(len(part) for part in wanted)
    with torch.no_grad():
        return sum(len(right) * task.distance(left, right, TEMPERATURE).item()
                   for left, right in zip(found, wanted, strict=True)) / max(total, 1)  # fmt: skip


def _answers(task: Task, predict: Predict, indices: Sequence[int], most: float = np.inf) -> list[torch.Tensor]:
    """Return a model's outputs for images of the search split, in the batches that the task asks in."""
    parts: list[torch.Tensor] = []

    def asked(images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = predict(images)
        each = outputs.nbytes / max(len(outputs), 1)
        if each * len(indices) > most:
            raise BadOption(
                f"agreement keeps the original's outputs, {each * len(indices) / 1e9:.1f} GB of {len(indices)} images; "
                f"give --set sparsify.images={max(1, int(most / each))} or fewer, or sparsify.objective=metric"
            )
        parts.append(torch.from_numpy(outputs))
        return outputs

    task.score(asked, "search", indices)
    return parts
