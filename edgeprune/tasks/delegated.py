"""A task that is another's in all but what a subclass says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from edgeprune.model import ModelSpec, Predict
from edgeprune.report import Score
from edgeprune.tasks.base import Batch, Split, SplitInfo, Task


class Delegated(Task):
    """The given task, to be changed in part; its name and metric are its own, as passes and reports ask for them."""

    name = "delegated"

    def __init__(self, task: Task) -> None:
        self.given = task
        vars(self).update(name=task.name, metric=task.metric)

    def spec(self) -> ModelSpec:
        """Return the given task's."""
        return self.given.spec()

    def splits(self) -> tuple[SplitInfo, ...]:
        """Return the given task's."""
        return self.given.splits()

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the given task's."""
        return self.given.train_batches(epoch, seed)

    def train_steps(self) -> int:
        """Return the given task's."""
        return self.given.train_steps()

    def calibration_batches(self) -> Iterator[Tensor]:
        """Yield the given task's."""
        return self.given.calibration_batches()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the given task's."""
        return self.given.loss(output, batch)

    def distance(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the given task's."""
        return self.given.distance(output, taught, temperature)

    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        """Return the given task's."""
        return self.given.score(predict, split, indices)

    def digest(self) -> str:
        """Return the given task's."""
        return self.given.digest()
