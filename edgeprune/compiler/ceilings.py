"""The ceilings of one build: what fits below them, and whether anything can."""

from __future__ import annotations

import dataclasses
import math

from edgeprune.activations import smooth
from edgeprune.agents.base import Space
from edgeprune.budget import Limit
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.recut import Recut
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.compiler.workshop import Finished, Workshop
from edgeprune.errors import Infeasible, UnmetRequirement
from edgeprune.groups import CostModel, aligned
from edgeprune.passes.lowering import lowerable_names

MEASURED = ("latency", "energy")
MARGIN = 0.01
"""Share of a size ceiling that the search leaves unused: kept counts come in steps and a graph has its own bytes."""


def exceeded(workshop: Workshop, candidate: Finished) -> list[str]:
    """Return the quantities whose ceiling a finished candidate breaks; what only the clock can tell is measured."""
    source = workshop.source
    found, whole = candidate.counts(), source.counts()
    limits = workshop.means.budget.ceilings()
    broken = [q for q, value in found.items() if q in limits and value > limits[q].resolve(whole[q])]
    return [*broken, *(q for q in MEASURED if q in limits and not _keeps(workshop, candidate, q, limits[q]))]


def _keeps(workshop: Workshop, candidate: Finished, quantity: str, limit: Limit) -> bool:
    """Whether p50 or energy keeps ``limit``, as measured: a p50 against the original beside it where it is relative."""
    if limit.relative and candidate.name == "original":
        return limit.value >= 1.0
    found: float | None
    if quantity == "energy":
        found, whole = workshop.recorded_energy(candidate), workshop.recorded_energy(workshop.source)
        found = found / whole if limit.relative and found is not None and whole else found
    else:
        measured = workshop.recorded_measure(candidate)
        found = measured.ratio if limit.relative else measured.latency_ms.p50 if measured.latency_ms else None
    return found is not None and found <= limit.value


def require_meter(workshop: Workshop) -> None:
    """Raise UnmetRequirement where a ceiling on energy is asked for and no power sensor answers, or one on latency
    and neither a clock nor figures to estimate by are there.
    """
    limited = workshop.means.budget.ceilings()
    if "latency" in limited and workshop.recorded_measure(workshop.source).latency_ms is None:
        raise UnmetRequirement(
            f"--max-latency needs a clock, or figures to estimate by, and {workshop.means.board.name} has neither "
            "here; measure on the board with --board, or set --max-macs instead"
        )
    if "energy" in limited and workshop.recorded_energy(workshop.source) is None:
        board = workshop.means.board
        raise UnmetRequirement(
            f"--max-energy needs a power sensor, and none of {board.name} answers here (its file names "
            f"{board.power.sensor}); measure on the board with --board, give the file of an external meter with "
            f"--power-log, estimate with --energy theoretical, or set --max-latency instead"
        )


def replaceable(workshop: Workshop, tools: Toolbox) -> bool:
    """Whether activations may give way to cheaper ones: there are such, they may be trained for, and a clock counts."""
    if tools.activation.to == "none" or not tools.trains or workshop.means.cost == "macs":
        return False
    return bool(smooth(workshop.original.module))


class Ceilings:
    """The budget's ceilings against what is finished in one workshop.

    ``absolute`` holds bytes, MACs and parameters by quantity; ``measured`` those on latency and energy, which are
    judged by clock and sensor. ``known`` are finished artifacts at the target's precision, whose sizes tell what a
    parameter takes.
    """

    def __init__(self, workshop: Workshop, tools: Toolbox, quantized: Finished) -> None:
        self.workshop, self.tools, self.quantized = workshop, tools, quantized
        base, limits = workshop.source.counts(), workshop.means.budget.ceilings()
        self.absolute = {q: limits[q].resolve(whole) for q, whole in base.items() if q in limits}
        self.measured = {q: limits[q] for q in MEASURED if q in limits}
        self.known = [quantized]

    def __bool__(self) -> bool:
        return bool(self.absolute) or bool(self.measured)

    def fits(self, candidate: Finished) -> bool:
        """Whether a finished candidate keeps every ceiling."""
        return not exceeded(self.workshop, candidate)

    def cheap_enough(self, candidate: Finished) -> bool:
        """Whether a finished candidate keeps the ceilings on latency and energy; true where there is none."""
        return all(_keeps(self.workshop, candidate, quantity, limit) for quantity, limit in self.measured.items())

    def searchable(self) -> dict[str, float]:
        """Return the ceilings that a search's action wall can hold, on MACs and parameters.

        A size in bytes becomes a ceiling on parameters: an artifact is a fixed part and so many bytes a parameter, by
        the two of ``known`` that lie nearest to the ceiling. MARGIN is left for what that line does not tell. Masks
        leave the size as it is, so that no search of theirs can aim at one.
        """
        limits = self._of_plans()
        if "size" in self.absolute and self.tools.sparsify.granularity == "channel":
            wanted = self.absolute["size"] * (1.0 - MARGIN)
            one, *others = sorted(self.known, key=lambda known: abs(known.size_bytes - wanted))
            rates = (
                (other.size_bytes - one.size_bytes) / (other.parameters - one.parameters)
                for other in others
                if other.parameters != one.parameters
            )
            rate = next((r for r in rates if r > 0), one.size_bytes / one.parameters)
            allowed = one.parameters + (wanted - one.size_bytes) / rate
            least = min(known.parameters for known in self.known)
            limits["parameters"] = min(max(allowed, least), limits.get("parameters", math.inf))
        return limits

    def _of_plans(self) -> dict[str, float]:
        """Return the ceilings on MACs and parameters as the cost algebra counts, which knows nothing of zeros: where
        the original is masked already, as many more as the nearest of ``known`` has.
        """
        limits = {}
        for quantity, limit in self.absolute.items():
            if quantity != "size":
                near = min(self.known, key=lambda known: abs(known.counts()[quantity] - limit))
                every = near.macs if quantity == "macs" else near.parameters
                limits[quantity] = limit * every / max(near.counts()[quantity], 1.0)
        return limits

    def grid(self, cost: CostModel) -> CostModel:
        """Return the groups with the widths to search: aligned ones alone where the clock decides and they suffice.

        Raises Infeasible, naming what can be reached, when no width at all keeps a ceiling.
        """
        masked = self.tools.sparsify.granularity != "channel"
        if self.workshop.means.cost != "macs" and (not self or self.measured) and not masked:
            narrow = aligned(cost, self.workshop.means.board.widest_multiple)
            try:
                self._require_reachable("the smallest reachable, aligned", narrow)
            except (Infeasible, UnmetRequirement):
                pass  # finer widths may still do
            else:
                return narrow
        self._require_reachable("the smallest reachable", cost)
        return cost

    def untrained(self, name: str, cutting: list[AnyPass]) -> Finished:
        """Finish a shape without training it, lowered as far as the quantized-only candidate was.

        Latency and size hang on shapes and precision, not on weights.
        """
        floating = self.workshop.finish(name + ", float", [*cutting, self.tools.export, *self.tools.dialect])
        there = lowerable_names(floating.model.path)
        lowered = tuple(name for name in self.quantized.fact("quantize", "lowered") or () if name in there)
        method = self.quantized.fact("quantize", "method") or self.tools.quantize.method
        quantize = dataclasses.replace(self.tools.quantize, lowered=lowered, method=method)
        rest = self.quantized.fact("quantize", "rest")
        if "fp16" in (rest, self.quantized.fact("quantize", "precision")):
            quantize = dataclasses.replace(quantize, precision="fp16", rest=rest or quantize.rest)
        return self.workshop.finish(name, [*cutting, self.tools.export, quantize, *self.tools.dialect])

    def _require_reachable(self, name: str, cost: CostModel) -> None:
        """Raise Infeasible if even the smallest plan breaks a ceiling: by algebra, or finished, on what is measured."""
        smallest = Space(cost, self._of_plans()).minimum()
        if "size" not in self.absolute and not self.measured:
            return
        original, search = self.workshop.original, dataclasses.replace(self.tools.sparsify, criterion="l2")
        ranking = search.ranking(original, cost.groups, None, self.workshop.means.seed)
        cuts = search.surgery(original, cost.groups, smallest, ranking)
        cheaper: list[AnyPass] = []
        if self.measured and replaceable(self.workshop, self.tools):
            cheaper = [self.tools.activation]
        probe = self.untrained(name, [*cheaper, Recut.of(cuts)])
        self.known.append(probe)
        if probe.size_bytes > self.absolute.get("size", math.inf):
            share = probe.size_bytes / self.workshop.source.size_bytes
            raise Infeasible(
                f"the ceiling of {self.absolute['size']:.0f} bytes is out of reach: the smallest reachable is "
                f"{probe.size_bytes} bytes ({share:.3f}x of the original's); set --max-size above it"
            )
        if "energy" in self.measured and not _keeps(self.workshop, probe, "energy", self.measured["energy"]):
            spent, whole = (self.workshop.recorded_energy(one) or math.nan for one in (probe, self.workshop.source))
            raise Infeasible(
                f"the energy ceiling is out of reach: the smallest reachable artifact takes {spent:.3g} mJ "
                f"({spent / whole:.3f}x of the original's); set --max-energy above it"
            )
        if not self.cheap_enough(probe):
            found = self.workshop.recorded_measure(probe)
            p50 = found.latency_ms.p50 if found.latency_ms else math.nan
            raise Infeasible(
                f"the latency ceiling is out of reach: the smallest reachable artifact takes {p50:.3g} ms "
                f"({found.ratio or math.nan:.3f}x of the original's); set --max-latency above it"
            )
