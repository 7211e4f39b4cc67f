"""Which activations to replace before anything is cut: in two steps, each kept where it pays on the clock and leaves
enough of the floor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.activations import smooth
from edgeprune.compiler.ceilings import Ceilings
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.compiler.workshop import Finished, Workshop

NAME = "activations-quantized"
"""The candidate that has cheaper activations and is not pruned."""
WORTH = 1.05
"""How much faster other activations must make the quantized model to be worth training for."""
MOST = 0.8
"""Share of the activations that the first step replaces: those that matter least for what they compute. On YOLOv5n 0.8
of the elements are three tenths of what replacing each alone moves the outputs.
"""
ROOM = 0.5
"""Share of the accuracy floor that replacing the last ones may use up: cutting gains more a point than they do."""


@dataclass
class Replaced:
    """What came of it: the passes that every cut starts with, empty where activations stay as they are.

    ``candidate`` is the last trained model that held the floor, or if none did the last one; ``probes`` are the others.
    """

    passes: list[AnyPass] = field(default_factory=list)
    candidate: Finished | None = None
    probes: list[Finished] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def replace(workshop: Workshop, tools: Toolbox, ceilings: Ceilings, quantized: Finished) -> Replaced:
    """Replace most of what is to be replaced, then the rest of it on top, training after either.

    Where the second step costs too much the first is there already. Whether a step pays shows without training, at the
    precision that ``quantized`` has.
    """
    found, whole = Replaced(), tools.activation.share
    if tools.activation.to == "none" or not tools.trains or workshop.means.cost != "measured":
        return found
    if not smooth(workshop.original.module):
        return found
    before = best = workshop.recorded_measure(quantized).ratio or math.inf
    trained: dict[str, Finished] = {}
    floor, done = workshop.means.budget.max_accuracy_drop, 0.0
    for share in (MOST * whole, whole):
        step = dataclasses.replace(tools.activation, share=(share - done) / (1.0 - done))
        part = f"{100 * share:.0f} % of the activations"
        shape = ceilings.untrained(f"untrained, {part} replaced", [*found.passes, step])
        after = workshop.recorded_measure(shape).ratio or math.inf
        said = f"{tools.activation.to} for {part} makes {after / before:.3f}x of the quantized latency"
        if after * WORTH > best:
            found.notes.append(f"{said}: not worth training for")
            continue
        room = ROOM * floor if trained and floor is not None else math.inf
        if trained and _expected(workshop, *trained.values()) > room:
            found.notes.append(f"{said}; by what they move the outputs, they would cost too much of the floor")
            break
        passes = [*found.passes, step, tools.retrain]
        trained[part] = workshop.finish(NAME, [*passes, tools.export, tools.quantize])
        drop = workshop.drop(trained[part])
        kept = workshop.holds(trained[part]) is not False and (drop or 0.0) <= room
        outcome = "replaced" if kept else "they stay as they are"
        found.notes.append(f"{said}, and {_points(drop)} after training: {outcome}")
        if not kept:
            break
        found.passes, best, done = passes, after, share
    holding = [part for part, made in trained.items() if workshop.holds(made) is not False]
    if trained:
        found.candidate = trained.pop((holding or list(trained))[-1])
    found.probes = [dataclasses.replace(made, name=part) for part, made in trained.items()]
    return found


def _expected(workshop: Workshop, candidate: Finished) -> float:
    """Return the drop to expect of replacing the rest as well: as many times this one as its moving the outputs."""
    moved: Mapping[str, float] = candidate.fact("activation", "moved") or {}
    part = sum(moved.get(name, 0.0) for name in candidate.fact("activation", "names") or ())
    return (workshop.drop(candidate) or 0.0) * (sum(moved.values()) / part if part > 0 else 1.0)


def _points(drop: float | None) -> str:
    return "an unknown drop" if drop is None else f"{100 * drop:+.2f} points of drop on the search split"
