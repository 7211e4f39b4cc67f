"""Which candidate wins, and what the report says: the only place where the test split is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.budget import Basis, Check, verdict
from edgeprune.compiler import runtimes, tabling
from edgeprune.compiler.cache import versions
from edgeprune.compiler.ceilings import exceeded
from edgeprune.compiler.opening import Opened
from edgeprune.compiler.request import Request
from edgeprune.compiler.strategy import Outcome
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.compiler.workshop import Finished, Workshop
from edgeprune.report import (
    Candidate,
    CheckRow,
    Evaluation,
    FinalistRow,
    GridRow,
    GroupRow,
    LearningRow,
    Measurement,
    PredictionRow,
    Report,
    Score,
    Search,
    SearcherRow,
    SplitRow,
)

GAIN = 1.02
"""How much faster a more heavily changed candidate must be than a simpler one to be worth it."""
_FLOOR = "the accuracy floor"
REWARDED = (
    "the reward trained the agent and chose nothing: the plan that was taken is the best true score under the ceilings"
)
MASKED = (
    "masked weights are zeros that stay in the file and in the arithmetic: ceilings on MACs and parameters count the "
    "others, the size on disk counts all, and what time they take is what was measured"
)
ORDER = ("original", "quantized-only", "activations-quantized", "pruned-only", "pruned-quantized")


@dataclass(frozen=True)
class Choice:
    """The candidate that goes out, and a remark on each of the others."""

    finished: Finished
    remarks: Mapping[str, str]


def choose(workshop: Workshop, outcome: Outcome) -> Choice:
    """Return the fastest candidate that holds the floor and every ceiling; of near equals, the least changed one.

    Judged on the search split and on a recorded measurement of this build, so that a resumed build chooses the same.
    Where no candidate holds everything, the best found is the one that breaks the fewest ceilings and then loses the
    least accuracy: a ceiling asks for the best accuracy under it.
    """
    remarks = {}
    broken: dict[str, list[str]] = {}
    speed: dict[str, float] = {}
    order = sorted(outcome.candidates, key=_place)
    for name in order:
        candidate = outcome.candidates[name]
        broken[name] = _broken(workshop, candidate)
        speed[name] = _speed(workshop, candidate)
        remarks[name] = "breaks " + ", ".join(broken[name]) if broken[name] else ""
    eligible = [name for name in broken if not broken[name]]
    if not eligible:

        def distance(name: str) -> tuple[int, float]:
            return sum(not one.startswith(_FLOOR) for one in broken[name]), _drop(workshop, outcome.candidates[name])

        best = min((n for n in broken if n != "original" or len(broken) == 1), key=distance)
        return Choice(outcome.candidates[best], {**remarks, best: f"best found; {remarks[best]}"})
    fastest = min(speed[name] for name in eligible)
    near = GAIN if workshop.means.cost == "measured" else 1.0  # counts have no noise: there int8 need not be faster
    equal = [name for name in order if name in eligible and speed[name] <= fastest * near]
    best, why = equal[0], "the fastest that holds everything"
    if any(outcome.candidates[name].nonzero for name in equal):  # masks were asked for, and no clock shows what they do
        best = min(equal, key=lambda name: outcome.candidates[name].counts()["parameters"])
        why = "of those that hold everything at this speed, it has the fewest weights that are not zero"
    for name in eligible:
        if name != best:
            remarks[name] = f"holds everything, at {speed[name] / speed[best]:.2f}x of the chosen one's " + _unit(
                workshop
            )
    return Choice(outcome.candidates[best], {**remarks, best: f"chosen: {why}"})


def _place(name: str) -> int:
    """Return how much was changed: the target's first runtime counts as less than any other."""
    base, _, runtime = name.partition(", ")
    return ORDER.index(base) + len(ORDER) * bool(runtime)


def _unit(workshop: Workshop) -> str:
    return "MACs" if workshop.means.cost == "macs" else "latency"


def _speed(workshop: Workshop, candidate: Finished) -> float:
    """Return what candidates are ranked by: the measured ratio to the original, or MACs and then bytes as shares of
    it.
    """
    if workshop.means.cost == "macs":
        source = workshop.source
        return candidate.counts()["macs"] / max(source.macs, 1.0) + 1e-3 * candidate.size_bytes / source.size_bytes
    if candidate.name == "original":
        return 1.0
    return workshop.recorded_measure(candidate).ratio or math.inf


def _broken(workshop: Workshop, candidate: Finished) -> list[str]:
    broken = []
    if workshop.holds(candidate) is False:
        broken.append(f"{_FLOOR} ({100 * _drop(workshop, candidate):+.2f} points on the search split)")
    broken += [f"the {quantity} ceiling" for quantity in exceeded(workshop, candidate)]
    return broken


def _drop(workshop: Workshop, candidate: Finished) -> float:
    if workshop.source.score is None or candidate.score is None:
        return 0.0
    return workshop.source.score.drop_to(candidate.score)[0]


def conclude(
    workshop: Workshop, opened: Opened, outcome: Outcome, choice: Choice, tools: Toolbox | None, request: Request
) -> Report:
    """Time every candidate anew, score original and result on the test split, and judge the budget.

    Artifacts are filled in when they are written.
    """
    chosen = choice.finished
    control = outcome.control
    timed = {c.name: c.model for c in (*outcome.candidates.values(), *((control,) if control else ()))}
    workshop.means.progress.note("measuring the finished artifacts, interleaved")
    measured = workshop.measure(timed)
    for name in ("original", chosen.name):
        measured = {**measured, name: workshop.complete(measured[name], timed[name])}
    truth = workshop.score(workshop.source.model, "test") if opened.has_data else workshop.source.score
    found = workshop.score(chosen.model, "test") if opened.has_data else chosen.score
    split: Literal["search", "test"] = "test" if opened.has_data else "search"
    checks = _checks(workshop, chosen, measured, truth, found, request)
    word = verdict(checks, request.require_measured)
    bases = {c.basis for c in checks if c.held is not None}
    if measured[chosen.name].source == "estimated" and workshop.means.cost != "macs":
        bases.add("estimated")  # what is faster was told by an estimate, whatever the ceilings are
    basis: Basis = next((b for b in ("estimated", "measured", "exact") if b in bases), "unchecked")
    masked = any(c.nonzero for c in outcome.candidates.values())
    candidates = [
        workshop.describe(
            c,
            measured[c.name],
            chosen=c.name == chosen.name,
            note=choice.remarks.get(c.name, ""),
            compressed=masked,
        )
        for c in outcome.candidates.values()
    ]
    notes = [*opened.notes, *outcome.notes, *_noise(measured), *runtimes.remark(workshop, chosen.name, measured)]
    notes += [MASKED] if masked else []
    notes += [REWARDED] if tools is not None and tools.sparsify.reward != "constrained" else []
    told = tabling.predictions(outcome.table, {c.name: c.model for c in outcome.candidates.values()}, measured)
    notes += [tabling.told(told)] if told else []
    return Report(
        verdict=word,
        basis=basis,
        budget=[_check_row(c) for c in checks],
        target=_target(workshop),
        splits=[SplitRow(name=s.name, n=s.n, origin=s.origin) for s in opened.task.splits()],
        baseline=workshop.describe(workshop.source, measured["original"], truth, truth, split, compressed=masked),
        result=workshop.describe(chosen, measured[chosen.name], found, truth, split, chosen=True, compressed=masked),
        control=_control(workshop, control, measured, truth) if control else None,
        candidates=candidates,
        probes=[workshop.describe(p) for p in outcome.probes],
        steps=workshop.steps,
        search=_search(outcome, choice, tools, request.preset),
        plan=_plan(chosen),
        learning=_learning(workshop, outcome),
        artifacts=[],
        predictions=[PredictionRow.model_validate(one.model_dump()) for one in told],
        environment=_environment(workshop),
        notes=notes,
    )


def _control(
    workshop: Workshop, control: Finished, measured: Mapping[str, Measurement], truth: Score | None
) -> Candidate:
    score = workshop.score(control.model, "test")
    note = "the dense model after as many more epochs as the pruned one had; not a candidate"
    return workshop.describe(control, measured[control.name], score, truth, "test", note=note)


def _checks(
    workshop: Workshop,
    chosen: Finished,
    measured: Mapping[str, Measurement],
    truth: Score | None,
    found: Score | None,
    request: Request,
) -> list[Check]:
    budget, source = request.budget, workshop.source
    checks = []
    if budget.max_accuracy_drop is not None:
        judged = workshop.means.budget.max_accuracy_drop is not None and truth is not None and found is not None
        drop = truth.drop_to(found)[0] if judged and truth and found else None
        checks.append(Check("accuracy-drop", budget.max_accuracy_drop, drop, "measured" if judged else "unchecked"))
    clock: Basis = "estimated" if measured[chosen.name].source == "estimated" else "measured"
    before, after = measured["original"].latency_ms, measured[chosen.name].latency_ms
    spent, whole = measured[chosen.name].energy_mj, measured["original"].energy_mj
    told: Basis = "estimated" if measured[chosen.name].energy_source == "estimated" else "measured"
    known: dict[str, tuple[float | None, float | None, Basis]] = {
        "energy": (spent, whole, told),
        "latency": (after.p50 if after else None, before.p50 if before else None, clock),
    }
    known |= {q: (chosen.counts()[q], source.counts()[q], "exact") for q in ("size", "macs", "parameters")}
    for quantity, limit in budget.ceilings().items():
        value, original, basis = known[quantity]
        allowed = None if limit.relative and original is None else limit.resolve(original or 0.0)
        checks.append(Check(quantity, allowed, value, "unchecked" if value is None or allowed is None else basis))
    return checks


def _check_row(check: Check) -> CheckRow:
    return CheckRow(quantity=check.quantity, limit=check.limit, found=check.found, basis=check.basis, held=check.held)


def _noise(measured: Mapping[str, Measurement]) -> list[str]:
    noisy = [name for name, m in measured.items() if m.noisy]
    return [f"the machine was too busy to rank by the clock while measuring {', '.join(noisy)}"] if noisy else []


def _search(outcome: Outcome, choice: Choice, tools: Toolbox | None, preset: str | None) -> Search | None:
    searched = [c for c in (*outcome.probes, *outcome.candidates.values()) if c.fact("sparsify", "agent")]
    if tools is None or not searched:
        return None
    unique = {(c.fact("sparsify", "target"), c.fact("sparsify", "evaluations")): c for c in searched}.values()
    told = [scores for c in unique for scores in (c.fact("sparsify", "asked") or {}).items()]
    plans = [(name, plan) for name, scores in told for plan in scores]
    asked = set(plans)
    found = sum(c.fact("sparsify", "resumed") or 0 for c in unique)  # those of this run's own searches included
    shown = choice.finished if choice.finished.fact("sparsify", "agent") else list(unique)[-1]
    best, start = shown.fact("sparsify", "best"), shown.fact("sparsify", "warm_start")
    return Search(
        agent=shown.fact("sparsify", "agent"),
        objective=shown.fact("sparsify", "objective") or "metric",
        evaluations=len(asked),
        resumed=max(0, found - (len(plans) - len(asked))),
        best=best,
        warm_start=start,
        images=shown.fact("sparsify", "images"),
        gain_over_warm_start=None if best is None or start is None else best - start,
        agent_overhead=shown.fact("sparsify", "agent_overhead"),
        agent_seconds=sum(c.fact("sparsify", "agent_seconds") or 0.0 for c in unique),
        searchers=[SearcherRow.model_validate(r) for c in unique for r in c.fact("sparsify", "searchers") or ()],
        history=[Evaluation.model_validate(r) for c in unique for r in c.fact("sparsify", "history") or ()],
        finalists=[FinalistRow.model_validate(r) for r in shown.fact("sparsify", "finalists") or ()],
        preset=preset,
        **(shown.fact("sparsify", "rules") or {}),
        learning=[LearningRow.model_validate(r) for c in unique for r in c.fact("sparsify", "curve") or ()],
        reward_grid=[GridRow.model_validate(r) for c in unique for r in c.fact("sparsify", "reward_grid") or ()],
    )


def _plan(chosen: Finished) -> list[GroupRow]:
    return [GroupRow.model_validate(row) for row in chosen.fact("sparsify", "plan") or ()]


def _learning(workshop: Workshop, outcome: Outcome) -> list[dict[str, Any]]:
    seen: dict[str, Sequence[Any]] = {}
    for step in workshop.preparation:
        seen["original"] = step.facts.get("epochs") or ()
    for candidate in (*outcome.probes, *outcome.candidates.values()):
        trained = [s.facts["epochs"] for s in candidate.steps if s.name == "finetune" and "epochs" in s.facts]
        epochs = trained[-1] if trained else ()  # the first of two is that of the activations, a candidate of its own
        if epochs and epochs not in seen.values():
            seen[candidate.name] = epochs
    return [{"candidate": name, **epoch} for name, epochs in seen.items() for epoch in epochs]


def _target(workshop: Workshop) -> dict[str, Any]:
    return workshop.means.board.model_dump(mode="json")


def _environment(workshop: Workshop) -> dict[str, Any]:
    means = workshop.means
    return {
        "versions": versions(),
        "seed": means.seed,
        "cost": means.cost,
        "threads": means.threads,
        "train_threads": means.train_threads,
        "workers": means.pool.workers,
        "pool": means.pool.kind,
        "device": means.device,
    }
