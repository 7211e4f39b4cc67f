"""A task small enough for searches and training in tests; it keeps count of what it was asked."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from contexts import Agreement, smooth_images

from edgeprune.model import Predict, TorchModel
from edgeprune.report import Score
from edgeprune.tasks.base import Batch, Split, SplitInfo


class Answers(Agreement):
    """Images to be answered as a given model does; the same ones in every split.

    ``scored`` counts the scorings, ``begun`` and ``finished`` list the epochs; ``stop_in`` names one whose second batch
    is an interruption. With ``scores`` the n-th scoring has the n-th of them for a value, whatever the model.
    """

    name = "answers"

    def __init__(
        self, model: TorchModel, n: int = 64, stop_in: int | None = None, scores: Sequence[float] | None = None
    ) -> None:
        super().__init__(model, smooth_images(n))
        self.stop_in, self._script = stop_in, scores
        self.scored, self.begun, self.finished = 0, [], []
        self._lock = threading.Lock()

    def splits(self) -> tuple[SplitInfo, ...]:
        return tuple(SplitInfo(name, len(self._images), "made up") for name in ("train", "search", "test"))

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        self.begun.append(epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(self._images))
        for i, chosen in enumerate(np.split(order, self.train_steps())):
            if epoch == self.stop_in and i == 1:
                raise KeyboardInterrupt
            yield Batch(torch.from_numpy(self._images[chosen]), torch.from_numpy(self._labels[chosen]))
        self.finished.append(epoch)

    def train_steps(self) -> int:
        return 4

    def score(self, predict: Predict, split: Split, indices: Sequence[int] | None = None) -> Score:
        with self._lock:
            number, self.scored = self.scored, self.scored + 1
        chosen = np.arange(len(self._images)) if indices is None else np.array(indices)
        right = (predict(self._images[chosen]).argmax(1) == self._labels[chosen]).astype(np.float64)
        value = self._script[number] if self._script else float(right.mean())
        return Score(value, len(right), right)
