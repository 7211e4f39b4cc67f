"""A training run between two epochs; what is put on the disk is all that a resumed run needs."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune import masks
from edgeprune.files import write_atomic
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context
from edgeprune.passes.hints import Hints
from edgeprune.tasks.base import Batch

_BLOCK = 16
_SAVED = ("epoch", "steps", "best", "best_score", "best_epoch", "log", "unscored")


@dataclass
class Training:
    """The module in training, its teacher, and what is known so far.

    ``averaged`` is the running average of the weights, or ``module`` itself where none is kept: it is what is scored.
    ``unscored`` is the loss of an epoch that was trained and not yet scored.
    """

    module: nn.Module
    averaged: nn.Module
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    decay: float
    layout: torch.memory_format
    path: Path
    best: dict[str, Tensor]
    best_score: float = 0.0
    best_epoch: int = 0
    epoch: int = 0
    steps: int = 0
    log: list[dict[str, Any]] | None = None
    unscored: float | None = None
    hints: Hints | None = None

    @staticmethod
    def start(model: TorchModel, momentum: float, weight_decay: float, average: float, ctx: Context) -> Training:
        """Return a run on a copy of ``model``, with the original as teacher: a new one, or the one that was left."""
        assert ctx.task is not None
        order = layout(model.module, ctx.device)
        placed: dict[str, Any] = {"device": ctx.device, "memory_format": order}
        module = model.clone().module.to(**placed)
        averaged = copy.deepcopy(module).eval() if average else module
        masks.hold(module, model)
        teacher = ctx.original.clone().module.to(**placed).eval()
        parameters = _decayed(module, weight_decay)
        optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=momentum, nesterov=momentum > 0)
        run = Training(module, averaged, teacher, optimizer, average, order, ctx.workspace / "epoch.pt", {})
        if run.path.exists():
            run._resume(ctx.device)
            return run
        run.best_score = ctx.task.score(model.predict, "search").value
        run.best = {k: v.clone() for k, v in model.module.state_dict().items()}
        run.log = [{"epoch": 0, "loss": None, "score": run.best_score}]
        return run

    def step(self) -> None:
        """Apply the gradients, and let the average follow.

        Its decay rises to the one asked for, as (1 + t) / (10 + t), so that the first steps do not weigh for ever.
        """
        self.optimizer.step()
        self.steps += 1
        if self.averaged is self.module:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            now = self.module.state_dict()
            for name, mean in self.averaged.state_dict().items():
                if mean.is_floating_point():
                    mean.lerp_(now[name], 1.0 - decay)
                else:
                    mean.copy_(now[name])

    def finish(self, epoch: int, loss: float, ctx: Context) -> None:
        """Write down a trained epoch, then score it: a kill while scoring loses no training."""
        self.epoch, self.unscored = epoch + 1, loss
        self._save()
        self.score(ctx)

    def score(self, ctx: Context) -> None:
        """Score the last epoch, remember it if it is the best so far, and write that down.

        Where an average of the weights is scored, an epoch is judged by the mean of its score and the one before: the
        weights are nearly the same, and the best of many noisy scores promises what other images do not keep.
        """
        assert ctx.task is not None and self.log is not None
        module = self.averaged.eval()
        score = ctx.task.score(TorchModel(module, ctx.original.spec, ctx.original.inputs).predict, "search").value
        self.log.append({"epoch": self.epoch, "loss": self.unscored, "score": score})
        self.unscored = None
        smooth = self.averaged is not self.module and self.epoch > 1
        judged = (score + self.log[-2]["score"]) / 2 if smooth else score
        if judged > self.best_score:
            self.best_score, self.best_epoch = judged, self.epoch
            self.best = {k: v.clone().contiguous() for k, v in module.state_dict().items()}
        self._save()

    def _save(self) -> None:
        saved = {name: getattr(self, name) for name in _SAVED}
        saved["module"], saved["optimizer"] = self.module.state_dict(), self.optimizer.state_dict()
        saved["averaged"] = self.averaged.state_dict()
        buffer = io.BytesIO()  # torch's own writer answers a full disk with a RuntimeError
        torch.save(saved, buffer)
        write_atomic(self.path, buffer.getvalue())

    def _resume(self, device: str) -> None:
        saved = torch.load(self.path, weights_only=True, map_location=device)
        self.module.load_state_dict(saved["module"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in _SAVED:
            setattr(self, name, saved[name])


def layout(module: nn.Module, device: str) -> torch.memory_format:
    """Return how tensors had better lie in memory while ``module`` is trained: channels last, which is faster.

    Except on a processor where a strided 1x1 convolution has fewer inputs than a block of oneDNN's kernels (16 with
    AVX-512): up to 3.12 at least, the gradient of its weights is written past the end of a buffer (oneDNN's issue
    6035), and the process dies or learns nonsense. Pruned shortcuts are such convolutions.
    """
    if device != "cpu":
        return torch.channels_last
    strided = (part for part in module.modules()
               if isinstance(part, nn.Conv2d) and set(part.kernel_size) == {1} and max(part.stride) > 1)  # fmt: skip
    narrow = any(part.in_channels // part.groups < _BLOCK for part in strided)
    return torch.contiguous_format if narrow else torch.channels_last


@contextmanager
def seeded(device: str, seed: int, epoch: int) -> Iterator[None]:
    """Let what is random in layers (dropout, stochastic depth) hang on seed and epoch alone, as long as this lasts."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches, each made while the one before it is trained on; they come in order, and end when asked to."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _decayed(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for filters only: biases and norms shrink towards nothing useful."""
    filters = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    return [{"params": filters, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
