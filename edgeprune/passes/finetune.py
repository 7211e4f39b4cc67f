"""finetune: win the accuracy back with the original as teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel, UnmetRequirement
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.hints import Hints
from edgeprune.passes.training import Training, ahead, seeded
from edgeprune.tasks.base import Batch, Task
from edgeprune.threads import threads


@dataclass(frozen=True)
class Finetune(Pass[TorchModel, TorchModel]):
    """Train the cut model on label loss and distillation, keep the epoch that scores best on the search split.

    SGD with Nesterov momentum; ``lr`` falls to zero along a cosine after a warm-up of ``warmup`` epochs.
    ``distillation`` in [0, 1] weighs the task's distance to the teacher's outputs (softened by ``temperature``, where
    the task softens) against the label loss; ``hints`` weighs, beside both and for each image, how far the features
    between the layers are from the teacher's. ``average`` in [0, 1) is the decay of a running average of the weights
    (Polyak and Juditsky, 1992); where it is above 0, the average is what is scored and kept, and an epoch is judged by
    the mean of its score and the one before. Training ends early when ``patience`` epochs in a row did not raise the
    score; 0 goes on to the end. The epoch before training counts as one of those to keep. Masked weights stay at zero.
    Resumes from the last finished epoch; an epoch is a function of (weights, optimizer state, seed, epoch), so a
    resumed run gives the same bytes.
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
    hints: float = 0.0
    average: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs must not be negative, not {self.epochs}")
        if not 0.0 <= self.distillation <= 1.0:
            raise ValueError(f"distillation is a weight in [0, 1], not {self.distillation}")
        if self.lr <= 0 or self.temperature <= 0:
            raise ValueError("lr and temperature must be above zero")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum is in [0, 1), not {self.momentum}")
        if min(self.weight_decay, self.warmup, self.hints, self.patience) < 0:
            raise ValueError("weight_decay, warmup, hints and patience must not be negative")
        if not 0.0 <= self.average < 1.0:
            raise ValueError(f"average is a decay in [0, 1), not {self.average}")

    def requires(self, model: TorchModel, ctx: Context) -> None:
        """Raise UnmetRequirement without training data."""
        if self.epochs and (ctx.task is None or ctx.task.name == "synthetic"):
            raise UnmetRequirement("fine-tuning needs training data; give --data, or --epochs 0")

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        """Return the model with the weights of its best epoch."""
        if self.epochs == 0 or ctx.task is None:
            return model
        with threads(ctx.train_threads):
            state = Training.start(model, self.momentum, self.weight_decay, self.average, ctx)
            if self.hints:
                state.hints = Hints(state.module, state.teacher, model.surgery, model.inputs)
            if state.unscored is not None:
                state.score(ctx)
            for epoch in range(state.epoch, self.epochs):
                if self.patience and epoch - state.best_epoch >= self.patience:
                    break
                with seeded(ctx.device, ctx.seed, epoch):
                    loss = self._epoch(state, ctx.task, ctx, epoch)
                state.finish(epoch, loss, ctx)
            if state.hints:
                state.hints.close()
        ctx.record("epochs", state.log)
        ctx.record("best_epoch", state.best_epoch)
        model.module.load_state_dict(state.best)
        return model

    def _epoch(self, state: Training, task: Task, ctx: Context, epoch: int) -> float:
        state.module.train()
        steps, total = task.train_steps(), 0.0
        batches = ahead(task.train_batches(epoch, ctx.seed))
        bar = ctx.progress.track(batches, f"fine-tune epoch {epoch + 1}/{self.epochs}", steps)
        for step, batch in enumerate(bar):
            for settings in state.optimizer.param_groups:
                settings["lr"] = self.lr * self._schedule((epoch + step / steps), self.epochs)
            loss = self._loss(state, task, batch, ctx)
            state.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(state.module.parameters(), 5.0)
            state.step()
            total += loss.item()
        if not math.isfinite(total):
            raise BadModel(
                f"fine-tuning diverged in epoch {epoch + 1}; lower the learning rate, "
                f"such as --set finetune.lr={self.lr / 4:g}"
            )
        return total / max(steps, 1)

    def _loss(self, state: Training, task: Task, batch: Batch, ctx: Context) -> Tensor:
        batch = batch.to(ctx.device)
        inputs = batch.inputs.contiguous(memory_format=state.layout)
        output = state.module(inputs)
        loss = task.loss(output, batch._replace(inputs=inputs))
        if self.distillation == self.hints == 0.0:
            return loss
        with torch.no_grad():
            taught = state.teacher(inputs)
        distance = task.distance(output, taught, self.temperature)
        loss = (1 - self.distillation) * loss + self.distillation * distance
        return loss + self.hints * len(inputs) * state.hints.distance() if state.hints else loss

    def _schedule(self, at: float, total: int) -> float:
        if at < self.warmup:
            return max(at / self.warmup, 0.01)
        return 0.5 * (1 + math.cos(math.pi * (at - self.warmup) / max(total - self.warmup, 1e-9)))
