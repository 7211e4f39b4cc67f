"""What the tests of comparisons share: a small contest over the tiny network, on a target that likes any width."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeprune
from edgeprune.compiler.comparison_report import Comparison
from edgeprune.profiles import board as boards

SETTINGS = {
    "task": {"batch": "32", "calibration": "64"},
    "sparsify": {"recalibration": "64", "images": "50", "objective": "metric"},
}
AGENTS = ("random", "greedy", "uniform")
COMMAND = ("compare", "net.safetensors", "--arch", "net.py:net", "--data", "data.npz", "--target", "fine.toml",
           "--max-macs", "0.3x", "--seeds", "2",
           "--evaluations", "12", "--set", "task.batch=32", "--set", "task.calibration=64", "--set",
           "sparsify.recalibration=64", "--set", "sparsify.objective=metric", "--images", "50")  # fmt: skip


@dataclass(frozen=True)
class Done:
    """The shared comparison: what it said, where it lies, and every scoring it asked the task for."""

    report: Comparison
    out: Path
    cache: Path
    scored: list[tuple[str, tuple[int, ...] | None]]


def write_target(folder: Path) -> None:
    """Put a target beside the inputs that likes any width, so that there are many plans to choose from."""
    text = (Path(boards.__file__).parent / "host-cpu.toml").read_text(encoding="utf-8")
    (folder / "fine.toml").write_text(re.sub(r"(?m)^(fp32|fp16|int8) = \d+$", r"\1 = 1", text), encoding="utf-8")


def compared(**changes: Any) -> Comparison:
    """Run the contest, changed so, inside the folder of the inputs."""
    options = {
        "model": "net.safetensors", "arch": "net.py:net", "data": "data.npz", "target": "fine.toml", "agents": AGENTS,
        "seeds": 2, "evaluations": 12, "settings": SETTINGS, "max_macs": "0.3x", **changes,
    }  # fmt: skip
    return edgeprune.compare(**options)
