"""The pictures of a comparison: best score by true evaluations, and accuracy against MACs; as SVG and PNG."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from edgeprune.compiler.comparison_report import Comparison, MethodRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#3b78d8", "#e07b22", "#2f9e62", "#b4519b", "#d64545", "#c9a227", "#2aa5b8", "#8a8f98", "#8a5a3b",
            "#1f2f6b")  # fmt: skip
_MARKERS = "osD^vPX*<>h"
"""Not as many as colours: where both begin anew, they do so with other partners."""
_BROKEN = ("--", ":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 5)))
"""The lines of what differs from an agent's usual row: its start, what it was left without, or both."""
_GRID = "#d8dade"


def draw(report: Comparison) -> dict[str, bytes]:
    """Return the files curves.svg, curves.png, pareto.svg and pareto.png: the same bytes for the same report."""
    import matplotlib

    style: Any = {  # matplotlib's own type spells out every key there is
        "svg.hashsalt": "comparison", "svg.fonttype": "none", "font.size": 10.5, "axes.grid": True,
        "grid.color": _GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
        "axes.spines.right": False, "axes.formatter.useoffset": False, "legend.frameon": False, "legend.fontsize": 9.5,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        pictures = {"curves": _curves(report), "pareto": _pareto(report)}
        return {f"{name}.{kind}": _file(one, kind) for name, one in pictures.items() for kind in ("svg", "png")}


def _file(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=150, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def _curves(report: Comparison) -> Figure:
    from matplotlib.figure import Figure

    count = len(report.budgets)
    columns = min(count, 3)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(1.4 + 4.8 * columns, 0.9 + 3.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    looks = _looks(report)
    for budget, axes in zip(report.budgets, grid.flat, strict=False):
        rows = [row for row in report.rows if row.budget == budget.label]
        for at, row in enumerate(rows):
            # each thinner than the one below it, so that of two that did the same both are seen
            _curve(axes, row, {**looks[row.method], "linewidth": 1.4 + 2.6 * (1 - (at + 1) / len(rows))})
        axes.set_title(f"at most {budget.label}", fontsize=10.5, loc="left")
        axes.set_xlabel("true evaluations")
        what = report.metric if report.objective == "metric" else "agreement with the original"
        axes.set_ylabel(f"best {what} so far on search, %")
        axes.set_xlim(0, 1.02 * report.evaluations)
    figure.suptitle("Searches, before fine-tuning\n" + _band(report), fontsize=10.5, x=0.01, ha="left")
    _legend(figure, grid.flat[0])
    return figure


def _curve(axes: Axes, row: MethodRow, look: dict[str, Any]) -> None:
    at = [point.evaluations for point in row.curve]
    mean = [100 * point.mean for point in row.curve]
    if len(at) == 1:  # one evaluation, as uniform's: a line would not be seen
        axes.plot(at, mean, linestyle="none", label=row.method, **{k: look[k] for k in ("color", "marker")})
        return
    axes.plot(at, mean, drawstyle="steps-post", label=row.method, **{**look, "marker": "none"})
    axes.plot(at[-1:], mean[-1:], linestyle="none", markersize=5, **{k: look[k] for k in ("color", "marker")})
    low, high = ([100 * getattr(point, end) for point in row.curve] for end in ("low", "high"))
    axes.fill_between(at, low, high, step="post", alpha=0.12, color=look["color"], linewidth=0)


def _pareto(report: Comparison) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.5), layout="constrained")
    axes = figure.subplots()
    looks = _looks(report)
    for method, look in looks.items():
        rows = sorted((r for r in report.rows if r.method == method), key=lambda r: r.macs_share.mean)
        scores = [r.tuned or r.audit for r in rows]
        error = [100 * (s.interval[1] - s.mean) if s.interval else 0.0 for s in scores]
        for cell in report.cells:
            if cell.method == method:
                score = cell.audit if cell.tuned is None else cell.tuned
                axes.plot([100 * cell.macs / report.dense.macs], [100 * score], linestyle="none", markersize=4,
                          alpha=0.35, markeredgewidth=0, color=look["color"], marker=look["marker"])  # fmt: skip
        axes.errorbar([100 * r.macs_share.mean for r in rows], [100 * s.mean for s in scores], yerr=error, label=method,
                      capsize=3, linewidth=1.2, markersize=6, **look)  # fmt: skip
    axes.set_xlabel("MACs, % of the original's")
    axes.set_ylabel(f"{report.metric} on audit, %")
    epochs = "an epoch" if report.epochs == 1 else f"{report.epochs} epochs"
    after = f"after {epochs} of fine-tuning" if report.epochs else "before fine-tuning"
    interval = "; small: each seed, bars: 95 % interval of the mean" if len(report.seeds) > 1 else "; one seed"
    figure.suptitle(f"Chosen plans, {after}{interval}\nThe original: {100 * report.dense.audit:.2f} % at 100 % of the "
                    "MACs", fontsize=10.5, x=0.01, ha="left")  # fmt: skip
    axes.margins(x=0.12)
    # by the runs themselves: the intervals of two or three seeds may reach beyond what a score can be
    found = [100 * (cell.audit if cell.tuned is None else cell.tuned) for cell in report.cells]
    room = 0.12 * (max(found) - min(found)) or 1.0
    axes.set_ylim(min(found) - room, max(found) + room)
    _legend(figure, axes)
    return figure


def _band(report: Comparison) -> str:
    seeds = len(report.seeds)
    return f"Mean of {seeds} seeds, band from the lowest to the highest" if seeds > 1 else "One seed"


def _looks(report: Comparison) -> dict[str, dict[str, Any]]:
    """Return colour, marker and line of every method: one colour an agent, a broken line for each way to differ from
    its usual row.
    """
    agents = list(dict.fromkeys(row.agent for row in report.rows))
    differing = {row.method: (row.learns and not row.warm, row.ablation) for row in report.rows}
    ways = [way for way in dict.fromkeys(differing.values()) if any(way)]
    looks: dict[str, dict[str, Any]] = {}
    for row in report.rows:
        at, way = agents.index(row.agent), differing[row.method]
        line = _BROKEN[ways.index(way)] if any(way) else "-"
        marker, colour = _MARKERS[at % len(_MARKERS)], _COLOURS[at % len(_COLOURS)]
        looks[row.method] = {"color": colour, "marker": marker, "linestyle": line}
    return looks


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend beside the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
