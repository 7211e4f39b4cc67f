"""finetune: win the accuracy back with the original as teacher."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.errors import BadModel, UnmetRequirement
from edgeprune.files import write_atomic
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.tasks.base import Batch, Task


@dataclass(frozen=True)
class Finetune(Pass[TorchModel, TorchModel]):
    """Train the cut model on label loss and distillation, keep the epoch that scores best on the search split.

    SGD with Nesterov momentum; ``lr`` falls to zero along a cosine after a warm-up of ``warmup`` epochs.
    ``distillation`` in [0, 1] weighs the teacher's softened outputs (temperature ``temperature``; Hinton et al.,
    2015, equation 4 with the T² factor) against the label loss. The epoch before training counts as one of those to
    keep. Resumes from the last finished epoch; an epoch is a function of (weights, optimizer state, seed, epoch), so
    a resumed run gives the same bytes.
    """

    name = "finetune"
    takes = TorchModel
    gives = TorchModel

    epochs: int = 6
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    distillation: float = 0.7
    temperature: float = 4.0
    warmup: float = 0.25

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs must not be negative, not {self.epochs}")
        if not 0.0 <= self.distillation <= 1.0:
            raise ValueError(f"distillation is a weight in [0, 1], not {self.distillation}")
        if self.lr <= 0 or self.temperature <= 0:
            raise ValueError("lr and temperature must be above zero")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum is in [0, 1), not {self.momentum}")
        if self.weight_decay < 0 or self.warmup < 0:
            raise ValueError("weight_decay and warmup must not be negative")

    def requires(self, model: TorchModel, ctx: Context) -> None:
        """Raise UnmetRequirement without training data."""
        if self.epochs and (ctx.task is None or ctx.task.name == "synthetic"):
            raise UnmetRequirement("fine-tuning needs training data; give --data, or --epochs 0")

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        """Return the model with the weights of its best epoch."""
        if self.epochs == 0 or ctx.task is None:
            return model
        with _threads(ctx.train_threads):
            state = _State.start(self, model, ctx)
            if state.unscored is not None:
                state.score(ctx)
            for epoch in range(state.epoch, self.epochs):
                loss = self._epoch(state, ctx.task, ctx, epoch)
                state.finish(epoch, loss, ctx)
        ctx.record("epochs", state.log)
        ctx.record("best_epoch", state.best_epoch)
        model.module.load_state_dict(state.best)
        return model

    def _epoch(self, state: _State, task: Task, ctx: Context, epoch: int) -> float:
        state.module.train()
        steps, total = task.train_steps(), 0.0
        bar = ctx.progress.track(
            task.train_batches(epoch, ctx.seed), f"fine-tune epoch {epoch + 1}/{self.epochs}", steps
        )
        for step, batch in enumerate(bar):
            for settings in state.optimizer.param_groups:
                settings["lr"] = self.lr * self._schedule((epoch + step / steps), self.epochs)
            loss = self._loss(state, task, batch, ctx)
            state.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(state.module.parameters(), 5.0)
            state.optimizer.step()
            total += loss.item()
        if not math.isfinite(total):
            raise BadModel(
                f"fine-tuning diverged in epoch {epoch + 1}; lower the learning rate, "
                f"such as --set finetune.lr={self.lr / 4:g}"
            )
        return total / max(steps, 1)

    def _loss(self, state: _State, task: Task, batch: Batch, ctx: Context) -> Tensor:
        inputs = batch.inputs.to(ctx.device).contiguous(memory_format=torch.channels_last)
        output = state.module(inputs)
        loss = task.loss(output, batch._replace(inputs=inputs))
        if self.distillation == 0.0:
            return loss
        with torch.no_grad():
            taught = state.teacher(inputs)
        return (1 - self.distillation) * loss + self.distillation * _distance(output, taught, self.temperature)

    def _schedule(self, at: float, total: int) -> float:
        if at < self.warmup:
            return max(at / self.warmup, 0.01)
        return 0.5 * (1 + math.cos(math.pi * (at - self.warmup) / max(total - self.warmup, 1e-9)))


def _distance(output: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened outputs, times T² so that its gradient keeps the label loss's
    scale.
    """
    student = F.log_softmax(output / temperature, dim=1)
    return (
        F.kl_div(student, F.log_softmax(taught / temperature, dim=1), reduction="batchmean", log_target=True)
        * temperature**2
    )


@dataclass
class _State:
    """A training run between two epochs; what is put on the disk is all a resumed run needs.

    ``unscored`` is the loss of an epoch that was trained and not yet scored.
    """

    module: nn.Module
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    path: Path
    epoch: int
    best: dict[str, Tensor]
    best_score: float
    best_epoch: int
    log: list[dict[str, Any]]
    unscored: float | None = None

    @staticmethod
    def start(options: Finetune, model: TorchModel, ctx: Context) -> _State:
        layout: dict[str, Any] = {"device": ctx.device, "memory_format": torch.channels_last}
        module = model.clone().module.to(**layout)
        teacher = ctx.original.clone().module.to(**layout).eval()
        optimizer = torch.optim.SGD(
            _decayed(module, options.weight_decay),
            lr=options.lr,
            momentum=options.momentum,
            nesterov=options.momentum > 0,
        )
        assert ctx.task is not None
        path = ctx.workspace / "epoch.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True, map_location=ctx.device)
            module.load_state_dict(saved["module"])
            optimizer.load_state_dict(saved["optimizer"])
            return _State(
                module,
                teacher,
                optimizer,
                path,
                saved["epoch"],
                saved["best"],
                saved["best_score"],
                saved["best_epoch"],
                saved["log"],
                saved["unscored"],
            )
        first = ctx.task.score(model.predict, "search").value
        weights = {k: v.clone() for k, v in model.module.state_dict().items()}
        return _State(
            module, teacher, optimizer, path, 0, weights, first, 0, [{"epoch": 0, "loss": None, "score": first}]
        )

    def finish(self, epoch: int, loss: float, ctx: Context) -> None:
        """Write down a trained epoch, then score it: a kill while scoring loses no training."""
        self.epoch, self.unscored = epoch + 1, loss
        self._save()
        self.score(ctx)

    def score(self, ctx: Context) -> None:
        """Score the last epoch, remember it if it is the best so far, and write that down."""
        assert ctx.task is not None
        self.module.eval()
        score = ctx.task.score(TorchModel(self.module, ctx.original.spec, ctx.original.inputs).predict, "search").value
        self.log.append({"epoch": self.epoch, "loss": self.unscored, "score": score})
        self.unscored = None
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = {k: v.clone().contiguous() for k, v in self.module.state_dict().items()}
        self._save()

    def _save(self) -> None:
        saved = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "log": self.log,
            "unscored": self.unscored,
        }
        buffer = io.BytesIO()  # torch's own writer answers a full disk with a RuntimeError
        torch.save(saved, buffer)
        write_atomic(self.path, buffer.getvalue())


def _decayed(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for filters only: biases and norms shrink towards nothing useful."""
    filters = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    return [{"params": filters, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
