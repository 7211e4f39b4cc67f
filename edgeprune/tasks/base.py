"""The contract between a build and what the model is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.model import ModelSpec, Predict
from edgeprune.report import Score

Split = Literal["search", "test"]


class Batch(NamedTuple):
    """Training images, float32 (n, C, H, W), and whatever the task's loss needs beside them."""

    inputs: Tensor
    targets: Any

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch with its images, and all tensors among its targets, on ``device``."""
        return Batch(self.inputs.to(device), _placed(self.targets, device))


def _placed(value: Any, device: str | torch.device) -> Any:
    """Return a tensor, or those in lists, tuples and dicts, on ``device``, and anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _placed(one, device) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_placed(one, device) for one in value)
    return value


@dataclass(frozen=True)
class SplitInfo:
    """A split by name (train, search, test), where it came from and how many images it holds."""

    name: str
    n: int
    origin: str


class Task(ABC):
    """Data, loss and score of one dataset; the same evaluator judges torch modules, ONNX sessions and engines.

    Three splits: *train* is trained on, *search* judges inside a build, *test* is read once for the original and once
    for the final artifact and never chooses anything.
    """

    name: ClassVar[str]
    metric: ClassVar[str] = "score"
    """What its score is called, for the report."""
    training: ClassVar[Mapping[str, Any]] = {}
    """What ``finetune`` had better use on this kind of data, where that is not its own default."""
    searching: ClassVar[Mapping[str, Any]] = {}
    """What ``sparsify`` had better use, likewise."""
    epochs: ClassVar[Mapping[str, int]] = {"quick": 3, "normal": 5, "long": 20}
    """Epochs that win the accuracy back, by effort."""

    @abstractmethod
    def spec(self) -> ModelSpec:
        """Return the input shape (batch 1), normalisation and classes of this data."""

    @abstractmethod
    def splits(self) -> tuple[SplitInfo, ...]:
        """Return the splits in the order train, search, test."""

    @abstractmethod
    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield one epoch of shuffled, augmented training batches: a pure function of (epoch, seed)."""

    @abstractmethod
    def train_steps(self) -> int:
        """Return the number of batches ``train_batches`` yields."""

    @abstractmethod
    def calibration_batches(self) -> Iterator[Tensor]:
        """Yield training images as evaluation sees them, float32 (n, C, H, W), always the same ones in one order."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the label loss of a batch, a scalar."""

    def distance(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return how far a batch's outputs are from the teacher's, a scalar; 0 where they are equal.

        Unless a task knows better, the Kullback-Leibler divergence of the outputs softened by ``temperature``, times
        its square so that the gradient keeps the label loss's scale (Hinton et al., 2015, equation 4).
        """
        student = F.log_softmax(output / temperature, dim=1)
        teacher = F.log_softmax(taught / temperature, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2

    @abstractmethod
    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        """Score a model on a split, or on the images of it that ``indices`` names; higher is better."""

    @abstractmethod
    def digest(self) -> str:
        """Return the sha256 over the data's *content* and every option that changes what the methods return."""
