"""Under which conditions a benchmark ran, and tables in markdown: what the scripts share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgeprune.compiler.cache import versions
from edgeprune.profiles import board

SHOWN = ("python", "torch", "numpy", "onnxruntime", "stable-baselines3", "sb3-contrib")


def conditions(load_before: float, **more: object) -> str:
    """Return a bullet list: processor, load before and after, versions, and whatever else is named."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: Mapping[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{board.load('host-cpu').detected.get('cpu')}, {cores} cores",
        "load average before and after": f"{load_before:.1f}, {load():.1f}",
        "versions": ", ".join(f"{name} {versions()[name]}" for name in SHOWN if name in versions()),
        **more,
    }
    return "\n".join(f"- {name}: {value}" for name, value in found.items()) + "\n"


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (titles, rule, *rows))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median and, in brackets, the 10th and 90th percentile."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def data_pack() -> Path:
    """Return the folder with ``weights/`` and ``cifar10/``; ends the script with a sentence where there is none."""
    folder = Path(os.environ.get("EDGEPRUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not ((folder / "weights").is_dir() and (folder / "cifar10").is_dir()):
        sys.exit(f"{folder} holds no weights/ and cifar10/; name a folder that does in EDGEPRUNE_DATA")
    return folder
