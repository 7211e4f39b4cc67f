"""Which candidates to finish: with a floor alone, bisect how much to cut; with ceilings, the most accurate build
below them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.agents.base import Space
from edgeprune.agents.table import table_evaluations
from edgeprune.agents.warm import takes_table
from edgeprune.budget import calls, largest
from edgeprune.compiler import replacing, tabling
from edgeprune.compiler.ceilings import Ceilings, require_meter
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.replacing import Replaced
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.compiler.workshop import Finished, Workshop
from edgeprune.errors import UnmetRequirement
from edgeprune.groups import CostModel
from edgeprune.mixed import tallied
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.sparsify import Sparsify
from edgeprune.profiles.energy_model import Formula
from edgeprune.profiles.latency_table import LatencyTable
from edgeprune.tally import Tally

STEP = 0.05
"""Distance of two neighbouring cost targets of the bisection, as a share of the original's."""
WORDS = {"macs": "MACs", "latency": "predicted latency", "energy": "estimated energy"}
"""What a search may aim at."""
ATTEMPTS = 3
"""Trained builds at most when the first one under a size, latency or energy ceiling comes out above it."""


@dataclass
class Outcome:
    """What the strategy finished: the candidates by name, what the bisection tried on its way, and remarks.

    ``control`` is a dense model trained here that went on training for as long as the pruned one did. ``table`` told
    the latency of plans, where there was one.
    """

    candidates: dict[str, Finished] = field(default_factory=dict)
    probes: list[Finished] = field(default_factory=list)
    control: Finished | None = None
    table: LatencyTable | None = None
    notes: list[str] = field(default_factory=list)


class Strategy:
    """One build's decisions. Everything is judged as a finished artifact: exported, at its final precision, on the
    target.
    """

    def __init__(self, workshop: Workshop, tools: Toolbox) -> None:
        self.workshop, self.tools = workshop, tools
        self.budget = workshop.means.budget
        self.outcome = Outcome({"original": workshop.source})
        self._searches: dict[tuple[tuple[str, float], ...], Sparsify] = {}
        self._asked: dict[str, dict[str, float]] = {}
        self._to_come = 1
        self._aligned = False
        self._aim = "macs"
        self._replacing: list[AnyPass] = []

    def run(self) -> Outcome:
        """Finish every candidate the budget asks for. Raises Infeasible before any search when a ceiling is out of
        reach.
        """
        require_meter(self.workshop)
        if self.tools.sparsify.mixed:
            self._require_clock()
        quantized = self.workshop.finish("quantized-only", self.tools.ending())
        self.outcome.candidates["quantized-only"] = quantized
        cost = self.tools.sparsify.offering(self.tools.sparsify.rows(self.workshop.original, self.workshop.means.board))
        ceilings = Ceilings(self.workshop, self.tools, quantized)
        best = None
        if any(len(g.options()) > 1 for g in cost.groups):
            grid = ceilings.grid(cost)
            self._aligned = grid is not cost
            grid = self.tools.sparsify.offering(grid)
            self._replace(ceilings, quantized)
            grid = self._aimed(grid)
            best = self._under(ceilings, grid) if ceilings else self._above_floor(grid)
        else:
            self._replace(ceilings, quantized)
            self._require_fit(ceilings)
        if best is not None:
            self._finish_pair(best)
        if self.workshop.preparation and self.tools.trains and (best is not None or self._replacing):
            longer: list[AnyPass] = [self._as_long(), self.tools.export, *self.tools.dialect]
            self.outcome.control = self.workshop.finish("control", longer)
        return self.outcome

    def _require_clock(self) -> None:
        """Raise UnmetRequirement unless a latency table tells what a precision gives, and latency is what is wanted."""
        if self.workshop.means.table is None:
            raise UnmetRequirement("sparsify.mixed goes by what int8 and float take, layer by layer; give --table FILE")
        if self.budget.ceilings() and "latency" not in self.budget.ceilings():
            raise UnmetRequirement("sparsify.mixed lowers precision for time; give --max-latency, or no ceiling at all")

    def _as_long(self) -> Finetune:
        """Return a training on the labels for as many epochs as the pruned candidate had: of itself as its own teacher
        the dense model would learn nothing.
        """
        epochs = sum(one.epochs for one in (*self._replacing, self.tools.finetune) if isinstance(one, Finetune))
        return dataclasses.replace(self.tools.finetune, epochs=epochs, distillation=0.0, hints=0.0)

    def _require_fit(self, ceilings: Ceilings) -> None:
        """Raise UnmetRequirement where nothing can be pruned and what there is without keeps no ceiling."""
        if not any(ceilings.fits(one) for name, one in self.outcome.candidates.items() if name != "original"):
            raise UnmetRequirement(
                "no group of this model can be pruned; `edgeprune inspect` says why for each of them"
            )
        self.outcome.notes.append("nothing of this model can be pruned; `edgeprune inspect` says why for every group")

    def _replace(self, ceilings: Ceilings, quantized: Finished) -> None:
        """Cut with other activations from here on, where a clock decides and they were worth it."""
        if ceilings and not ceilings.measured:
            return
        replaced: Replaced = replacing.replace(self.workshop, self.tools, ceilings, quantized)
        self._replacing = replaced.passes
        if replaced.candidate is not None:
            self.outcome.candidates[replaced.candidate.name] = replaced.candidate
        self.outcome.probes.extend(replaced.probes)
        self.outcome.notes.extend(replaced.notes)

    def _aimed(self, cost: CostModel) -> CostModel:
        """Let the searches aim at estimated energy under a ceiling on energy, else at the latency that a table tells;
        at MACs where there is neither. Energy is told too where the reward or the observation goes by it.

        The kernels are those of the candidate that is to be cut, at its precision and with its activations.
        """
        path, bench = self.workshop.means.table, self.workshop.bench
        energetic = "energy" in self.budget.ceilings() and "latency" not in self.budget.ceilings()
        rules = self.tools.sparsify.rules()
        if (path is None and not energetic and not rules.energetic) or self.tools.sparsify.granularity != "channel":
            return cost
        base = self.outcome.candidates[replacing.NAME if self._replacing else "quantized-only"]
        found, tallies = tabling.units_of(base.model), []
        if path is not None:
            self.outcome.table = table = tabling.open_table(path, bench)
            tabling.extend(table, path, bench, base.model, found, self.workshop.means.progress)
            tally = tabling.tally_of(table, found)
            floating = self._in_float(base, table, path) if self.tools.sparsify.mixed else None
            tallies.append(tally.choosing(floating, base.fact("quantize", "lowered")) if floating else tally)
            self._aim = "latency"
        if energetic or rules.energetic:
            published: Formula = "theoretical-published"
            formula = published if published in (bench.energy_method, rules.reward.form.energy) else "theoretical"
            tallies.append(tabling.energy_of(found, formula))
            self._aim = "energy" if energetic else self._aim
        if self._aim != "macs":
            told = f"latency, told by {path} ({table.digest()[:12]})" if self._aim == "latency" else f"{formula} energy"
            self.outcome.notes.append(f"the search aimed at {told}")
        if rules.energetic:
            self.outcome.notes.append(f"the agent was told {formula} energy, an estimate by arithmetic and traffic")
        mixed = any(tally.floating is not None for tally in tallies)
        search = dataclasses.replace(self.tools.sparsify, tallies=tuple(tallies), mixed=mixed)
        self.tools = dataclasses.replace(self.tools, sparsify=search)
        return tallied(cost, tallies)

    def _in_float(self, base: Finished, table: LatencyTable, path: Path) -> Tally | None:
        """Return what the kernels of an int8 candidate take in float, for plans to choose between the two; None, with a
        remark, where lower precision alone came out in float.
        """
        if base.fact("quantize", "precision") != "int8":
            self.outcome.notes.append("int8 does not pay for the whole model here, so plans choose no precision")
            return None
        passes = [one for one in base.passes if one.name != "quantize"]
        model = self.workshop.finish(f"{base.name} in float", passes).model
        found = tabling.units_of(model)
        tabling.extend(table, path, self.workshop.bench, model, found, self.workshop.means.progress)
        self.outcome.notes.append("plans chose float or int8 for each group, by what the table tells of both")
        return tabling.tally_of(table, found)

    # --- with a floor alone -----------------------------------------------------------------------

    def _above_floor(self, cost: CostModel) -> Finished | None:
        """Return the deepest cut that holds the floor, by bisection over the cost target: of several the fastest. Where
        none holds, the one that loses least, to be shown beside what was chosen; None where nothing was tried.
        """
        if self.budget.max_accuracy_drop is None or not self.tools.data:
            return self._dead_only()
        targets = _targets(cost, self._aim)
        first = max(1, math.floor(len(targets) / 3 * self._left()))
        stride = 1 if self._replacing else None  # what they left of the floor tells where the end is
        once = calls(len(targets), first)
        allowance = self._allowance(cost, once, once if stride is None else 2 * once + 2)
        found: dict[int, Finished] = {}

        def holds(k: int) -> bool:
            found[k] = self._probe(
                f"probe at {targets[k - 1]:.2f}x {WORDS[self._aim]}",
                {self._aim: targets[k - 1] * cost.full[self._aim]},
                allowance,
            )
            held = self.workshop.holds(found[k]) is not False
            self.workshop.means.progress.note(f"{found[k].name}: {'holds' if held else 'misses'} the floor")
            return held

        deepest = largest(len(targets), holds, first, stride)
        held = [p for p in found.values() if self.workshop.holds(p) is not False]
        if not deepest or not held:
            self.outcome.notes.append(
                "no pruned candidate held the floor; the bisection's probes show how far each missed it"
            )
            return min(found.values(), key=lambda made: self.workshop.drop(made) or 0.0) if found else None
        return self._fastest(held)

    def _left(self) -> float:
        """Return the share of the floor that other activations have left: where it is small, little can be cut."""
        floor = self.budget.max_accuracy_drop
        if not self._replacing or not floor:
            return 1.0
        drop = self.workshop.drop(self.outcome.candidates[replacing.NAME]) or 0.0
        return min(max(1.0 - drop / floor, 0.0), 1.0)

    def _dead_only(self) -> Finished | None:
        """Without data there is no floor to prune against: only dead channels go."""
        pruned = self.workshop.finish("pruned-quantized", [self.tools.prune, *self.tools.ending()])
        if not pruned.fact("prune", "removed_parameters"):
            self.outcome.notes.append("no channel is dead; without data or a ceiling there is nothing else to prune by")
            return None
        return pruned

    # --- with ceilings ----------------------------------------------------------------------------

    def _under(self, ceilings: Ceilings, cost: CostModel) -> Finished | None:
        quantized = self.outcome.candidates["quantized-only"]
        if ceilings.fits(quantized) and self.workshop.holds(quantized) is not False:
            self.outcome.notes.append("lower precision alone meets every ceiling, so nothing was pruned for them")
            return None
        return self._under_measured(ceilings, cost) if ceilings.measured else self._under_size(ceilings)

    def _under_size(self, ceilings: Ceilings) -> Finished:
        """Search under MACs and parameters, again with fewer of them while the artifact is too large, or has more
        weights that are not zero than its plan told.
        """
        unsure = "size" in ceilings.absolute or self.workshop.source.nonzero is not None
        for attempt in range(1, ATTEMPTS + 1):
            share = 2 / 3 if unsure else 1.0  # another attempt needs some too
            left = self.tools.evaluations - self._spent()
            name = f"attempt {attempt} under the ceilings"
            best = self._probe(name, ceilings.searchable(), math.ceil(share * left))
            if ceilings.fits(best):
                break
            ceilings.known.append(best)
        return best

    def _under_measured(self, ceilings: Ceilings, cost: CostModel) -> Finished:
        """Bisect the cost target on finished artifacts for the least cut that is cheap enough by clock and sensor, then
        train that one.
        """
        wanted = ceilings.searchable()
        ceiling = wanted.get(self._aim, math.inf)
        targets = _targets(cost, self._aim)
        targets = [t for t in targets if t * cost.full[self._aim] <= ceiling] or targets[-1:]
        shapes = max(1, calls(len(targets) - 1))
        allowance = self._allowance(cost, shapes, shapes + ATTEMPTS)

        def limits(k: int) -> dict[str, float]:
            return {**wanted, self._aim: min(targets[k - 1] * cost.full[self._aim], ceiling)}

        def cheap_enough(k: int) -> bool:
            cutting = self._cutting(limits(k), allowance)
            probe = ceilings.untrained(f"shape at {targets[k - 1]:.2f}x {WORDS[self._aim]}", cutting)
            return ceilings.cheap_enough(self._noted(probe))

        least = len(targets) - largest(len(targets) - 1, lambda j: cheap_enough(len(targets) - j))
        k = least
        for _ in range(ATTEMPTS):
            best = self._probe(f"trained at {targets[k - 1]:.2f}x {WORDS[self._aim]}", limits(k), allowance)
            if ceilings.fits(best):
                break
            ceilings.known.append(best)  # what it takes tells how few parameters the size allows
            before, wanted = wanted, ceilings.searchable()
            if not ceilings.cheap_enough(best):
                k += 1
            if k > len(targets) or (ceilings.cheap_enough(best) and wanted == before):
                break
        return best

    # --- finishing --------------------------------------------------------------------------------

    def _probe(self, name: str, limits: Mapping[str, float], evaluations: int) -> Finished:
        return self._noted(self.workshop.finish(name, self._full(self._cutting(limits, evaluations))))

    def _cutting(self, limits: Mapping[str, float], evaluations: int) -> list[AnyPass]:
        return [*self._replacing, self.tools.prune, self._searching(limits, evaluations)]

    def _noted(self, probe: Finished) -> Finished:
        for name, scores in (probe.fact("sparsify", "asked") or {}).items():
            self._asked.setdefault(name, {}).update(scores)
        self.outcome.probes.append(probe)
        return probe

    def _spent(self) -> int:
        return sum(map(len, self._asked.values()))

    def _searching(self, limits: Mapping[str, float], evaluations: int) -> Sparsify:
        """Return the search under these limits, the same one whenever it is asked for again.

        The evaluations of the run bound those of all its searches together; one is kept for each search to come. What
        the searches before it were told, it learns from too.
        """
        name = tuple(sorted(limits.items()))
        if name not in self._searches:
            self._to_come = max(0, self._to_come - 1)
            left = self.tools.evaluations - self._spent() - self._to_come
            count = max(1, min(evaluations, left))
            self._searches[name] = self.tools.searching(limits, count, self._aligned, self._asked)
        return self._searches[name]

    def _full(self, cutting: list[AnyPass]) -> list[AnyPass]:
        training: list[AnyPass] = [self.tools.finetune] if self.tools.trains else []
        return [*cutting, *training, *self.tools.ending()]

    def _finish_pair(self, best: Finished) -> None:
        """Make the pruned-only and pruned-quantized candidates of the same cut."""
        self.outcome.candidates["pruned-quantized"] = dataclasses.replace(best, name="pruned-quantized")
        floating = [one for one in best.passes if one.name != "quantize"]
        self.outcome.candidates["pruned-only"] = self.workshop.finish("pruned-only", floating)

    # --- judging ----------------------------------------------------------------------------------

    def _fastest(self, held: list[Finished]) -> Finished:
        """Return the fastest of the candidates that hold the floor: by the clock, or by MACs where no clock may
        decide, and where zeros make no difference to it.
        """
        masked = self.tools.sparsify.granularity != "channel"
        if self.workshop.means.cost == "macs" or len(held) == 1 or masked:
            return min(held, key=lambda c: c.counts()["macs"])
        timed = [(self.workshop.recorded_measure(c), c) for c in held]
        return min(timed, key=lambda pair: (pair[0].ratio or math.inf, pair[1].macs))[1]

    def _allowance(self, cost: CostModel, searches: int, most: int) -> int:
        """Return the evaluations of one search when a bisection is to run ``searches``, and ``most`` at worst.

        They share them evenly, but for those of a sensitivity table, which are the same for all and paid for once.
        """
        self._to_come = most
        search, total = self.tools.sparsify, self.tools.evaluations
        table = min(table_evaluations(Space(cost, {})), total // 2)
        tabled = table + (total - table) // searches
        if (search.warm or not search.agent.learns) and takes_table(search.agent, table, tabled):
            return max(1, tabled)
        return max(1, total // searches)


def _targets(cost: CostModel, aim: str) -> list[float]:
    """Return cost targets as shares of the original's, descending by STEP from just below 1 to the least reachable."""
    least = cost.cost(Space(cost, {}).minimum())[aim] / cost.full[aim]
    steps = math.floor((1.0 - least) / STEP + 1e-9)
    return [round(1.0 - STEP * k, 4) for k in range(1, steps + 1)] or [least]
