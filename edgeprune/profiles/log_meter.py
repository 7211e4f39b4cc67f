"""An external meter that tells by the file it writes: work first, then wait until the file covers it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edgeprune.errors import BadData, BadInput, Lacking
from edgeprune.profiles.energy import Job, Meter, Sample, Window, integrate
from edgeprune.profiles.power_log import RAIL, between, read_power_log, written

_LEAST_READINGS = 3
_LOOK_SECONDS = 0.5
_LIVE_SECONDS = 2.0
"""Within that a meter that writes while it measures has told everything; after it, somebody is asked to export."""
_OFF_SECONDS = 5.0


@dataclass(frozen=True)
class PowerLog:
    """The file of an external meter, and how long it is waited for: ``patience`` seconds after the work is done.

    Times in it are compared with this machine's clock. ``note`` tells the user what is waited for.
    """

    path: Path
    note: Callable[[str], None] = lambda text: None
    patience: float = 600.0
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """Refuse before any work what cannot become a log: a folder that is not there, a file with another content.

        Raises BadInput.
        """
        if not self.path.parent.is_dir():
            raise BadInput(f"--power-log {self.path}: there is no folder {self.path.parent}")
        read_power_log(self.path)

    def covering(self, start: float, end: float) -> list[Sample]:
        """Return what the file holds once it goes on to ``end``, in Unix seconds.

        Raises Lacking where it does not in time, or begins after ``start``; BadData for a file that is damaged.
        """
        span = f"{written(start)} to {written(end)}"
        begun, asked, seen, samples = self.clock(), False, (-1, -1), list[Sample]()
        while True:
            now = self._state()
            if now != seen:
                seen, samples = now, read_power_log(self.path)
            if samples and samples[-1][0] >= end:
                break
            waited = self.clock() - begun
            if waited > self.patience:
                raise Lacking(f"--power-log {self.path} {self._found(samples)}, and {span} is wanted, which did not "
                              f"come within {self.patience:g} s; {self._advice(samples)}")  # fmt: skip
            if waited > _LIVE_SECONDS and not asked:
                asked = True
                self.note(f"waiting up to {self.patience:g} s for {self.path} to hold {span}; it "
                          f"{self._found(samples)}: if the meter exports by hand, export now")  # fmt: skip
            self.sleep(_LOOK_SECONDS)
        if samples[0][0] > start:
            raise Lacking(f"--power-log {self.path} {self._found(samples)}, and {span} is wanted; "
                          f"{self._advice(samples)}")  # fmt: skip
        return samples

    def _state(self) -> tuple[int, int]:
        """What changes when the file is written to."""
        try:
            told = self.path.stat()
        except OSError:
            return 0, 0
        return told.st_mtime_ns, told.st_size

    def _found(self, samples: Sequence[Sample]) -> str:
        if samples:
            return f"holds {written(samples[0][0])} to {written(samples[-1][0])}"
        return "holds no row yet" if self.path.exists() else "is not there yet"

    def _advice(self, samples: Sequence[Sample]) -> str:
        """Say what may be wrong: a log that was written to just now and ends at another time has another clock."""
        if samples:
            off = samples[-1][0] - self._state()[0] / 1e9
            if abs(off) > _OFF_SECONDS:
                return (f"its last row is {abs(off):.0f} s {'after' if off > 0 else 'before'} the moment the file was "
                        "written, so the meter's clock may be off: set it to this machine's")  # fmt: skip
        return "let the meter run from before edgeprune starts, and its clock agree with this machine's"


class LogMeter(Meter):
    """Notes when jobs began and ended, then lays the log over those times: all jobs at once, as one export tells them.

    ``execute`` is for jobs of another machine, which say by ``mark`` what part of their time counts.
    """

    name = "csv"
    live = False

    def __init__(self, log: PowerLog) -> None:
        self._log = log
        self._marked: tuple[float, float] | None = None

    def mark(self, start: float, end: float) -> float:
        """Let the time from ``start`` to ``end`` (Unix seconds) stand for the job that is being done; return seconds.
        """
        self._marked = start, end
        return end - start

    def windows(self, jobs: Iterable[Job]) -> list[Window]:
        """Do all jobs, wait for the log, and return what each took.

        Raises Lacking where the log does not cover them, or has too few rows in one; BadData where the work would have
        given power back.
        """
        spans: list[tuple[float, float, float]] = []
        for job in jobs:
            self._marked, begun = None, self._log.clock()
            runs = job()
            start, end = self._marked or (begun, self._log.clock())
            spans.append((start, end, runs))
        if not spans:
            return []
        samples = self._log.covering(min(s for s, _, _ in spans), max(e for _, e, _ in spans))
        return [self._window(samples, *span) for span in spans]

    def _window(self, samples: Sequence[Sample], start: float, end: float, runs: float) -> Window:
        found = between(samples, start, end)
        inside = len({moment for moment, _ in found[1:-1]})
        gap = max(late[0] - early[0] for early, late in pairwise(found))
        if inside < _LEAST_READINGS or gap > (end - start) / 2:
            raise Lacking(
                f"--power-log {self._log.path} holds {inside} rows from {written(start)} to {written(end)}, with a gap "
                f"of {gap:.3g} s; power cannot be told from that: let the meter write more often"
            )
        rails = integrate(found, "power")
        if rails[RAIL] <= 0:
            raise BadData(f"--power-log {self._log.path}: mean power from {written(start)} to {written(end)} is "
                          f"{rails[RAIL] / (end - start):.3g} mW; is the meter the wrong way round?")  # fmt: skip
        return Window(rails, rails[RAIL], end - start, runs)
