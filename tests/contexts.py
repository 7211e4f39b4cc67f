"""A Context for tests of passes: ONNX Runtime on this machine, a clock that is made up, facts that can be read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.backends.base import Artifact
from edgeprune.backends.onnxruntime import OnnxRuntime
from edgeprune.budget import Budget
from edgeprune.model import ModelSpec, OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context
from edgeprune.profiles.board import Board, Int8Layout
from edgeprune.report import Latency, Measurement, Score
from edgeprune.tasks.base import Batch, Task

BOARD = Board(
    name="test-board",
    description="a processor for tests",
    backend="onnxruntime",
    local=True,
    opset=18,
    ir_version=10,
    precisions=("fp32", "int8"),
    channel_multiples={"fp32": 16, "int8": 4},
    int8=Int8Layout(activation="uint8"),
)


class Agreement(Task):
    """Images whose labels are what a given model says: its own score is 1, and a drop is a changed answer."""

    name = "agreement"

    def __init__(self, model: TorchModel, images: np.ndarray, calibration: np.ndarray | None = None) -> None:
        self._images, self._spec = images, model.spec
        self._labels = model.predict(images).argmax(1)
        self._calibration = images[:32] if calibration is None else calibration

    def spec(self) -> ModelSpec:
        return self._spec

    def splits(self) -> tuple[Any, ...]:
        return ()

    def train_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        yield Batch(torch.from_numpy(self._images), torch.from_numpy(self._labels))

    def train_steps(self) -> int:
        return 1

    def calibration_batches(self) -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(self._calibration).split(20)

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(output, batch.targets)

    def score(self, predict: Predict, split: str, indices: Any = None) -> Score:
        right = (predict(self._images).argmax(1) == self._labels).astype(np.float64)
        return Score(float(right.mean()), len(right), right)

    def digest(self) -> str:
        return "agreement"


@contextmanager
def open_onnx(model: OnnxModel) -> Iterator[Predict]:
    """Run an ONNX file with ONNX Runtime on one thread."""
    with OnnxRuntime().open(Artifact(model.path, model.spec, "onnxruntime", {}), 1) as runner:
        yield batched(runner, model.spec)


def clock(ratios: Mapping[str, float], width: float = 0.01, noisy: bool = False) -> Any:
    """Return a ``measure`` that gives each model the ratio under its name, or 1."""

    def measure(models: Mapping[str, OnnxModel]) -> dict[str, Measurement]:
        found = {}
        for name in models:
            ratio = ratios.get(name, 1.0)
            found[name] = Measurement(
                source="measured", latency_ms=Latency(p50=ratio, p90=ratio, p99=ratio), ratio=ratio,
                ratio_interval=(ratio - width, ratio + width), noisy=noisy,
            )  # fmt: skip
        return found

    return measure


def context(workspace: Path, model: TorchModel, **changes: Any) -> tuple[Context, dict[str, Any]]:
    """Return a Context for ``model`` and the facts its passes record; by its clock int8 is twice as fast."""
    facts: dict[str, Any] = {}
    options: dict[str, Any] = {
        "board": BOARD, "task": None, "budget": Budget(), "seed": 0, "original": model, "baseline": None,
        "open": open_onnx, "measure": clock({"int8": 0.5}), "workspace": workspace,
        "record": facts.__setitem__,
    }  # fmt: skip
    return Context(**{**options, **changes}), facts


def torch_model(module: nn.Module, shape: tuple[int, ...] = (1, 3, 16, 16), seed: int = 0) -> TorchModel:
    """Return a module in eval mode with a seeded example input of ``shape``."""
    generator = torch.Generator().manual_seed(seed)
    return TorchModel(module.eval(), ModelSpec(shape), (torch.randn(shape, generator=generator),))


def smooth_images(n: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 1) -> np.ndarray:
    """Return ``n`` seeded images, each a coarse pattern blown up, so that a network answers them differently."""
    coarse = np.random.default_rng(seed).standard_normal((n, shape[0], 4, 4)).astype(np.float32)
    return np.kron(coarse, np.ones((1, 1, shape[1] // 4, shape[2] // 4), np.float32)) * 2
