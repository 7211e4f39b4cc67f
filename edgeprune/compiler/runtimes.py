"""A target with several runtimes: which of those that are installed runs what comes out fastest."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune import find
from edgeprune.backends.base import Backend
from edgeprune.compiler.strategy import Outcome
from edgeprune.compiler.workshop import Workshop
from edgeprune.report import Measurement


def offer(workshop: Workshop, outcome: Outcome) -> None:
    """Add each candidate on each of the target's other runtimes that is installed, where the clock decides.

    The same file, scored by the runtime that is to run it: whether it holds the floor is judged there.
    """
    if workshop.means.cost != "measured":
        return
    for runtime in workshop.means.board.runtimes:
        backend: Backend = find.find("backends", runtime)()
        if backend.version() is None:
            continue
        for name in list(outcome.candidates):
            if not outcome.candidates[name].model.runtime:
                other = workshop.on(outcome.candidates[name], runtime)
                outcome.candidates[other.name] = other


def remark(workshop: Workshop, chosen: str, measured: Mapping[str, Measurement]) -> list[str]:
    """Say what the target's runtimes made of the chosen file, beside one another."""
    base = chosen.partition(", ")[0]
    found = {name: one for name, one in measured.items() if name == base or name.startswith(f"{base}, ")}
    if len(found) < 2:
        return []
    first = found[base].latency_ms
    told: list[str] = []
    times: dict[str, float] = {}
    for name, one in found.items():
        if one.latency_ms is not None and first is not None:
            runtime = name.partition(", ")[2] or workshop.bench.backend.name
            times[name] = one.latency_ms.p50
            told.append(f"{runtime} {one.latency_ms.p50:.3g} ms ({one.latency_ms.p50 / first.p50:.2f}x)")
    runs = chosen.partition(", ")[2] or workshop.bench.backend.name
    # These are of after the choice, which they must not change: a resumed build has to choose the same.
    late = times.get(chosen, 0.0) > min(times.values(), default=0.0)
    why = ", chosen by the floor and by measurements before these" if late else ""
    return [f"{base} by runtime, p50: {', '.join(told)}; {runs} is to run it{why}"]
