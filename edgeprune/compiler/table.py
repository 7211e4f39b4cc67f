"""A report, an inspection and a profile for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.compiler import wording
from edgeprune.report import Candidate, CheckRow, Report

if TYPE_CHECKING:
    from edgeprune.benches.layer_energy import LayerEnergies
    from edgeprune.compiler.board_facts import BoardFacts
    from edgeprune.compiler.inspect import Inspection
    from edgeprune.compiler.profile import LayerTime

_STYLE = {"met": "bold green", "unchecked": "bold yellow", "not-met": "bold red", "infeasible": "bold red"}
_NAME = 24
"""Characters of a group's name that stay on one line, however narrow the terminal is."""


def summary(report: Report) -> RenderableType:
    """Return the verdict, the budget, the finished candidates, what pruning added, and the notes."""
    parts: list[RenderableType] = [
        Text.assemble("verdict: ", (report.verdict, _STYLE[report.verdict]), f"  (basis: {report.basis})"),
    ]
    parts += [Text(f"  {check_line(check)}") for check in report.budget]
    if report.candidates:
        parts += [_candidates(report), Text(wording.judgement(report)), Text(wording.pruning_gain(report))]
    if report.engine is not None:
        parts.append(Text(wording.engine(report.engine)))
    parts += [Text(f"note: {note}") for note in report.notes]
    return Group(*parts)


def check_line(check: CheckRow) -> str:
    """Say in one line what was allowed and what was found."""
    title, write = wording.QUANTITIES.get(check.quantity, (check.quantity, wording.plain))
    held = {True: "held", False: "not held", None: "not checked"}[check.held]
    return f"{title}: {write(check.found)}, at most {write(check.limit)} allowed ({check.basis}): {held}"


def inspection(found: Inspection, whole_target: bool = True) -> RenderableType:
    """Return the target, what the model would take there, what can be pruned and why the rest cannot."""
    told = found.estimates
    shares = ("MACs", *(("latency",) if told.shares_of else ()), *(("energy",) if told.shares else ()))
    table = Table(box=None, pad_edge=False)
    width = max((len(row.group) for row in found.rows), default=0)
    table.add_column("group", overflow="fold", min_width=min(width, _NAME))
    for title in ("channels", "kept counts on offer", *shares, "remarks"):
        table.add_column(title, justify="right" if title in ("channels", *shares) else "left", overflow="fold")
    for row in found.rows:
        ladder = " ".join(map(str, row.ladder)) if len(row.ladder) > 1 else "–"
        block = f"may drop {row.dropped_block}; " if row.dropped_block else ""
        remarks = f"{block}{row.reason}".rstrip("; ")
        values = {"MACs": row.macs_share, "latency": row.latency_share, "energy": row.energy_share}
        cells = ("–" if values[name] is None else wording.percent(values[name]) for name in shares)
        table.add_row(*map(Text, (row.group, str(row.channels), ladder, *cells, remarks)))
    table.caption = "shares overlap: a layer between two groups is in both"
    table.caption += "; latency and energy are estimated" if told.shares else ""
    table.caption_justify = "left"
    head = Text(
        f"{found.name}: {wording.count(found.parameters)} parameters, {wording.count(found.macs)} MACs, "
        f"of which pruning must leave {wording.count(found.least_macs)}"
    )
    above = board(found.target) if whole_target else Text(f"target {found.target.title}")
    notes = [Text(f"note: {note}") for note in found.notes]
    return Group(above, head, *map(Text, wording.estimates(told)), table, *notes)


def board(found: BoardFacts) -> RenderableType:
    """Return what is known of a target."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, words in found.lines():
        if words:
            table.add_row(Text(what), Text(words))
    return table


def profile(candidate: Candidate, layers: Sequence[LayerTime]) -> RenderableType:
    """Return latency percentiles, memory and the time of each layer."""
    found = candidate.measurement
    latency = found.latency_ms
    p = [wording.milliseconds(v) for v in ((latency.p50, latency.p90, latency.p99) if latency else (None,) * 3)]
    head = Text(
        f"{candidate.name}: p50 {p[0]}, p90 {p[1]}, p99 {p[2]} ({found.source}, {found.runs or 'no'} runs); "
        f"size {wording.size(candidate.size_bytes)}; peak memory {wording.size(found.peak_memory_bytes)}; "
        f"convolutions: {wording.precisions(candidate)}"
    )
    if found.energy_mj is not None:
        how = found.conditions.get("energy", {})
        power = "" if found.power_mw is None else f" at {found.power_mw / 1e3:.2f} W"
        head.append(
            f"; energy a run {wording.millijoules(found.energy_mj)}{power} "
            f"({found.energy_source}, {how.get('sensor') or how.get('method', '')})"
        )
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "operator", "time", "share"):
        table.add_column(title, justify="right" if title in ("time", "share") else "left", overflow="fold")
    for layer in layers:
        table.add_row(*map(Text, (layer.name, layer.op, wording.milliseconds(layer.ms), wording.percent(layer.share))))
    return Group(head, table) if layers else head


_TOLD = {"window": "measured", "time": "measured, by its share of time", "formula": "estimated"}


def layer_energies(found: LayerEnergies) -> RenderableType:
    """Return the energy of each layer, how it was told, and what they add up to."""
    what = "net of the idle board, measured" if found.part == "net" else "estimated"
    head = f"energy of layers: {wording.millijoules(found.whole_mj)} in all ({what})"
    if found.alone_mj is not None:
        head += f"; scaled from {wording.millijoules(found.alone_mj)} by windows of their own"
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "operator", "energy", "share", "told"):
        table.add_column(title, justify="right" if title in ("energy", "share") else "left", overflow="fold")
    for one in found.layers:
        cells = one.name, one.op, wording.millijoules(one.mj), wording.percent(one.share), _TOLD[one.by]
        table.add_row(*map(Text, cells))
    return Group(Text(head), table)


def show(renderable: RenderableType, console: Console | None = None) -> None:
    """Print on standard output, or on ``console``."""
    (console or Console(highlight=False)).print(renderable)


def _estimated(candidate: Candidate) -> str:
    """Mark a time that is an estimate."""
    return "~" if candidate.measurement.source == "estimated" else ""


def _candidates(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold")
    masked = any(c.nonzero_parameters is not None for c in report.candidates)
    counted = ("deflated", "not zero") if masked else ("MACs",)  # masks leave the MACs as they are
    for title in ("p50", "ratio", "size", *counted, "score", "drop"):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("convolutions", overflow="fold")
    for candidate in report.candidates:
        score = candidate.score
        counts: tuple[str, ...] = (wording.count(candidate.macs),)
        if masked:
            left = candidate.parameters if candidate.nonzero_parameters is None else candidate.nonzero_parameters
            counts = (wording.size(candidate.compressed_bytes), wording.count(left))
        cells = (
            f"{'▶' if candidate.chosen else ' '} {candidate.name}",
            _estimated(candidate) + wording.milliseconds(wording.p50(candidate)) + "*" * candidate.measurement.noisy,
            wording.ratio(wording.latency_ratio(candidate, report.baseline)),
            wording.size(candidate.size_bytes), *counts,
            wording.percent(score.value if score else None),
            wording.points(score.drop if score else None).removesuffix(" points"),
            wording.precisions(candidate),
        )
        table.add_row(*map(Text, cells), style="bold" if candidate.chosen else None)
    noisy = any(c.measurement.noisy for c in report.candidates)
    table.caption = "▶ chosen   drop in points" + ("   * noisy: not ranked by time" if noisy else "")
    table.caption += "   ~ estimated, not measured" if any(map(_estimated, report.candidates)) else ""
    if masked:
        table.caption += "   deflated: size of the file, compressed   not zero: parameters that are not"
    table.caption_justify = "left"
    return table
