"""A Jetson's power as NVIDIA's ``tegrastats`` prints it: where sysfs does not tell the rails, or tells too few.

    JetPack 4   … POM_5V_IN 2003/2003 POM_5V_GPU 0/0 …        milliwatts: now, and the mean since it was started
    JetPack 5   … VDD_IN 2390mW/2390mW VDD_SOC 796mW/796mW …
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from edgeprune.profiles.board import Power
from edgeprune.profiles.sensor_base import Kind, Sensor

PERIOD_MS = 100
COMMAND = ("tegrastats", "--interval", str(PERIOD_MS))
_RAIL = re.compile(r"(?<!\S)(\w+) (\d+)(mW|)/\d+\3(?!\S)")
_FIRST_SECONDS = 3.0
_STALE_SECONDS = 2.0


def parse_tegrastats(line: str, rails: Collection[str]) -> dict[str, float]:
    """Return milliwatts by rail of one line: what is drawn now, of ``rails`` alone; RAM looks much like one."""
    return {name: float(now) for name, now, _ in _RAIL.findall(line) if name in rails}


class Tegrastats(Sensor):
    """The lines of one ``tegrastats`` that runs on beside the work: no process is started for a reading.

    A reading is the last line; one that is older than two seconds is none.
    """

    name: ClassVar[str] = "tegrastats"
    kind: ClassVar[Kind] = "power"
    period = PERIOD_MS / 1e3

    def __init__(self, power: Power, command: Sequence[str] = COMMAND) -> None:
        self._power = power
        self._last: tuple[float, Mapping[str, float]] | None = None
        self._told = threading.Event()
        self._child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            errors="replace",
        )  # fmt: skip
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @classmethod
    def find(cls, power: Power, command: Sequence[str] = COMMAND, seconds: float = _FIRST_SECONDS) -> Tegrastats | None:
        """Return the sensor if a line within ``seconds`` names the rails that make the board's whole; None otherwise.

        None too for a board whose file names no such rails: all that is printed would be more than the whole.
        """
        if not power.total:
            return None
        try:
            sensor = cls(power, command)
        except OSError:
            return None
        try:
            if sensor._told.wait(seconds) and sensor._last is not None:
                return sensor
        except BaseException:
            sensor.close()
            raise
        sensor.close()
        return None

    def read(self) -> Mapping[str, float]:
        """Return milliwatts by rail of the last line. Raises OSError once no line has come for two seconds."""
        last = self._last
        if last is None or time.monotonic() - last[0] > _STALE_SECONDS:
            raise OSError(f"it printed no rails for {_STALE_SECONDS:g} s")
        return last[1]

    @property
    def total(self) -> tuple[str, ...]:
        """The board's whole, as its file says. Never all rails together."""
        return self._power.total

    def close(self) -> None:
        """End the process, and see that it is gone."""
        self._child.terminate()
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(2)
        if self._child.stdout is not None and not self._thread.is_alive():
            self._child.stdout.close()

    def _follow(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            reading = parse_tegrastats(line, self._power.rails)
            rails = reading.keys() if self._last is None else self._last[1].keys()
            if reading.keys() == rails and set(self._power.total) <= reading.keys():
                self._last = (time.monotonic(), reading)
                self._told.set()
        self._told.set()
