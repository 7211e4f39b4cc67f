"""From finished cells to the report of a comparison: rows, differences, fits, and what the figures do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune.compiler.arena import Arena
from edgeprune.compiler.cache import versions
from edgeprune.compiler.cells import Ablation, Ceiling, Finding, Method
from edgeprune.compiler.comparison_report import REFERENCE, SCHEMA, BudgetRow, Comparison, Dense, MethodRow
from edgeprune.compiler.pipeline import describe
from edgeprune.compiler.request import Request
from edgeprune.compiler.statistics import (
    Difference,
    Line,
    anova,
    corrected,
    curve,
    difference,
    line,
    power_law,
    summary,
    to_best,
)
from edgeprune.passes.finalists import seats
from edgeprune.report import SplitRow
from edgeprune.tracing import size_of

_LEFT_OUT: Mapping[Ablation, str] = {
    "no-recalibration": "Without recalibration plans were only chosen; the chosen one's batch norms were re-estimated "
    "as in every other row.",
    "no-measured-cost": "Without measured cost the search was held to the same share of the MACs instead of the "
    "latency.",
}
"""What has to be said about rows that leave something out."""


def assemble(
    request: Request, arena: Arena, methods: Sequence[Method], ceilings: Sequence[Ceiling], found: Sequence[Finding],
    original: Mapping[str, float],
) -> Comparison:
    """Return the report of finished cells; ``original`` holds the dense model's scores."""
    full = size_of(arena.original)
    dense = Dense(**original, macs=full["macs"], parameters=full["parameters"])
    budgets, rows = [], []
    for ceiling in ceilings:
        mine = {m.label: [f for f in found if (f.method, f.budget) == (m.label, ceiling.label)] for m in methods}
        best = _best_baseline(methods, mine)
        scored = ("audit", "tuned") if methods[0].finetune.epochs else ("audit",)
        variance = {score: anova([_values(one, score) for one in mine.values()]) for score in scored}
        budgets.append(BudgetRow(label=ceiling.label, limits=dict(ceiling.limits), best_baseline=best, anova=variance))
        reference = REFERENCE if REFERENCE in mine else None
        first, second = (_against(mine, other, scored) for other in (reference, best))
        rows += [_row(m, mine[m.label], ceiling, dense, first[m.label], second[m.label]) for m in methods]
    measured = [f for f in _distinct(found) if f.measurement is not None and f.measurement.source == "measured"]
    times = [f.measurement.latency_ms.p50 for f in measured if f.measurement and f.measurement.latency_ms]
    several = len(ceilings) > 1
    return Comparison(
        schema=SCHEMA,
        model=str(request.model or request.arch or type(arena.original.module).__name__),
        metric=arena.task.metric,
        target=request.target,
        evaluations=arena.usual.evaluations,
        images=min(arena.usual.looks_at(arena.usual.objective), len(arena.task.choosing)),
        finalists=seats(arena.usual.finalists, arena.usual.evaluations, arena.usual.objective),
        objective=arena.usual.objective,
        epochs=methods[0].finetune.epochs,
        seeds=sorted({f.seed for f in found}),
        splits=[SplitRow(name=s.name, n=s.n, origin=s.origin) for s in arena.task.splits()],
        dense=dense,
        reference=REFERENCE if any(m.label == REFERENCE for m in methods) else None,
        budgets=budgets,
        rows=rows,
        regression=_regressions(methods, found, dense) if several else {},
        latency_law=power_law([f.parameters for f in measured], times) if several else None,
        cells=list(found),
        notes=_notes(arena, methods, found, several),
        options={"sparsify": _plain(arena.usual), "finetune": _plain(methods[0].finetune),
                 "agents": {m.label: describe(m.sparsify)["agent"] for m in methods if not m.ablation}},
        environment={"versions": versions(), "processor": arena.bench.processor().get("cpu"),
                     "threads": arena.means.threads, "workers": arena.means.pool.workers,
                     "pool": arena.means.pool.kind, "device": arena.means.device},
    )  # fmt: skip


def _regressions(methods: Sequence[Method], found: Sequence[Finding], dense: Dense) -> dict[str, Line]:
    of = {m.label: _distinct([f for f in found if f.method == m.label]) for m in methods}
    of["all"] = _distinct([f for f in found if not f.ablation])
    fits = {label: line([1.0 - f.macs / dense.macs for f in one], _values(one, "audit")) for label, one in of.items()}
    return {label: fit for label, fit in fits.items() if fit is not None}


def _distinct(found: Sequence[Finding]) -> list[Finding]:
    """Return one finding for each plan: who comes to the same one at every seed would count as many points that agree.
    """
    return list({f.plan: f for f in reversed(found)}.values())[::-1]


def _plain(step: Any) -> dict[str, Any]:
    return {name: value for name, value in describe(step).items() if name not in ("agent", "limits", "tallies")}


def _values(found: Sequence[Finding], score: str) -> list[float]:
    return [float(getattr(one, score)) for one in found]


def _best_baseline(methods: Sequence[Method], found: Mapping[str, Sequence[Finding]]) -> str | None:
    """Return who of those that do not learn found the best plans, by the images that choose: the audit chooses nothing.
    """
    usual = [m.label for m in methods if not m.agent.learns and not m.ablation]
    return max(usual, key=lambda label: summary(_values(found[label], "search")).mean, default=None)


def _against(
    found: Mapping[str, Sequence[Finding]], other: str | None, scored: Sequence[str]
) -> dict[str, dict[str, Difference]]:
    """Return every method's differences from ``other`` by score, p corrected over the methods."""
    apart: dict[str, dict[str, Difference]] = {label: {} for label in found}
    if other is None:
        return apart
    for score in scored:
        theirs = _values(found[other], score)
        asked = {label: difference(_values(one, score), theirs) for label, one in found.items() if label != other}
        for label, one in corrected(asked).items():
            apart[label][score] = one
    return apart


def _row(
    method: Method, found: Sequence[Finding], ceiling: Ceiling, dense: Dense, reference: dict[str, Difference],
    best: dict[str, Difference],
) -> MethodRow:  # fmt: skip
    ratios = [f.measurement.ratio for f in found if f.measurement is not None and f.measurement.ratio is not None]
    return MethodRow(
        method=method.label, agent=method.agent.name, budget=ceiling.label, learns=method.agent.learns,
        warm=method.warm, ablation=method.ablation,
        search=summary(_values(found, "search")), audit=summary(_values(found, "audit")),
        tuned=summary(_values(found, "tuned")) if method.finetune.epochs else None,
        test=summary(_values(found, "test")),
        macs_share=summary([f.macs / dense.macs for f in found]),
        parameters_share=summary([f.parameters / dense.parameters for f in found]),
        evaluations=summary(_values(found, "evaluations")), to_best=summary([to_best(f.improvements) for f in found]),
        latency_ratio=summary(ratios) if ratios else None,
        curve=curve([f.improvements for f in found], max(f.evaluations for f in found)),
        against_reference=reference, against_best=best,
    )  # fmt: skip


def _still(found: Sequence[Finding], label: str) -> bool:
    """Whether a method came to the same plan at every seed, under every budget."""
    mine = [f for f in found if f.method == label]
    return len({(f.budget, f.plan) for f in mine}) == len({f.budget for f in mine})


def _searched(arena: Arena) -> list[str]:
    """Say by what all cells were searched, where that is not as usual."""
    notes = []
    if arena.tried:
        tried = " and ".join(arena.tried)
        notes.append(f"Channels go by {arena.usual.criterion} in all cells: of {tried} the one whose global ranking "
                     "did best, by two evaluations each that no method is charged with.")  # fmt: skip
    if arena.usual.halving:
        notes.append(f"The finalists of each search were trained for {arena.usual.halving:g} epochs, the better half "
                     "of them for twice as many, and so on: the last one was taken, untrained.")  # fmt: skip
    if arena.told:
        notes.append(f"Ceilings on latency are on what {arena.told} tells of float32 graphs; all widths are such as "
                     "the target likes.")  # fmt: skip
    return notes


def _notes(arena: Arena, methods: Sequence[Method], found: Sequence[Finding], several: bool) -> list[str]:
    """Say what the figures do not say by themselves."""
    task, seeds = arena.task, len({f.seed for f in found})
    notes = [
        "Seeds vary the agent and the order of fine-tuning, not the images: intervals tell what another seed would "
        f"give on these {len(task.withheld)} audit images, not what other images would.",
    ]
    wanted = arena.usual.looks_at(arena.usual.objective)
    if len(task.choosing) < wanted:
        notes.append(f"sparsify.images asked for {wanted} images; {len(task.choosing)} choose, so that as "
                     "many are left to audit.")  # fmt: skip
    if seeds < 2:
        notes.append("One seed: there is no spread, so no interval and no test; give --seeds 3 or more.")
    same = [m.label for m in methods if seeds > 1 and _still(found, m.label)]
    if same:
        notes.append(f"No spread between seeds: {', '.join(same)}. The analysis of variance takes all methods to "
                     "spread alike, and is too sure where some do not.")  # fmt: skip
    early = sorted({f.method for f in found if f.evaluations < arena.usual.evaluations})
    if early:
        notes.append(f"Ended by themselves before {arena.usual.evaluations} evaluations: {', '.join(early)}.")
    notes += _searched(arena)
    notes += [sentence for ablation, sentence in _LEFT_OUT.items() if any(m.ablation == ablation for m in methods)]
    if not several:
        notes.append("One budget: nothing to fit the score against sparsity, or time against size.")
    if any(f.measurement is not None and f.measurement.noisy for f in found):
        notes.append("Some times are noisy: their spread stayed above the guard's bound.")
    if several and not arena.ending:
        notes.append("Nothing was timed: time against size needs --measure.")
    return notes
