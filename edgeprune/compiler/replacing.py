"""Which activations to replace before anything is cut: in steps, each kept where it pays on the clock and holds the
floor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.compiler.ceilings import Ceilings, replaceable
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.compiler.workshop import Finished, Workshop

NAME = "activations-quantized"
"""The candidate that has cheaper activations and is not pruned."""
WORTH = 1.05
"""How much faster other activations must make the quantized model to be worth training for."""
MORE = 1.03
"""The same for a further step, which goes on from a model that has learned to do with others."""
STEPS = (0.8, 0.9, 1.0)
"""Shares of the activations, those first that matter least for what they compute. On YOLOv5n these are 0.3, 0.5 and all
of what replacing each alone moves the outputs. The second step gains 7 % of the time there for less accuracy than
cutting a twentieth of the MACs takes, which gains 2 %.
"""


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
    """Replace most of what is to be replaced, then more of it on top, training after each step.

    Where a step costs too much the one before is there already. Whether it pays shows without training, at the
    precision that ``quantized`` has; what it will cost is expected from what the steps before did.
    """
    found, whole = Replaced(), tools.activation.share
    if not replaceable(workshop, tools):
        return found
    before = best = workshop.recorded_measure(quantized).ratio or math.inf
    trained: dict[str, Finished] = {}
    floor, done = workshop.means.budget.max_accuracy_drop, 0.0
    for share in (step * whole for step in STEPS):
        step = dataclasses.replace(tools.activation, share=(share - done) / (1.0 - done))
        part = f"{100 * share:.0f} % of the activations"
        shape = ceilings.untrained(f"untrained, {part} replaced", [*found.passes, step])
        after = workshop.recorded_measure(shape).ratio or math.inf
        said = f"{tools.activation.to} for {part} makes {after / before:.3f}x of the quantized latency"
        if after * (MORE if trained else WORTH) > best:
            found.notes.append(f"{said}: not worth training for")
            continue
        if trained and floor is not None and _expected(workshop, tools, found.passes, shape) > floor:
            found.notes.append(f"{said}; by what they move the outputs, they would cost too much of the floor")
            break
        passes = [*found.passes, step, tools.finetune]
        trained[part] = workshop.finish(NAME, [*passes, *tools.ending()])
        drop = workshop.drop(trained[part])
        kept = workshop.holds(trained[part]) is not False
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


def _expected(workshop: Workshop, tools: Toolbox, passes: list[AnyPass], shape: Finished) -> float:
    """Return the drop to expect of ``shape`` in float: as many times that of what was trained as it moves the outputs.

    ``passes`` made what was trained; the same activations are the first of those that ``shape`` replaced.
    """
    drop = workshop.drop(workshop.finish(f"{NAME}, float", [*passes, tools.export, *tools.dialect])) or 0.0
    moved: Mapping[str, float] = shape.fact("activation", "moved") or {}
    *before, last = [sum(moved.get(name, 0.0) for name in names) for names in shape.facts("activation", "names")]
    return drop * (1.0 + last / sum(before) if sum(before) > 0 else 1.0)


def _points(drop: float | None) -> str:
    return "an unknown drop" if drop is None else f"{100 * drop:+.2f} points of drop on the search split"
