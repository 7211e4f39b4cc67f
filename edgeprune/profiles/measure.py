"""Time artifacts against each other so that the machine's moods cancel out.

Single runs on a shared machine differ by a factor of two from one second to the next, but not between two
artifacts timed within the same tenth of a second. So artifacts take turns in short rounds, their order rotates, and
ratios are taken round by round.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from edgeprune.report import Latency, Measurement

_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Plan:
    """How long to measure and what counts as quiet.

    ``round_seconds`` is what one artifact runs in one round; it makes between ``fewest`` and ``most`` runs of it.
    ``spread`` bounds (p90 - p10) / median of the rounds' ratios, which is what ranking rests on; ``drift`` the same of
    the first artifact's round medians, which may wander further before anything is wrong; ``stolen`` the share of
    the measuring threads' time that other processes can have taken. A session above a bound is repeated,
    ``attempts`` sessions at most.
    """

    rounds: int = 15
    round_seconds: float = 0.1
    fewest: int = 2
    most: int = 200
    warmup: int = 10
    spread: float = 0.25
    drift: float = 0.75
    stolen: float = 0.5
    attempts: int = 3


@dataclass(frozen=True)
class Rounds:
    """A session as it comes from a board: milliseconds of every run by artifact and round, and the share of time that
    others took, None where that is not known.
    """

    times: Mapping[str, Sequence[Sequence[float]]]
    stolen: float | None = None


@dataclass(frozen=True)
class _Session:
    """One sitting: milliseconds of every run by artifact, shape (rounds, runs), and the share of time stolen."""

    times: Mapping[str, NDArray[np.float64]]
    stolen: float

    def medians(self, name: str) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.median(self.times[name], axis=1)
        return result

    def ratios(self, name: str) -> NDArray[np.float64]:
        return self.medians(name) / self.medians(next(iter(self.times)))

    def spread(self) -> float:
        """Return the widest spread of the ratios over the artifacts; 0 for a single one."""
        return max(_spread(self.ratios(name)) for name in self.times)

    def drift(self) -> float:
        """Return the spread of the first artifact's round medians."""
        return _spread(self.medians(next(iter(self.times))))

    def noise(self, plan: Plan) -> float:
        """Return how far the session is from quiet: 1 is the bound."""
        return max(self.spread() / plan.spread, self.drift() / plan.drift, self.stolen / plan.stolen)


def interleave(
    runners: Mapping[str, Callable[[], object]],
    threads: int = 1,
    seed: int = 0,
    conditions: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    clock: Callable[[], float] = time.perf_counter,
    others: Callable[[], float] | None = None,
) -> dict[str, Measurement]:
    """Time ``runners`` in turn and return a Measurement each; ratios are against the first of them.

    A ratio is the median over rounds of the ratio of round medians, with a 95 % percentile-bootstrap interval over
    rounds (Efron, 1979) drawn from ``seed``. ``threads`` is what each runner already computes with.
    ``conditions`` (runtime, version, processor) are copied into every Measurement beside what is found out here.
    ``clock`` gives seconds; ``others`` gives the CPU seconds that other processes have used so far.

    When no session is quiet the quietest is returned with ``noisy`` set: its numbers are shown, but should not rank
    anything.
    """
    plan = plan or Plan()
    others = others or cpu_seconds_of_others
    before = _load_average()
    runs = {name: _warm_up(run, plan, clock) for name, run in runners.items()}
    sessions: list[_Session] = []
    while not sessions or (len(sessions) < plan.attempts and sessions[-1].noise(plan) > 1.0):
        sessions.append(_sit(runners, runs, plan, threads, clock, others))
    best = min(sessions, key=lambda session: session.noise(plan))
    found = {
        **(conditions or {}),
        "threads": threads,
        "rounds": plan.rounds,
        "sessions": len(sessions),
        "spread": round(best.spread(), 4),
        "drift": round(best.drift(), 4),
        "stolen": round(best.stolen, 4),
        "load_average": [before, _load_average()],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    noisy = best.noise(plan) > 1.0
    return {name: _measurement(best, name, plan, noisy, seed, found) for name in runners}


def from_rounds(
    sessions: Sequence[Rounds],
    seed: int = 0,
    conditions: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
) -> dict[str, Measurement]:
    """Return a Measurement for each artifact of sessions that were held elsewhere, as ``interleave`` does here.

    Of several sessions the quietest counts. Rounds may differ in their number of runs: the fewest is what is used of
    each.
    """
    plan = plan or Plan()
    sat = []
    for one in sessions:
        least = {name: min(map(len, rounds)) for name, rounds in one.times.items()}
        times = {name: np.array([r[: least[name]] for r in rounds]) for name, rounds in one.times.items()}
        sat.append(_Session(times, one.stolen or 0.0))
    at = min(range(len(sat)), key=lambda one: sat[one].noise(plan))
    best = sat[at]
    found = {
        **(conditions or {}),
        "rounds": len(next(iter(best.times.values()))),
        "sessions": len(sat),
        "spread": round(best.spread(), 4),
        "drift": round(best.drift(), 4),
        "stolen": round(best.stolen, 4) if sessions[at].stolen is not None else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    noisy = best.noise(plan) > 1.0
    return {name: _measurement(best, name, plan, noisy, seed, found) for name in best.times}


def quiet(rounds: Rounds, plan: Plan | None = None) -> bool:
    """Whether a session that was held elsewhere is within the bounds."""
    return not from_rounds([rounds], plan=plan)[next(iter(rounds.times))].noisy


def cpu_seconds_of_others() -> float:
    """Return the CPU seconds all others have used since the machine started, the hypervisor's share included."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, field, 0.0) for field in ("user", "nice", "system", "irq", "softirq", "steal"))
    own = psutil.Process().cpu_times()
    return float(busy - own.user - own.system)


def _spread(values: NDArray[np.float64]) -> float:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return float((high - low) / middle)


def _warm_up(run: Callable[[], object], plan: Plan, clock: Callable[[], float]) -> int:
    """Run a few times and return how many runs make a round."""
    took = []
    for _ in range(plan.warmup):
        start = clock()
        run()
        took.append(clock() - start)
    latency = max(float(np.median(took)), 1e-9)
    return round(min(max(plan.round_seconds / latency, plan.fewest), plan.most))


def _sit(
    runners: Mapping[str, Callable[[], object]],
    runs: Mapping[str, int],
    plan: Plan,
    threads: int,
    clock: Callable[[], float],
    others: Callable[[], float],
) -> _Session:
    times = {name: np.empty((plan.rounds, runs[name])) for name in runners}
    order = list(runners)
    began, used = clock(), others()
    with _no_collection():
        for index in range(plan.rounds):
            for name in order:
                _fill(times[name][index], runners[name], clock)
            order = order[1:] + order[:1]
    elapsed = clock() - began
    # Others slow us down only once they want more than the cores that we leave free.
    spare = max((psutil.cpu_count() or 1) - threads, 0)
    excess = (others() - used) / elapsed - spare if elapsed > 0 else 0.0
    return _Session(times, max(excess, 0.0) / threads)


def _fill(row: NDArray[np.float64], run: Callable[[], object], clock: Callable[[], float]) -> None:
    """Time one artifact's turn, in milliseconds; the first run only brings its weights back into the cache."""
    run()
    for i in range(len(row)):
        start = clock()
        run()
        row[i] = (clock() - start) * 1e3


def _measurement(
    session: _Session, name: str, plan: Plan, noisy: bool, seed: int, conditions: Mapping[str, Any]
) -> Measurement:
    times = session.times[name]
    p50, p90, p99 = (float(p) for p in np.percentile(times, [50, 90, 99]))
    ratios = session.ratios(name)
    draws = np.random.default_rng(seed).integers(0, len(ratios), (_BOOTSTRAPS, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return Measurement(
        source="measured",
        latency_ms=Latency(p50=p50, p90=p90, p99=p99),
        runs=int(times.size),
        warmup=plan.warmup,
        ratio=float(np.median(ratios)),
        ratio_interval=(float(low), float(high)),
        noisy=noisy,
        conditions={**conditions, "runs_per_round": times.shape[1]},
    )


def _load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the timings."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
