"""Which power sensor a board has: found by a successful reading, never by a name alone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgeprune.profiles.board import Power
from edgeprune.profiles.sensor_base import Kind, Sensor, answers
from edgeprune.profiles.sysfs_power import find_by_files
from edgeprune.profiles.tegrastats import Tegrastats


@dataclass(frozen=True)
class Nvml(Sensor):
    """The energy counter of an NVIDIA GPU (Volta and later, no Jetson): millijoules since the driver was loaded.

    It is renewed every 20 to 100 ms.
    """

    name: ClassVar[str] = "nvml"
    kind: ClassVar[Kind] = "energy"
    period: float = 0.1

    nvml: Any = None
    device: Any = None

    @classmethod
    def find(cls, index: int = 0) -> Nvml | None:
        """Return the sensor of GPU ``index``; None without nvidia-ml-py, a driver, or a counter that answers."""
        try:
            import pynvml

            pynvml.nvmlInit()
            sensor = cls(nvml=pynvml, device=pynvml.nvmlDeviceGetHandleByIndex(index))
            sensor.read()
        except Exception:  # every failure of NVML's is a class of its own
            return None
        return sensor

    def read(self) -> Mapping[str, float]:
        """Return millijoules of the whole card."""
        return {"gpu": float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.device))}


@dataclass(frozen=True)
class RpiPmic(Sensor):
    """The power management chip of a Raspberry Pi 5: volts times amperes of its rails.

    What the USB ports draw is not among them. A process is started for each reading, some 10 to 50 a second.
    """

    name: ClassVar[str] = "rpi-pmic"
    kind: ClassVar[Kind] = "power"
    period: float = 0.1

    run: Callable[[], str] = lambda: subprocess.run(
        ["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, check=True, timeout=5
    ).stdout

    @classmethod
    def find(cls) -> RpiPmic | None:
        """Return the sensor if ``vcgencmd pmic_read_adc`` gives rails."""
        sensor = cls()
        return sensor if answers(sensor) else None

    def read(self) -> Mapping[str, float]:
        """Return milliwatts by rail."""
        return parse_pmic(self.run())


_ADC = re.compile(r"^\s*(\w+)_([AV]) \w+\(\d+\)=([\d.]+)[AV]\s*$", re.MULTILINE)


def parse_pmic(text: str) -> dict[str, float]:
    """Return milliwatts by rail from ``vcgencmd pmic_read_adc``: those that have a voltage and a current."""
    found: dict[str, dict[str, float]] = {}
    for rail, unit, value in _ADC.findall(text):
        found.setdefault(rail, {})[unit] = float(value)
    return {rail: 1e3 * both["A"] * both["V"] for rail, both in found.items() if both.keys() == {"A", "V"}}


def find(power: Power, root: Path = Path("/")) -> Sensor | None:
    """Return the sensor that the board names, if it gives a reading here; None otherwise. Close it afterwards.

    Where the rails of a board with INA3221 monitors are not to be read as files, ``tegrastats`` may tell them. On a
    board that names no sensor, None: what one reads there is not known.
    """
    if power.sensor == "nvml":
        return Nvml.find()
    if power.sensor == "rpi-pmic":
        return RpiPmic.find()
    found = find_by_files(power, root)
    return Tegrastats.find(power) if found is None and power.sensor == "ina3221" else found
