"""What a search aims at besides MACs: the latency that a table tells, measured as far as it is lacking, and energy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeprune.benches.base import Bench
from edgeprune.benches.tabulate import facts_of, fill, grid, lacking
from edgeprune.compiler.cache import require_writable
from edgeprune.dialects.kernels import partition_of
from edgeprune.dialects.units import Unit, moved_by, units
from edgeprune.errors import BadInput, UnmetRequirement
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress
from edgeprune.profiles.energy_model import Formula, kernel_mj
from edgeprune.profiles.latency_table import Check, LatencyTable, errors
from edgeprune.profiles.roofline import Kernel
from edgeprune.report import Measurement
from edgeprune.tally import Tally, Term

_CORNERS = (0.125, 1.0)


def open_table(path: Path, bench: Bench) -> LatencyTable:
    """Read the table at ``path``, or begin one. Raises BadInput for one of another board, runtime, processor or number
    of threads, and UnmetRequirement where nothing can be measured.
    """
    if bench.source != "measured":
        raise UnmetRequirement(
            f"--table wants a clock, and {bench.board.name} is not here; measure on the board with --board"
        )
    facts = facts_of(bench)
    if not path.exists():
        require_writable(path.parent)
        return LatencyTable(facts)
    table = LatencyTable.read(path)
    for name, now in facts.model_dump().items():
        then = getattr(table.facts, name)
        if then != now:
            raise BadInput(f"{path} was measured with {name} {then}, and this is {now}; give another file")
    return table


def units_of(model: OnnxModel) -> tuple[Unit, ...]:
    """Return the kernels of a finished graph."""
    return units(partition_of(model.path))


def extend(
    table: LatencyTable, path: Path, bench: Bench, model: OnnxModel, found: Sequence[Unit], progress: Progress
) -> int:
    """Measure what the table at ``path`` lacks of ``found``, the kernels of ``model``; return how many points."""
    points = lacking(table, found, grid)
    if points:
        progress.note(f"{path}: {len(points)} kernels to measure")
        fill(table, bench, model, found, points, lambda: table.write(path), progress)
        table.write(path)
    return len(points)


def tally_of(table: LatencyTable, found: Sequence[Unit]) -> Tally:
    """Return the latency of any plan for the graph whose kernels these are, in milliseconds."""
    terms = []
    moved = moved_by(found)
    for unit in found:
        surface = table.surface(unit.form)
        assert surface is not None, unit.form
        if unit.scalable:
            rising = surface.rising()
            axes = tuple(map(float, rising.outputs)), tuple(map(float, rising.inputs))
            terms.append(Term(unit.part.name, *axes, rising.grid))
        else:
            terms.append(Term(whole=surface.ms(unit.outputs, unit.inputs), moved=moved.get(unit.part.name, {})))
    return Tally("latency", terms, table.run_ms)


def energy_of(found: Sequence[Unit], formula: Formula) -> Tally:
    """Return the estimated energy of any plan for the graph whose kernels these are, in millijoules.

    Arithmetic goes with the product of a layer's channels and traffic with each of them, so four corners tell all.
    """
    terms = []
    moved = moved_by(found)
    for unit in found:
        kernel = unit.split.kernel(unit.part)
        if unit.scalable:
            corners = [[kernel_mj(_narrowed(unit, kernel, o, i), formula) for i in _CORNERS] for o in _CORNERS]
            low, high = _CORNERS
            axes = (low * unit.outputs, high * unit.outputs), (low * unit.inputs, high * unit.inputs)
            terms.append(Term(unit.part.name, *axes, np.array(corners)))
        else:
            terms.append(Term(whole=kernel_mj(kernel, formula), moved=moved.get(unit.part.name, {})))
    return Tally("energy", terms)


def _narrowed(unit: Unit, kernel: Kernel, outputs: float, inputs: float) -> Kernel:
    """Return a kernel with shares of its channels: what it reads besides its own input is as wide as its output."""
    own = math.prod(unit.split.sizes.get(unit.part.main.input[0], ()))
    inputs = outputs if unit.depthwise else inputs
    product = outputs if unit.depthwise else outputs * inputs
    return replace(
        kernel,
        macs=kernel.macs * product,
        weights=round(kernel.weights * product),
        read=round(own * inputs + (kernel.read - own) * outputs),
        written=round(kernel.written * outputs),
    )


def predicted_ms(table: LatencyTable, model: OnnxModel) -> float | None:
    """Return what a graph should take at the table's pace; None where it has kernels that the table does not know."""
    return table.predict((unit.form, unit.outputs, unit.inputs) for unit in units_of(model))


def predictions(
    table: LatencyTable | None, models: Mapping[str, OnnxModel], measured: Mapping[str, Measurement]
) -> tuple[Check, ...]:
    """Hold predictions against what was measured of finished graphs in one session; empty without a table.

    The machine's pace is not that of the table's day: the first graph whose kernels are all known tells it, and is
    not among them.
    """
    if table is None:
        return ()
    known = [
        (name, predicted, clock.p50)
        for name, model in models.items()
        if not model.runtime
        and (clock := measured[name].latency_ms) is not None
        and (predicted := predicted_ms(table, model)) is not None
    ]
    pace = known[0][2] / known[0][1] if known else 1.0
    return tuple(Check(name=name, predicted_ms=ms * pace, measured_ms=p50) for name, ms, p50 in known[1:])


def told(checks: Sequence[Check]) -> str:
    """Say in one line how far predictions were off."""
    spread = errors(checks)
    return (
        f"predicted against measured over {len(checks)} graphs: {100 * spread['median']:.1f} % apart in the median, "
        f"{100 * spread['p90']:.1f} % at the 90th percentile, {100 * spread['worst']:.1f} % at worst"
    )
