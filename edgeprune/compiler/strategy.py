"""Which candidates to finish: with a floor alone, bisect how much to cut; with ceilings, the most accurate build
below them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.agents.base import Space
from edgeprune.agents.table import table_evaluations
from edgeprune.budget import largest
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.recut import Recut
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.compiler.workshop import Finished, Workshop
from edgeprune.errors import Infeasible, UnmetRequirement
from edgeprune.groups import CostModel, aligned, plan_of
from edgeprune.importance import scores
from edgeprune.passes.lowering import lowerable_names
from edgeprune.passes.sparsify import Sparsify
from edgeprune.report import Measurement
from edgeprune.surgery import resolve
from edgeprune.tracing import trace

STEP = 0.05
"""Distance of two neighbouring cost targets of the bisection, as a share of the original's MACs."""
SIZE_ATTEMPTS = 3


@dataclass
class Outcome:
    """What the strategy finished: the candidates by name, what the bisection tried on its way, and remarks."""

    candidates: dict[str, Finished] = field(default_factory=dict)
    probes: list[Finished] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Strategy:
    """One build's decisions. Everything is judged as a finished artifact: exported, at its final precision, on the
    target.
    """

    def __init__(self, workshop: Workshop, tools: Toolbox) -> None:
        self.workshop, self.tools = workshop, tools
        self.budget = workshop.means.budget
        self.outcome = Outcome({"original": workshop.source})
        self._measured: dict[str, Measurement] = {}
        self._searches: dict[tuple[tuple[str, float], ...], Sparsify] = {}
        self._asked: set[str] = set()
        self._to_come = 1
        self._aligned = False

    def run(self) -> Outcome:
        """Finish every candidate the budget asks for. Raises Infeasible before any search when a ceiling is out of
        reach.
        """
        quantized = self.workshop.finish("quantized-only", [self.tools.export, self.tools.quantize])
        self.outcome.candidates["quantized-only"] = quantized
        cost = trace(self.workshop.original, tuple(self.workshop.means.board.channel_multiples.values()))
        ceilings = self._ceilings()
        if not any(len(g.options()) > 1 for g in cost.groups):
            if self._fits(quantized):
                self.outcome.notes.append(
                    "nothing of this model can be pruned; `edgeprune inspect` says why for every group"
                )
                return self.outcome
            raise UnmetRequirement(
                "no group of this model can be pruned; `edgeprune inspect` says why for each of them"
            )
        limits = {q: limit for q, limit in ceilings.items() if q in ("macs", "parameters")}
        cost = self._grid(cost, limits, ceilings)
        best = self._under(cost, limits, ceilings) if ceilings else self._above_floor(cost)
        if best is not None:
            self._finish_pair(best)
        return self.outcome

    def _grid(self, cost: CostModel, limits: dict[str, float], ceilings: Mapping[str, float]) -> CostModel:
        """Return the groups with the widths to search: where the clock decides and it suffices, aligned ones alone.

        Raises Infeasible when no width at all reaches a ceiling.
        """
        if self.workshop.means.cost == "measured" and (not ceilings or "latency" in ceilings):
            narrow = aligned(cost, self.workshop.means.board.widest_multiple)
            try:
                self._require_reachable("the smallest reachable, aligned", narrow, limits, ceilings)
            except (Infeasible, UnmetRequirement):
                pass  # finer widths may still do
            else:
                self._aligned = True
                return narrow
        self._require_reachable("the smallest reachable", cost, limits, ceilings)
        return cost

    # --- with a floor alone -----------------------------------------------------------------------

    def _above_floor(self, cost: CostModel) -> Finished | None:
        """Return the deepest cut that holds the floor, by bisection over the cost target; None if none does."""
        if self.budget.max_accuracy_drop is None or not self.tools.data:
            return self._dead_only()
        targets = _targets(cost)
        allowance = self._allowance(cost, len(targets))
        found: dict[int, Finished] = {}

        def holds(k: int) -> bool:
            found[k] = self._probe(
                f"probe at {targets[k - 1]:.2f}x MACs", {"macs": targets[k - 1] * cost.full["macs"]}, allowance
            )
            self.outcome.probes.append(found[k])
            held = self.workshop.holds(found[k]) is not False
            self.workshop.means.progress.note(f"{found[k].name}: {'holds' if held else 'misses'} the floor")
            return held

        deepest = largest(len(targets), holds, first=max(1, len(targets) // 3))
        held = [p for p in found.values() if self.workshop.holds(p) is not False]
        if not deepest or not held:
            self.outcome.notes.append(
                "no pruned candidate held the floor; the bisection's probes show how far each missed it"
            )
            return min(found.values(), key=self._drop) if found else None
        return self._fastest(held)

    def _dead_only(self) -> Finished | None:
        """Without data there is no floor to prune against: only dead channels go."""
        pruned = self.workshop.finish("pruned-quantized", [self.tools.prune, self.tools.export, self.tools.quantize])
        if not pruned.fact("prune", "removed_parameters"):
            self.outcome.notes.append("no channel is dead; without data or a ceiling there is nothing else to prune by")
            return None
        return pruned

    # --- with ceilings ----------------------------------------------------------------------------

    def _under(self, cost: CostModel, limits: dict[str, float], ceilings: Mapping[str, float]) -> Finished | None:
        quantized = self.outcome.candidates["quantized-only"]
        if self._fits(quantized) and self.workshop.holds(quantized) is not False:
            self.outcome.notes.append("lower precision alone meets every ceiling, so nothing was pruned for them")
            return None
        if "latency" in ceilings:
            return self._under_latency(cost, limits)
        return self._under_size(cost, limits, ceilings.get("size"))

    def _under_size(self, cost: CostModel, limits: dict[str, float], size: float | None) -> Finished:
        """Search under MACs and parameters; a size in bytes becomes a parameter ceiling by the bytes a parameter
        really took.
        """
        quantized = self.outcome.candidates["quantized-only"]
        per_parameter = quantized.size_bytes / quantized.parameters
        best: Finished | None = None
        for attempt in range(SIZE_ATTEMPTS):
            inner = dict(limits)
            if size is not None:
                allowed = size / per_parameter
                inner["parameters"] = min(allowed, inner.get("parameters", math.inf))
            share = 1.0 if size is None else 2 / 3  # another attempt needs some too
            left = self.tools.evaluations - len(self._asked)
            best = self._probe(f"attempt {attempt + 1} under the ceilings", inner, math.ceil(share * left))
            self.outcome.probes.append(best)
            if size is None or best.size_bytes <= size:
                break
            per_parameter = best.size_bytes / best.parameters * 1.02
        assert best is not None
        return best

    def _under_latency(self, cost: CostModel, limits: dict[str, float]) -> Finished:
        """Bisect the MACs target on finished artifacts for the least cut that is fast enough, then train that one.

        Latency hangs on shapes and precision, not on weights, so the bisection's artifacts are not trained; each is
        lowered as far as the quantized-only candidate was.
        """
        targets = [t for t in _targets(cost) if t * cost.full["macs"] <= limits.get("macs", math.inf)] or _targets(
            cost
        )[-1:]
        allowance = self._allowance(cost, len(targets))

        def inner(k: int) -> dict[str, float]:
            return {**limits, "macs": min(targets[k - 1] * cost.full["macs"], limits.get("macs", math.inf))}

        def fast_enough(k: int) -> bool:
            probe = self._untrained(f"shape at {targets[k - 1]:.2f}x MACs", [self._searching(inner(k), allowance)])
            self._asked.update(probe.fact("sparsify", "asked") or ())
            self.outcome.probes.append(probe)
            return self._meets_latency(probe)

        least = len(targets) - largest(
            len(targets) - 1, lambda j: fast_enough(len(targets) - j), first=len(targets) // 2
        )
        best = None
        for k in range(least, min(least + SIZE_ATTEMPTS, len(targets) + 1)):
            best = self._probe(f"trained at {targets[k - 1]:.2f}x MACs", inner(k), allowance)
            self.outcome.probes.append(best)
            if self._meets_latency(best):
                break
        assert best is not None
        return best

    def _require_reachable(
        self, name: str, cost: CostModel, limits: dict[str, float], ceilings: Mapping[str, float]
    ) -> None:
        """Raise Infeasible if even the smallest plan breaks a ceiling: by algebra, or finished, on latency and size."""
        Space(cost, limits)
        if not set(ceilings) & {"latency", "size"}:
            return
        ranking = scores(self.workshop.original, cost.groups, "l2", None, self.workshop.means.seed)
        smallest = Space(cost, {}).minimum()
        cuts = resolve(self.workshop.original.module, cost.groups, plan_of(cost.groups, smallest, ranking))
        probe = self._untrained(name, [Recut.of(cuts)])
        if "size" in ceilings and probe.size_bytes > ceilings["size"]:
            share = probe.size_bytes / self.workshop.source.size_bytes
            raise Infeasible(
                f"the ceiling of {ceilings['size']:.0f} bytes is out of reach: the smallest reachable is "
                f"{probe.size_bytes} bytes ({share:.3f}x of the original's); set --max-size above it"
            )
        if "latency" in ceilings and not self._meets_latency(probe):
            found = self._measured[probe.name]
            p50 = found.latency_ms.p50 if found.latency_ms else math.nan
            raise Infeasible(
                f"the latency ceiling is out of reach: the smallest reachable artifact takes {p50:.3g} ms "
                f"({found.ratio or math.nan:.3f}x of the original's); set --max-latency above it"
            )

    # --- finishing --------------------------------------------------------------------------------

    def _probe(self, name: str, limits: Mapping[str, float], evaluations: int) -> Finished:
        cutting: list[AnyPass] = [self.tools.prune, self._searching(limits, evaluations)]
        probe = self.workshop.finish(name, self._full(cutting))
        self._asked.update(probe.fact("sparsify", "asked") or ())
        return probe

    def _searching(self, limits: Mapping[str, float], evaluations: int) -> Sparsify:
        """Return the search under these limits, the same one whenever it is asked for again.

        The evaluations of the run bound those of all its searches together; one is kept for each search to come.
        """
        name = tuple(sorted(limits.items()))
        if name not in self._searches:
            self._to_come = max(0, self._to_come - 1)
            left = self.tools.evaluations - len(self._asked) - self._to_come
            self._searches[name] = self.tools.searching(limits, max(1, min(evaluations, left)), self._aligned)
        return self._searches[name]

    def _full(self, cutting: list[AnyPass]) -> list[AnyPass]:
        training: list[AnyPass] = [self.tools.finetune] if self.tools.trains else []
        return [*cutting, *training, self.tools.export, self.tools.quantize]

    def _untrained(self, name: str, cutting: list[AnyPass]) -> Finished:
        """Finish a shape without training it, lowered as far as the quantized-only candidate was."""
        floating = self.workshop.finish(name + ", float", [*cutting, self.tools.export])
        share = self.outcome.candidates["quantized-only"].fact("quantize", "share") or 0.0
        names = lowerable_names(floating.model.path)
        lowered = names[: round(share * len(names))]
        quantize = dataclasses.replace(self.tools.quantize, lowered=lowered)
        return self.workshop.finish(name, [*cutting, self.tools.export, quantize])

    def _finish_pair(self, best: Finished) -> None:
        """Make the pruned-only and pruned-quantized candidates of the same cut."""
        self.outcome.candidates["pruned-quantized"] = dataclasses.replace(best, name="pruned-quantized")
        floating = [one for one in best.passes if one.name != "quantize"]
        self.outcome.candidates["pruned-only"] = self.workshop.finish("pruned-only", floating)

    # --- judging ----------------------------------------------------------------------------------

    def _ceilings(self) -> dict[str, float]:
        """Return the ceilings in absolute terms; a latency's is only a marker, see ``_meets_latency``."""
        source = self.workshop.source
        base = {"latency": 1.0, "size": source.size_bytes, "macs": source.macs, "parameters": source.parameters}
        return {quantity: limit.resolve(base[quantity]) for quantity, limit in self.budget.ceilings().items()}

    def _fits(self, candidate: Finished) -> bool:
        ceilings = self._ceilings()
        found = {"size": candidate.size_bytes, "macs": candidate.macs, "parameters": candidate.parameters}
        static = all(found[q] <= limit for q, limit in ceilings.items() if q != "latency")
        return static and ("latency" not in ceilings or self._meets_latency(candidate))

    def _meets_latency(self, candidate: Finished) -> bool:
        """Whether a candidate keeps the latency ceiling on the clock; a relative one against the original beside it."""
        limit = self.budget.max_latency
        assert limit is not None
        measured = self.workshop.recorded_measure(candidate)
        self._measured[candidate.name] = measured
        found = measured.ratio if limit.relative else measured.latency_ms.p50 if measured.latency_ms else None
        return found is not None and found <= limit.value

    def _fastest(self, held: list[Finished]) -> Finished:
        """Return the fastest of the candidates that hold the floor: by the clock, or by MACs where no clock may
        decide.
        """
        if self.workshop.means.cost != "measured" or len(held) == 1:
            return min(held, key=lambda c: c.macs)
        timed = [(self.workshop.recorded_measure(c), c) for c in held]
        return min(timed, key=lambda pair: (pair[0].ratio or math.inf, pair[1].macs))[1]

    def _drop(self, candidate: Finished) -> float:
        if self.workshop.source.score is None or candidate.score is None:
            return 0.0
        return self.workshop.source.score.drop_to(candidate.score)[0]

    def _allowance(self, cost: CostModel, targets: int) -> int:
        """Return the evaluations of one search when a bisection over so many targets runs several.

        The sensitivity table is the same for all of them and paid for once; what is left is shared evenly.
        """
        self._to_come = math.ceil(math.log2(targets)) + 2  # as many as ``largest`` may ask for
        searches = math.ceil(math.log2(targets + 1))
        table = min(table_evaluations(Space(cost, {})), self.tools.evaluations // 2)
        return table + max(1, (self.tools.evaluations - table) // searches)


def _targets(cost: CostModel) -> list[float]:
    """Return cost targets as shares of the MACs, descending by STEP from just below 1 to the least reachable one."""
    least = cost.cost(Space(cost, {}).minimum())["macs"] / cost.full["macs"]
    steps = math.floor((1.0 - least) / STEP + 1e-9)
    return [round(1.0 - STEP * k, 4) for k in range(1, steps + 1)] or [least]
