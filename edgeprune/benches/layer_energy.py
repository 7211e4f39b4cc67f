"""Energy of single layers: each kernel's own graph over and over in a window of its own, or by a formula.

Kernels alone do not add up to the network: each is called by itself, and finds the caches otherwise. So what they took
is scaled to what the whole took, and what counts is each one's share.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeprune.benches.base import Bench, Stand
from edgeprune.dialects.kernels import kernels_of, partition_of
from edgeprune.dialects.unit_graphs import fed_by_floats, graph_of, nothing, write
from edgeprune.dialects.units import Unit, units
from edgeprune.errors import UnmetRequirement
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Progress
from edgeprune.profiles.energy import Job, Window
from edgeprune.profiles.energy_model import FORMULAS, kernel_mj

SHORTEST_S = 5e-6
"""A kernel that takes less cannot be told apart from the call that starts it."""
_LEAST_S = 1e-7

By = Literal["window", "time", "formula"]


@dataclass(frozen=True)
class LayerEnergy:
    """What one kernel takes of a run, in millijoules, and its share of all of them.

    ``by`` says how it was told: by a ``window`` of its own; by its share of ``time``, as it is too short or takes too
    little to be weighed alone; by a ``formula``.
    """

    name: str
    op: str
    mj: float
    share: float
    source: Literal["measured", "estimated"]
    by: By


@dataclass(frozen=True)
class LayerEnergies:
    """Every kernel of a graph in order. They add up to ``whole_mj``, the graph's own: ``net`` of what the idle board
    draws where it was measured, ``total`` where it was estimated.

    ``alone_mj`` is what they added up to before they were scaled to that; None where they were not.
    """

    layers: tuple[LayerEnergy, ...]
    whole_mj: float
    part: Literal["net", "total"]
    alone_mj: float | None = None


@dataclass(frozen=True)
class _Alone:
    """What one run of a kernel's own graph took, in millijoules net and in seconds, the call left out."""

    mj: float
    seconds: float


def estimated(bench: Bench, model: OnnxModel) -> LayerEnergies:
    """Return what the bench's formula tells of each kernel."""
    [formula] = [one for one in FORMULAS if one == bench.energy_method]
    kernels = kernels_of(model.path)
    each = [kernel_mj(kernel, formula) for kernel in kernels]
    whole = math.fsum(each)
    rows = (LayerEnergy(k.name, k.operator, mj, mj / whole, "estimated", "formula")
            for k, mj in zip(kernels, each, strict=True))  # fmt: skip
    return LayerEnergies(tuple(rows), whole, "total")


def measured(bench: Bench, model: OnnxModel, whole_mj: float, progress: Progress) -> LayerEnergies:
    """Measure each kernel of a graph that takes ``whole_mj`` net of the idle board.

    One window each (see ``Protocol``), and one of next to nothing, for what a call takes by itself. Raises
    UnmetRequirement where no sensor answers, or the whole takes no more than the idle board.
    """
    if whole_mj <= 0:
        raise UnmetRequirement(
            f"a run takes {whole_mj:.3g} mJ more than the idle board, so its layers cannot be told apart; let nothing "
            f"else run beside it"
        )
    found = units(partition_of(model.path))
    with bench.stand() as stand:
        if stand is None:
            raise UnmetRequirement(f"--layer-energy: the power sensor of {bench.board.name} does not answer any more")
        alone = _alone(bench, stand, found, progress)
    told: list[tuple[float, By]] = []
    long = [one for one in alone if _weighed(one)]
    power = math.fsum(one.mj for one in long) / math.fsum(one.seconds for one in long) if long else 1.0
    for one in alone:
        told.append((one.mj, "window") if _weighed(one) else (power * one.seconds, "time"))
    sum_mj = math.fsum(mj for mj, _ in told)
    rows = (LayerEnergy(u.part.name, u.part.main.op_type, whole_mj * mj / sum_mj, mj / sum_mj, "measured", by)
            for u, (mj, by) in zip(found, told, strict=True))  # fmt: skip
    return LayerEnergies(tuple(rows), whole_mj, "net", sum_mj if long else None)


def _weighed(one: _Alone) -> bool:
    return one.seconds >= SHORTEST_S and one.mj > 0


def _alone(bench: Bench, stand: Stand, found: Sequence[Unit], progress: Progress) -> list[_Alone]:
    protocol = bench.protocol.of_a_layer()
    with tempfile.TemporaryDirectory() as folder:

        def jobs() -> Iterator[Job]:
            graphs = [nothing, *((lambda unit=unit: fed_by_floats(graph_of(unit))) for unit in found)]
            title = f"energy of layers: windows of {protocol.seconds:g} s"
            for at, graph in enumerate(progress.track(graphs, title, len(graphs))):
                with stand.loop(write(graph(), Path(folder) / f"{at}.onnx"), protocol) as busy:
                    yield busy
            yield stand.rest(protocol)

        call, *windows, resting = stand.meter.windows(jobs())
    empty = _of_a_run(call, resting)
    each = [_of_a_run(window, resting) for window in windows]
    return [_Alone(one.mj - max(empty.mj, 0.0), max(one.seconds - empty.seconds, _LEAST_S)) for one in each]


def _of_a_run(window: Window, resting: Window) -> _Alone:
    return _Alone((window.whole_mj - resting.power_mw * window.seconds) / window.runs, window.seconds / window.runs)
