"""Energy a run: windows of fixed length, idle beside work, repeated until they agree."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from edgeprune.budget import EnergyMethod
from edgeprune.errors import Lacking
from edgeprune.profiles.sensor_base import Kind

Sample = tuple[float, Mapping[str, float]]
"""Seconds on some clock, and a reading."""
Job = Callable[[], float]
"""Works, or rests, for as long as a window lasts, and returns how many runs that were."""


@dataclass(frozen=True)
class Protocol:
    """How energy is measured.

    Windows of ``seconds`` with at least ``runs`` runs in each, after ``warmup`` seconds of work; at least ``windows``,
    more up to ``most`` until their coefficient of variation falls to ``spread``; then as much idle time as one window.
    Windows below 5 s are distorted by the counters' own steps (ml.energy, "thermally stable profiling"). A single layer
    gets one window of ``layer_seconds``, as what counts of it is its share of the whole.
    """

    seconds: float = 5.0
    runs: int = 200
    warmup: float = 2.0
    windows: int = 3
    most: int = 8
    spread: float = 0.05
    layer_seconds: float = 2.0

    def of_a_layer(self) -> Protocol:
        """Return how one layer is measured: warm after a tenth of its window."""
        return replace(self, seconds=self.layer_seconds, runs=1, warmup=min(self.warmup, self.layer_seconds / 10))


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


@dataclass(frozen=True)
class Window:
    """What was taken while a job was done: millijoules by rail and of the whole, over so many seconds and runs."""

    rails: Mapping[str, float]
    whole_mj: float
    seconds: float
    runs: float

    @property
    def power_mw(self) -> float:
        """The mean power of the whole."""
        return self.whole_mj / self.seconds


class Meter(ABC):
    """Tells what was taken while jobs were done. ``name`` is its sensor's; ``live`` says that it tells at once.

    One that is not live wants all jobs in one call, as it tells nothing before the last is done.
    """

    name: str
    method: EnergyMethod = "sensor"
    live: bool = True

    @abstractmethod
    def windows(self, jobs: Iterable[Job]) -> list[Window]:
        """Do jobs one after another, each taken from ``jobs`` when its turn comes, and return a window for each.

        Raises Lacking, or what reading the sensor raises, where it does not tell.
        """


class StandsStill(Lacking):
    """Raised when a sensor says that work takes nothing: it is one that does not move."""


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


def loop(
    work: Callable[[], object],
    protocol: Protocol = Protocol(),
    clock: Callable[[], float] = time.perf_counter,
) -> Job:
    """Warm up and return the job of running ``work`` over and over for one window.

    ``work`` must not return before it is done: what it leaves running would be counted as idle.
    """
    _until(clock, protocol.warmup, work, 0)
    return lambda: _until(clock, protocol.seconds, work, protocol.runs)


def measure(busy: Job, rest: Job, meter: Meter, protocol: Protocol = Protocol()) -> Energy:
    """Do ``busy`` until the windows agree, ``rest`` once, and return what one run takes, and what the idle board draws.

    A meter that is not live gets as many windows as the protocol wants at least. Raises StandsStill where the work
    seems to take nothing, and what the meter raises.
    """
    found: list[Window] = []
    if not meter.live:
        *found, resting = meter.windows([*[busy] * protocol.windows, rest])
    while meter.live and (len(found) < protocol.windows or _restless(found, protocol)):
        found += meter.windows([busy])
        if found[-1].whole_mj <= 0:
            break
    if min(one.whole_mj for one in found) <= 0:
        raise StandsStill(f"{meter.name} does not move; energy is not measured")
    if meter.live:
        [resting] = meter.windows([rest])
    total = statistics.median(one.whole_mj / one.runs for one in found)
    per_run = statistics.median(one.seconds / one.runs for one in found)
    middle = min(found, key=lambda one: abs(one.whole_mj / one.runs - total))
    return Energy(
        total_mj=total,
        net_mj=total - resting.power_mw * per_run,
        power_mw=statistics.median(one.power_mw for one in found),
        idle_mw=resting.power_mw,
        spread=_spread(found),
        windows=len(found),
        runs=round(sum(one.runs for one in found)),
        sensor=meter.name,
        rails={rail: mj / middle.runs for rail, mj in middle.rails.items()},
        method=meter.method,
    )


def _restless(found: Sequence[Window], protocol: Protocol) -> bool:
    return _spread(found) > protocol.spread and len(found) < protocol.most


def _spread(found: Sequence[Window]) -> float:
    each = [one.whole_mj / one.runs for one in found]
    mean = statistics.fmean(each)
    return statistics.stdev(each) / mean if len(each) > 1 and mean else 0.0


def _until(clock: Callable[[], float], seconds: float, work: Callable[[], object], least: int) -> int:
    """Run ``work`` for ``seconds`` and at least ``least`` times; return how often it ran."""
    start, runs = clock(), 0
    while clock() - start < seconds or runs < least:
        work()
        runs += 1
    return runs
