"""A sensor of this machine read beside the work: when it begins, when it ends, and as often as it has something new."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable

from edgeprune.budget import EnergyMethod
from edgeprune.errors import Lacking
from edgeprune.profiles.energy import Job, Meter, Sample, Window, integrate
from edgeprune.profiles.sensor_base import Sensor


class SensorMeter(Meter):
    """Reads a sensor around jobs and, from a thread of its own, within them.

    By the method ``two-point`` the power at both ends of a window stands for all of it, as in DepGraphRL's Algorithm 1
    (E = t · (P_start + P_end) / 2) without its slips: around a window of many runs and not one layer, which is over
    before the sensor has a new value, and with no term added twice.
    """

    def __init__(
        self,
        sensor: Sensor,
        method: EnergyMethod = "sensor",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name, self.method = sensor.name, method
        self._sensor, self._clock = sensor, clock

    def windows(self, jobs: Iterable[Job]) -> list[Window]:
        """Do jobs and return what each took."""
        return [self._window(job) for job in jobs]

    def _window(self, job: Job) -> Window:
        with _Sampler(self._sensor, self._clock) as sampler:
            runs = job()
        samples = sampler.samples if self.method == "sensor" else [sampler.samples[0], sampler.samples[-1]]
        rails = integrate(samples, self._sensor.kind, self._sensor.wraps)
        return Window(rails, sum(rails[r] for r in self._sensor.total), samples[-1][0] - samples[0][0], runs)


class _Sampler:
    """Reads a sensor when it is entered and left, and in between as often as it has something new."""

    def __init__(self, sensor: Sensor, clock: Callable[[], float]) -> None:
        self.samples: list[Sample] = []
        self._sensor, self._clock = sensor, clock
        self._done = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

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
        """Read; the time is that in the middle of the reading, which itself takes some. Raises Lacking where the sensor
        does not answer any more.
        """
        before = self._clock()
        try:
            reading = self._sensor.read()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Lacking(f"the power sensor {self._sensor.name} does not answer any more: {error}") from error
        self.samples.append(((before + self._clock()) / 2, reading))

    def _follow(self) -> None:
        while not self._done.wait(max(self._sensor.period, 0.01)):
            try:
                self._take()
            except Exception as error:
                self._failed = error
                return
