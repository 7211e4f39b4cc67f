"""The report as one HTML page: no network, no scripts, the same bytes for the same report."""

from __future__ import annotations

import io
import math
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edgeprune.compiler import wording
from edgeprune.report import Candidate, EngineRow, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _LINE = "#010203", "#010204"  # stand-ins, swapped for the page's own colours so that plots follow dark mode
_COLOURS = ("#3b78d8", "#e07b22", "#2f9e62", "#b4519b", "#8a8f98", "#c9a227", "#d64545", "#2aa5b8")
_MARKERS = "osD^vPX*"
_SHOWN = 12
"""Kernels of an engine that stand open; the others are folded away."""
_LONG = 100
"""Items of a fact: more are counted, not written."""


def render(report: Report) -> str:
    """Return the page. What was not measured is said to be so, and never drawn."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for write in (wording.milliseconds, wording.size, wording.count, wording.percent, wording.points, wording.ratio,
                  wording.seconds):
        environment.filters[write.__name__] = partial(_unbroken, write)
    environment.filters.update(drop=wording.drop, precisions=wording.precisions)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.render(
        r=report, headline=_headline(report), checks=_checks(report), pruning=wording.pruning_gain(report),
        judgement=wording.judgement(report), plots=_plots(report), text=_text, p50=wording.p50,
        engine=None if report.engine is None else _engine(report.engine),
        latency_ratio=lambda c: wording.latency_ratio(c, report.baseline),
    )


def _unbroken(write: Callable[[float | None], str], value: float | None) -> str:
    """Keep a number and its unit on one line."""
    return write(value).replace(" ", "\N{NO-BREAK SPACE}")


def _headline(report: Report) -> list[dict[str, str]]:
    """Return the figures people look for first: original, result, ratio and how it is known."""
    a, b = report.baseline, report.result
    if b is None:
        return []
    known = f"{b.measurement.source}" + (", noisy" if b.measurement.noisy else "")
    energy = (a.measurement.energy_mj, b.measurement.energy_mj)
    rows: list[tuple[str, Callable[[float | None], str], float | None, float | None, str]] = [
        ("Latency, p50", wording.milliseconds, wording.p50(a), wording.p50(b), known),
        ("Size", wording.size, a.size_bytes, b.size_bytes, "exact"),
        ("MACs", wording.count, a.macs, b.macs, "exact"),
        ("Parameters", wording.count, a.parameters, b.parameters, "exact"),
        *_unmasked(a, b),
        ("Energy a run", wording.millijoules, *energy, b.measurement.energy_source),
    ]
    cards = []
    for title, write, before, after, source in rows:
        change = wording.latency_ratio(b, a) if write is wording.milliseconds else wording.share(after, before)
        cards.append({"title": title, "before": write(before), "after": write(after),
                      "ratio": "" if change is None else wording.ratio(change),
                      "source": "unavailable" if after is None else source})
    score = b.score
    cards.append({
        "title": "Outputs changed, no data" if score and score.split == "synthetic" else "Accuracy drop",
        "before": wording.percent(a.score.value if a.score else None),
        "after": _unbroken(wording.points, score.drop if score else None), "ratio": "",
        "source": "unavailable" if score is None else f"{score.split} split, n = {score.n}"})
    return cards


def _unmasked(
    a: Candidate, b: Candidate
) -> list[tuple[str, Callable[[float | None], str], float | None, float | None, str]]:
    """Return the cards of a masked result: what is not zero, and what compressing makes of the zeros."""
    if b.nonzero_parameters is None:
        return []
    return [
        ("Parameters not zero", wording.count, a.parameters, b.nonzero_parameters, "exact"),
        ("Size, compressed", wording.size, a.compressed_bytes, b.compressed_bytes, "exact"),
    ]


def _checks(report: Report) -> list[dict[str, Any]]:
    rows = []
    for check in report.budget:
        title, write = wording.QUANTITIES.get(check.quantity, (check.quantity, wording.plain))
        rows.append({"title": title, "limit": write(check.limit), "found": write(check.found), "basis": check.basis,
                     "held": check.held})
    return rows


def _engine(row: EngineRow) -> dict[str, Any]:
    """Return what an engine is, and its kernels: the longest first where all were timed, else in the order they run."""
    memory = ", ".join(f"{what} {wording.size(n)}" for what, n in row.memory_bytes.items())
    known = [layer.ms for layer in row.layers if layer.ms is not None]
    total = math.fsum(known) if known and len(known) == len(row.layers) else None
    rows = list(enumerate(row.layers, 1))
    if total is not None:
        rows.sort(key=lambda one: -(one[1].ms or 0.0))
    kernels = [
        {"at": at, "name": one.name, "kind": one.kind, "precision": one.precision or "not told", "nodes": one.nodes,
         "ms": one.ms, "share": wording.share(one.ms, total)}
        for at, one in rows
    ]  # fmt: skip
    return {
        "facts": {
            "builder": f"{row.builder}, version {row.version}",
            "compute capabilities": row.compute_capabilities,
            "built in": wording.seconds(row.seconds),
            "convolutions": wording.counted(row.precisions) or "precisions not told",
            "memory": memory or "not told",
        },
        "command": [shlex.quote(word) for word in row.command],
        "kernels": kernels,
        "timed": bool(known),
        "total": total,
        "open": kernels[:_SHOWN],
        "folded": kernels[_SHOWN:],
    }


def _plots(report: Report) -> list[tuple[str, Markup]]:
    """Return (caption, inline SVG) of each plot there is data for."""
    drawn = (
        ("Accuracy against latency: every finished artifact", _draw(_artifacts, report)),
        ("Search: every evaluation, before fine-tuning", _draw(_evaluations, report)),
        ("Fine-tuning", _draw(_learning, report)),
    )
    return [(caption, svg) for caption, svg in drawn if svg is not None]


def _draw(plot: Callable[[Axes, Report], bool], report: Report) -> Markup | None:
    """Draw one plot as SVG in the page's font and colours; None when ``plot`` says there is nothing to show."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {  # matplotlib's own type spells out every key there is
        "svg.hashsalt": plot.__name__, "svg.fonttype": "none", "font.size": 11, "text.color": _INK,
        "axes.labelcolor": _INK, "axes.edgecolor": _LINE, "xtick.color": _INK, "ytick.color": _INK,
        "axes.grid": True, "grid.color": _LINE, "grid.linewidth": 0.5, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.formatter.useoffset": False,
        "legend.frameon": False, "legend.fontsize": 9.5,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.8, 3.9), layout="constrained")
        if not plot(figure.add_subplot(), report):
            return None
        return _svg(figure)


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[a-zA-Z0-9_.]+">', "<g>", text)  # matplotlib's names repeat from plot to plot
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text)
    text = text.replace(_INK, "currentColor").replace(_LINE, "var(--line)")
    return Markup(text)  # drawn here; matplotlib escaped every text in it


def _artifacts(axes: Axes, report: Report) -> bool:
    shown = [(c, t, c.score.value) for c in (*report.candidates, *report.probes)
             if c.score is not None and (t := wording.p50(c)) is not None]
    probes = [(t, v) for c, t, v in shown if c in report.probes]
    if probes:
        axes.scatter([t for t, _ in probes], [v for _, v in probes], s=18, color=_COLOURS[4], zorder=2,
                     label="bisection probes")
    for k, (c, t, v) in enumerate((c, t, v) for c, t, v in shown if c not in report.probes):
        axes.scatter([t], [v], s=90 if c.chosen else 45, color=_COLOURS[k % len(_COLOURS)], label=_legend(c), zorder=3,
                     marker=_MARKERS[k % len(_MARKERS)], edgecolors=_INK if c.chosen else "none")
    axes.set_xlabel("p50 latency, ms")
    axes.set_ylabel("score on the search split")
    if shown:
        axes.set_xlim(0, 1.08 * max(t for _, t, _ in shown))
        _put_legend(axes)
    return bool(shown)


def _evaluations(axes: Axes, report: Report) -> bool:
    if report.search is None or not report.search.history:
        return False
    history = report.search.history
    for k, searcher in enumerate(dict.fromkeys(e.searcher for e in history)):
        mine = [e for e in history if e.searcher == searcher]
        axes.scatter([e.cost for e in mine], [e.score for e in mine], s=20, alpha=0.75, label=_escape(searcher),
                     color=_COLOURS[k % len(_COLOURS)], marker=_MARKERS[k % len(_MARKERS)], linewidths=0)
    axes.set_xlabel("cost as a share of the original's")
    axes.set_ylabel("search score" if report.search.objective == "metric" else "agreement with the original")
    _put_legend(axes)
    return True


def _learning(axes: Axes, report: Report) -> bool:
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in report.learning if row.get("score") is not None and row.get("epoch") is not None]
    for k, name in enumerate(dict.fromkeys(str(row.get("candidate", "")) for row in rows)):
        mine = [row for row in rows if str(row.get("candidate", "")) == name]
        axes.plot([row["epoch"] for row in mine], [row["score"] for row in mine], marker="o", markersize=3.5,
                  color=_COLOURS[k % len(_COLOURS)], label=_escape(name) or None)
    axes.set_xlabel("epoch")
    axes.set_ylabel("score on the search split")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if rows and any(row.get("candidate") for row in rows):
        _put_legend(axes)
    return bool(rows)


def _put_legend(axes: Axes) -> None:
    """Put the legend above the axes, where it hides no point."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, columnspacing=1.2, handletextpad=0.4)


def _legend(candidate: Candidate) -> str:
    return _escape(candidate.name + (", chosen" if candidate.chosen else ""))


def _escape(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics or as hidden from the legend."""
    return text.replace("$", r"\$").lstrip("_")


def _text(value: object) -> str:
    """Write a fact of unknown type in one line; tables and long lists in it are counted, and stay in report.json."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and len(value) <= _LONG:
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) or "–"
    if isinstance(value, dict | Sequence) and not isinstance(value, str):
        if len(value) > _LONG or any(isinstance(item, dict) for item in value):
            return f"{len(value)} (in report.json)"
        return ", ".join(map(_text, value)) or "–"
    return str(value)
