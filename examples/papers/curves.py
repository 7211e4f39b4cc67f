"""Learning curves: what imagined episodes were paid, and the best true score, by true evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Curve = Sequence[Mapping[str, Any]]


def plot(curves: Sequence[tuple[str, Curve]], path: Path) -> None:
    """Draw a column for each named curve: the mean reward above, the best true score below."""
    matplotlib.rcParams["svg.hashsalt"] = "edgeprune"  # the same curves are the same bytes
    figure = Figure(figsize=(4 * len(curves), 5), layout="constrained")
    for at, (name, curve) in enumerate(curves):
        spent = [row["evaluations"] for row in curve]
        for below, (title, key) in enumerate((("mean reward, imagined", "mean_reward"), ("best true score", "best"))):
            axes = figure.add_subplot(2, len(curves), below * len(curves) + at + 1)
            known = [(x, row[key]) for x, row in zip(spent, curve, strict=True) if row[key] is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], marker=".")
            axes.set_title(name if not below else "")
            axes.set_ylabel(title if not at else "")
            axes.set_xlabel("true evaluations of the agent's own" if below else "")
    figure.savefig(path, metadata={"Date": None})
