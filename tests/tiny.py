"""A network, a dataset and a clock so small that a whole build takes seconds and depends on nothing but its inputs.

Run as a script it is the command line with that clock, and writes a line to $TINY_EVENTS for every evaluation, epoch
and timing it finishes, so that a test can end it between any two of them and see what was done twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tiny_net
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.model import OnnxModel
from edgeprune.report import Latency, Measurement

QUICK: dict[str, Any] = {
    "effort": "quick",
    "evaluations": 24,
    "epochs": 1,
    "cost": "macs",
    "settings": {"task": {"batch": "32", "calibration": "64"}, "sparsify": {"recalibration": "64"}},
}
"""The smallest build that does everything, as options of ``edgeprune.compile``."""
COMMAND = ("compile", "net.safetensors", "--arch", "net.py:net", "--data", "data.npz", "--effort", "quick",
           "--evaluations", "24", "--epochs", "1", "--cost", "macs", "--set", "task.batch=32",
           "--set", "task.calibration=64", "--set", "sparsify.recalibration=64")  # fmt: skip
"""The same on the command line, for the files of ``write_inputs``."""


def network() -> nn.Module:
    """Return the network of ``tiny_net`` with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = tiny_net.net()
    return module.eval()


def images(count: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (count, 12, 12, 3) of stripes, and their labels: which way the stripes run."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows, columns = np.mgrid[:12, :12]
    waves = (rows, columns, rows + columns)
    phase = rng.integers(0, 4, count)
    found = np.stack([(waves[label % 3] + p) % 4 < 2 for label, p in zip(labels, phase, strict=True)])
    noisy = 90 * found[..., None] + rng.normal(70, 45, (count, 12, 12, 3))
    return noisy.clip(0, 255).astype(np.uint8), labels


def write_data(path: Path, train: int = 192, test: int = 240, **changes: Any) -> Path:
    """Write an ``.npz`` dataset; ``changes`` replace arrays, or leave them out where they are None."""
    x_train, y_train = images(train, 1)
    x_test, y_test = images(test, 2)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def trained() -> nn.Module:
    """Return the network after two seconds of training: above 95 % on the test images."""
    module = network()
    pixels, labels = images(480, 3)
    x = normalised(pixels)
    y = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    module.train()
    for _ in range(3):
        for chosen in torch.randperm(len(y), generator=generator).split(48):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return module.eval()


def normalised(pixels: np.ndarray) -> Tensor:
    """Return images as the task of a model without a spec feeds them: ImageNet's mean and deviation."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def write_inputs(folder: Path) -> Path:
    """Write ``net.py``, ``net.safetensors`` and ``data.npz`` to ``folder``."""
    shutil.copy(tiny_net.__file__, folder / "net.py")
    save_file({k: v.contiguous() for k, v in trained().state_dict().items()}, folder / "net.safetensors")
    write_data(folder / "data.npz")
    return folder


def macs(path: Path) -> float:
    """Return the multiply-accumulates of a graph's convolutions, those that are int8 counted half."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    weights = {i.name: i.dims for i in proto.graph.initializer}
    dequantized = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info}
    total = 0.0
    for node in proto.graph.node:
        if node.op_type == "Conv":
            name = node.input[1]
            work = float(np.prod(weights[dequantized.get(name, name)]) * np.prod(shapes[node.output[0]][2:]))
            total += work / 2 if name in dequantized else work
    return total


class Clock:
    """Stands in for ``Workshop.measure``: a millisecond a million MACs, and it counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def measure(self, models: Mapping[str, OnnxModel]) -> dict[str, Measurement]:
        self.calls.append(tuple(models))
        took = {name: macs(model.path) / 1e6 for name, model in models.items()}
        first = next(iter(took.values()))
        return {
            name: Measurement(
                source="measured",
                latency_ms=Latency(p50=ms, p90=ms, p99=ms),
                ratio=ms / first,
                ratio_interval=(ms / first, ms / first),
                conditions={"session": len(self.calls)},
            )
            for name, ms in took.items()
        }


def install(clock: Clock, patch: Callable[[Any, str, Any], None]) -> None:
    """Put the clock in the workshop's place and let builds see one core; ``patch`` is setattr, or monkeypatch's."""
    from edgeprune.compiler.workshop import Workshop

    patch(Workshop, "measure", lambda self, models: clock.measure(models))
    patch(Workshop, "complete", lambda self, one, model: one.model_copy(update={"peak_memory_bytes": 1_000_000}))
    patch(os, "sched_getaffinity", lambda process: {0})


def _note(line: str) -> None:
    with Path(os.environ["TINY_EVENTS"]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    if os.environ.get("TINY_INTERRUPT") == line.partition(" ")[0]:
        signal.raise_signal(signal.SIGINT)


def _watch() -> None:
    from edgeprune.compiler.cache import Journal
    from edgeprune.compiler.workshop import Workshop
    from edgeprune.passes.training import Training

    put, finish, measure = Journal.__setitem__, Training.finish, Workshop.measure

    def journal(self: Journal, name: str, value: float) -> None:
        put(self, name, value)
        _note(f"evaluation {self._path.name} {name}")

    def epoch(self: Training, number: int, loss: float, ctx: Any) -> None:
        finish(self, number, loss, ctx)
        _note(f"epoch {self.path.parent} {number}")

    def timing(self: Workshop, models: Any) -> Any:
        found = measure(self, models)
        _note(f"timing {' '.join(models)}")
        return found

    Journal.__setitem__, Training.finish, Workshop.measure = journal, epoch, timing  # type: ignore[method-assign]


if __name__ == "__main__":
    from edgeprune.cli import main

    install(Clock(), setattr)
    _watch()
    main(sys.argv[1:])
