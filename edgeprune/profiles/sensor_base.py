"""What a power sensor is: something that can be read again and again, found by a successful reading."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

Kind = Literal["power", "energy"]


class Sensor(ABC):
    """Something that can be read again and again: ``read`` gives milliwatts or millijoules by rail, as ``kind`` says.

    ``total`` names the rails that add up to the whole; ``period`` is how often a new value can be expected, in seconds;
    ``wraps`` is the millijoules at which a counter of energy starts again at 0, by rail. Close it when it is done with.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    period: float = 0.02

    @abstractmethod
    def read(self) -> Mapping[str, float]:
        """Return one reading of every rail. Raises OSError or ValueError when the sensor does not answer."""

    @property
    def total(self) -> tuple[str, ...]:
        """The rails that make the whole; by default all of them."""
        return tuple(self.read())

    @property
    def wraps(self) -> Mapping[str, float]:
        """The value after which a rail's counter starts again at 0; empty for one that does not."""
        return {}

    def close(self) -> None:  # noqa: B027
        """End what was started to read it; most start nothing."""


def answers(sensor: Sensor) -> bool:
    """Whether a sensor gives a reading now."""
    try:
        return bool(sensor.read())
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
