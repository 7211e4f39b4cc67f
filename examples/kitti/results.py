"""The study's rows, the figures published for the same question, and how both become a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PUBLISHED = {0.0: (0.425, 45.0), 0.5: (0.417, 28.0), 0.75: (0.395, 16.0), 0.9: (0.348, 11.0)}
"""Share removed: (mAP, milliseconds) as the hyper-efficient pruning paper states them for a YOLOv5 on KITTI.

Another model size, input, split and machine (Jetson AGX Xavier), and "sparsity" there means weights that are zero: to
be read beside our rows, not against them.
"""


@dataclass(frozen=True)
class Row:
    """One finished artifact. ``level`` is the share of the dense model's parameters to be gone, or zero.

    ``score`` is mAP50-95 on the images that chose nothing, ``drop`` against the dense model on the same images with its
    95 % bootstrap interval; ``ratio`` is p50 beside the dense float model in the same session, on one thread.
    """

    method: str
    level: float
    seed: int
    precision: str
    score: float
    drop: float
    interval: tuple[float, float]
    p50_ms: float
    ratio: float
    size_bytes: int
    macs: float
    parameters: int
    before_training: float | None = None


def markdown(rows: Sequence[Row]) -> str:
    """Return the table: a line a method and level, mean and spread (standard deviation) over the seeds."""
    lines = [
        "| removed | method | precision | seeds | mAP50-95 | drop, points | p50, × dense | MACs, × dense "
        "| size, × dense | published mAP, ms |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    dense = next(r for r in rows if r.method == "dense" and r.precision == "fp32")
    for key in dict.fromkeys((r.level, r.method, r.precision) for r in rows):
        same = [r for r in rows if (r.level, r.method, r.precision) == key]
        level, method, precision = key
        said = PUBLISHED.get(level) if precision == "fp32" and method in ("dense", "agent") else None
        cells = (
            f"{100 * level:.0f} %", method, precision, str(len(same)), _spread([100 * r.score for r in same], 1),
            _spread([100 * r.drop for r in same], 1), _spread([r.ratio for r in same], 2),
            _spread([r.macs / dense.macs for r in same], 2),
            _spread([r.size_bytes / dense.size_bytes for r in same], 2),
            f"{100 * said[0]:.1f}, {said[1]:.0f}" if said else "",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def comparison(rows: Sequence[Row]) -> list[str]:
    """Say for each level how the agent did beside uniform pruning, seed by seed."""
    said = []
    for level in sorted({r.level for r in rows if r.method == "agent"}):
        pairs = [
            (a.score, u.score)
            for a in rows
            for u in rows
            if (a.method, u.method) == ("agent", "uniform") and a.level == u.level == level
            and a.seed == u.seed and a.precision == u.precision == "fp32"
        ]  # fmt: skip
        if pairs:
            gains = [100 * (a - u) for a, u in pairs]
            said.append(
                f"{100 * level:.0f} % removed: the agent's mAP is {_spread(gains, 2)} points above uniform pruning's "
                f"over {len(gains)} seed{'s' * (len(gains) > 1)} ({', '.join(f'{g:+.2f}' for g in gains)})"
            )
    return said


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw mAP over the share removed, a line a method with its spread, and the published figures dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    dense = next(r for r in rows if r.method == "dense" and r.precision == "fp32")
    colours = {"agent": "#1b6ca8", "uniform": "#c8553d", "zero weights": "#5b8c5a"}
    for method, colour in colours.items():
        for precision, style in (("fp32", "-o"), ("int8", ":s")):
            found = [r for r in rows if r.method == method and r.precision == precision]
            levels = sorted({r.level for r in found})
            means = [[100 * r.score for r in found if r.level == level] for level in levels]
            if levels:
                spread = [statistics.stdev(m) if len(m) > 1 else 0.0 for m in means]
                axes.errorbar(
                    [0.0, *(100 * x for x in levels)], [100 * dense.score, *map(statistics.fmean, means)],
                    [0.0, *spread], fmt=style, color=colour, markersize=4, linewidth=1.3, capsize=3,
                    label=f"{method}, {precision}",
                )  # fmt: skip
    axes.plot(
        [100 * x for x in PUBLISHED], [100 * m for m, _ in PUBLISHED.values()], "--", color="#888888", linewidth=1.2,
        label="published (another model and machine)",
    )  # fmt: skip
    axes.set_xlabel("parameters removed, %")
    axes.set_ylabel("mAP50-95 on KITTI's validation images, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
