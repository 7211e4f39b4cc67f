"""How quantities are written for people, on the page and in the terminal alike. Unknown is never 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgeprune.report import Candidate, EngineRow, Report, ScoreReport

if TYPE_CHECKING:
    from edgeprune.compiler.estimates import Estimates

UNKNOWN = "not measured"


def milliseconds(value: float | None) -> str:
    """Write a time given in milliseconds with three significant digits and the unit that suits it."""
    if value is None:
        return UNKNOWN
    scale, unit = (1e-3, "s") if value >= 1000 else (1.0, "ms") if value >= 0.1 else (1e3, "µs")
    return f"{_digits(value * scale)} {unit}"


def millijoules(value: float | None) -> str:
    """Write an energy given in millijoules."""
    return UNKNOWN if value is None else f"{_digits(value)} mJ"


def size(value: float | None) -> str:
    """Write a number of bytes in decimal units."""
    return UNKNOWN if value is None else _scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), "B")


def count(value: float | None) -> str:
    """Write a count (MACs, parameters) with k, M or G."""
    return UNKNOWN if value is None else _scaled(value, (("G", 1e9), ("M", 1e6), ("k", 1e3)), "")


def percent(value: float | None) -> str:
    """Write a fraction in [0, 1] as a percentage."""
    return UNKNOWN if value is None else f"{100 * value:.2f} %"


def points(value: float | None) -> str:
    """Write an accuracy drop (a fraction) in points; a gain is a negative drop."""
    return UNKNOWN if value is None else f"{100 * value:+.2f} points"


def ratio(value: float | None) -> str:
    """Write a ratio to the original."""
    return UNKNOWN if value is None else f"{value:.3g}×" if value < 10 else f"{value:.0f}×"


def seconds(value: float | None) -> str:
    """Write a duration of work."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"


def plain(value: float | None) -> str:
    """Write a number of a quantity that is not known here."""
    return UNKNOWN if value is None else f"{value:g}"


QUANTITIES: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "accuracy-drop": ("accuracy drop", points),
    "latency": ("latency, p50", milliseconds),
    "energy": ("energy a run", millijoules),
    "size": ("size", size),
    "macs": ("MACs", count),
    "parameters": ("parameters", count),
}
"""The quantities a budget speaks of: what people call them and how they are written."""


def p50(candidate: Candidate) -> float | None:
    """Return the median latency in milliseconds, if it is known."""
    latency = candidate.measurement.latency_ms
    return None if latency is None else latency.p50


def latency_ratio(candidate: Candidate, original: Candidate) -> float | None:
    """Return p50 against the original's: the interleaved ratio where there is one, else that of the two medians."""
    if candidate.measurement.ratio is not None:
        return candidate.measurement.ratio
    return share(p50(candidate), p50(original))


def share(part: float | None, whole: float | None) -> float | None:
    """Return part / whole, or None where either is unknown or there is no whole."""
    return None if part is None or not whole else part / whole


def drop(score: ScoreReport | None) -> str:
    """Write a paired drop with its 95 % interval, the number of images and the split."""
    if score is None or score.drop is None:
        return UNKNOWN
    interval = score.drop_interval
    spread = "" if interval is None else f" ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})"
    return f"{points(score.drop)}{spread}"


def estimates(told: Estimates) -> list[str]:
    """Say what a dense model would take on a target; nothing of what cannot be told but that it cannot."""
    if told.why:
        return []
    each = [f"{precision} {milliseconds(ms)}" for precision, ms in told.latency_ms.items() if ms is not None]
    latency = f"{', '.join(each)}, by roofline, all of it in one precision" if each else (
        "not told: the target's file gives no peak rates and bandwidth; measure with `edgeprune profile`"
    )
    lines = [f"estimated latency: {latency}"]
    if told.energy_mj is not None:
        lines.append(f"estimated energy: {millijoules(told.energy_mj)} in fp32, by arithmetic and traffic at 45 nm")
    if told.shares_of is not None and len(each) > 1:
        lines[0] += f"; the shares below are those of {told.shares_of}"
    return lines


def engine(row: EngineRow) -> str:
    """Say in one line what was built, for what, and how much of it is int8."""
    total = sum(row.precisions.values())
    return (
        f"engine: {row.path} by {row.builder} {row.version} for compute capability "
        f"{', '.join(row.compute_capabilities)}, in {seconds(row.seconds)}; {len(row.layers)} kernels, "
        f"{total} convolutions: {counted(row.precisions) or 'precisions not told'}"
    )


def judgement(report: Report) -> str:
    """Say how the result scores beside the original on the images that chose nothing, and beside the control."""
    score, before = report.result.score if report.result else None, report.baseline.score
    if score is None or before is None:
        return "The result was not scored."
    text = (
        f"{score.metric} of the result: {percent(score.value)}, of the original {percent(before.value)}: a drop of "
        f"{drop(score)}, 95 % interval in parentheses, paired on {score.n} images of the {score.split} split."
    )
    control = report.control.score if report.control else None
    if control is not None:
        text += (
            f" Trained on for as many epochs as the result, the original itself comes to {percent(control.value)}, a "
            f"drop of {drop(control)}."
        )
    return text


def precisions(candidate: Candidate) -> str:
    """Write how many convolutions run at which precision, such as ``19 int8, 1 fp32``."""
    return counted(candidate.precisions) or "unknown"


def counted(precisions: Mapping[str, int]) -> str:
    """Write convolutions by precision, the most first; nothing where none were counted."""
    return ", ".join(f"{n} {kind}" for kind, n in sorted(precisions.items(), key=lambda item: -item[1]))


def pruning_gain(report: Report) -> str:
    """Say what pruning added over lower precision alone, from the finished candidates of the same run; other
    activations, where the pruned candidate has them, came along. Both by the runtime that the chosen one is for; the
    pruned one that was chosen speaks for all of them.
    """
    runtime = next((c.runtime for c in (*(c for c in report.candidates if c.chosen), *report.candidates)), "")
    named = {c.name.partition(", ")[0]: c for c in report.candidates if c.runtime == runtime}
    pruned = [named[name] for name in ("pruned-quantized", "pruned-only") if name in named]
    alone, both = named.get("quantized-only"), next((c for c in pruned if c.chosen), pruned[0] if pruned else None)
    if alone is None or both is None:
        return "This build has no pair of candidates that shows what pruning added over quantization alone."
    speed = share(latency_ratio(both, report.baseline), latency_ratio(alone, report.baseline))
    parts = [f"{name} at {ratio(value)}" for name, value in (
        ("p50", speed), ("size", share(both.size_bytes, alone.size_bytes)), ("MACs", share(both.macs, alone.macs)),
        ("compressed size", share(both.compressed_bytes, alone.compressed_bytes)),
        ("weights that are not zero", share(both.nonzero_parameters, alone.parameters)),
    ) if value is not None]
    replaced = any(step.name == "activation" and step.candidate == "pruned-only" for step in report.steps)
    sentence = "What pruning added over quantization alone was not measured"
    if parts:
        what = "pruning and cheaper activations leave" if replaced else "pruning leaves"
        sentence = f"Against quantization alone, {what} {', '.join(parts)}"
    if both.score and alone.score and both.score.drop is not None and alone.score.drop is not None:
        more = both.score.drop - alone.score.drop
        moved = "the outputs" if both.score.split == "synthetic" else "the accuracy drop"
        sentence += f" and {'change' if replaced else 'changes'} {moved} by {points(more)} ({both.score.split} split)"
    chosen = "The pruned candidate was chosen." if both.chosen else f"The pruned candidate was not chosen{_why(both)}."
    return f"{sentence}. {chosen}"


def _why(candidate: Candidate) -> str:
    return f": {candidate.note.rstrip('.')}" if candidate.note else ""


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _scaled(value: float, units: tuple[tuple[str, float], ...], small: str) -> str:
    for unit, scale in units:
        if value >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{value:.0f} {small}".rstrip()
