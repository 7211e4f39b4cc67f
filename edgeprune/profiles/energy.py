"""Energy a run: windows of fixed length, idle beside work, repeated until they agree."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from edgeprune.budget import EnergyMethod
from edgeprune.profiles.sensors import Kind, Sensor

Sample = tuple[float, Mapping[str, float]]
"""Seconds on some clock, and a reading."""


@dataclass(frozen=True)
class Protocol:
    """How energy is measured.

    Windows of ``seconds`` with at least ``runs`` runs in each, after ``warmup`` seconds of work; at least ``windows``,
    more up to ``most`` until their coefficient of variation falls to ``spread``; then as much idle time as one window.
    Windows below 5 s are distorted by the counters' own steps (ml.energy, "thermally stable profiling").
    """

    seconds: float = 5.0
    runs: int = 200
    warmup: float = 2.0
    windows: int = 3
    most: int = 8
    spread: float = 0.05


@dataclass(frozen=True)
class Energy:
    """Energy of one run in millijoules: ``total``, and ``net`` of what the idle board draws in the same time.

    Total alone hides small gains, net alone hides that a faster model lets the board idle sooner; limits are held
    against the total. ``power_mw`` is the mean while working, ``idle_mw`` while not. ``spread`` is the coefficient of
    variation of the windows; ``rails`` the total by rail. An estimate, by ``method``, knows the total alone.
    """

    total_mj: float
    net_mj: float | None = None
    power_mw: float | None = None
    idle_mw: float | None = None
    spread: float | None = None
    windows: int | None = None
    runs: int | None = None
    sensor: str | None = None
    rails: Mapping[str, float] = field(default_factory=dict)
    source: Literal["measured", "estimated"] = "measured"
    method: EnergyMethod = "sensor"


def integrate(samples: Sequence[Sample], kind: Kind, wraps: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return millijoules by rail between the first and the last sample.

    Power (mW) by the trapezoid rule over the samples' own times; a counter of energy (mJ) by its steps, where a step
    back is taken for one wrap at ``wraps``. Raises ValueError for fewer than two samples, and for a step back of a
    counter that does not wrap.
    """
    if len(samples) < 2:
        raise ValueError("energy needs at least two samples")
    found: dict[str, float] = dict.fromkeys(samples[0][1], 0.0)
    for (start, before), (end, after) in pairwise(samples):
        for rail in found:
            if kind == "power":
                found[rail] += (end - start) * (before[rail] + after[rail]) / 2
                continue
            step = after[rail] - before[rail]
            if step < 0:
                if not (wraps or {}).get(rail):
                    raise ValueError(f"the counter of {rail} went back")
                step += (wraps or {})[rail]
            found[rail] += step
    return found


def measure(
    work: Callable[[], object],
    sensor: Sensor,
    protocol: Protocol = Protocol(),
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    method: EnergyMethod = "sensor",
) -> Energy:
    """Run ``work`` over and over and return what one run takes, and what the idle board draws.

    ``work`` must not return before it is done: what it leaves running would be counted as idle. By the method
    ``two-point`` the power at both ends of a window stands for all of it, as in DepGraphRL's Algorithm 1 (E = t ·
    (P_start + P_end) / 2) without its slips: around a window of many runs and not one layer, which is over before the
    sensor has a new value, and with no term added twice.
    """
    _until(clock, protocol.warmup, work, 0)
    found: list[tuple[float, float, int, Mapping[str, float]]] = []
    while len(found) < protocol.windows or (_spread(found) > protocol.spread and len(found) < protocol.most):
        with _Sampler(sensor, clock, sleep) as sampler:
            runs = _until(clock, protocol.seconds, work, protocol.runs)
        samples = sampler.samples if method == "sensor" else [sampler.samples[0], sampler.samples[-1]]
        rails = integrate(samples, sensor.kind, sensor.wraps)
        found.append((sum(rails[r] for r in sensor.total), sampler.elapsed, runs, rails))
    with _Sampler(sensor, clock, sleep) as sampler:
        sleep(protocol.seconds)
    resting = integrate(sampler.samples, sensor.kind, sensor.wraps)
    idle = sum(resting[r] for r in sensor.total) / sampler.elapsed
    total = statistics.median(joules / runs for joules, _, runs, _ in found)
    power = statistics.median(joules / seconds for joules, seconds, _, _ in found)
    per_run = statistics.median(seconds / runs for _, seconds, runs, _ in found)
    middle = min(found, key=lambda one: abs(one[0] / one[2] - total))
    return Energy(
        total_mj=total,
        net_mj=total - idle * per_run,
        power_mw=power,
        idle_mw=idle,
        spread=_spread(found),
        windows=len(found),
        runs=sum(runs for _, _, runs, _ in found),
        sensor=sensor.name,
        rails={rail: joules / middle[2] for rail, joules in middle[3].items()},
        method=method,
    )


def _spread(found: Sequence[tuple[float, float, int, Mapping[str, float]]]) -> float:
    each = [joules / runs for joules, _, runs, _ in found]
    mean = statistics.fmean(each)
    return statistics.stdev(each) / mean if len(each) > 1 and mean else 0.0


def _until(clock: Callable[[], float], seconds: float, work: Callable[[], object], least: int) -> int:
    """Run ``work`` for ``seconds`` and at least ``least`` times; return how often it ran."""
    start, runs = clock(), 0
    while clock() - start < seconds or runs < least:
        work()
        runs += 1
    return runs


class _Sampler:
    """Reads a sensor when it is entered and left, and in between as often as it has something new."""

    def __init__(self, sensor: Sensor, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.samples: list[Sample] = []
        self._sensor, self._clock, self._sleep = sensor, clock, sleep
        self._done = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @property
    def elapsed(self) -> float:
        """Seconds between the first and the last sample."""
        return self.samples[-1][0] - self.samples[0][0]

    def __enter__(self) -> _Sampler:
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        self._take()

    def _take(self) -> None:
        """Read; the time is that in the middle of the reading, which itself takes some."""
        before = self._clock()
        reading = self._sensor.read()
        self.samples.append(((before + self._clock()) / 2, reading))

    def _follow(self) -> None:
        while not self._done.wait(max(self._sensor.period, 0.01)):
            try:
                self._take()
            except Exception as error:
                self._failed = error
                return
