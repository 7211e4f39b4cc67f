"""Power sensors of boards and processors: each is found by a successful reading, never by a name.

A sensor reads either power now (milliwatts a rail) or energy so far (millijoules a rail).
"""

from __future__ import annotations

import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgeprune.profiles.board import Power

Kind = Literal["power", "energy"]


class Sensor(ABC):
    """Something that can be read again and again: ``read`` gives milliwatts or millijoules by rail, as ``kind`` says.

    ``total`` names the rails that add up to the whole; ``period`` is how often a new value can be expected, in seconds;
    ``wraps`` is the millijoules at which a counter of energy starts again at 0, by rail.
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


@dataclass(frozen=True)
class Ina3221(Sensor):
    """The INA3221 monitors of a Jetson, by sysfs, readable without being root.

    JetPack 4 (driver ina3221x) gives milliwatts; JetPack 5 and 6 (driver ina3221, hwmon) give millivolts and
    milliamperes. Channel 7 is the sum of the shunts' voltages, and a rail called NC is connected to nothing.
    """

    name: ClassVar[str] = "ina3221"
    kind: ClassVar[Kind] = "power"

    rails: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()

    @classmethod
    def find(cls, power: Power, root: Path = Path("/")) -> Ina3221 | None:
        """Return the sensor with the rails that the board names, all of which gave a number; None otherwise."""
        found = {**_old_rails(root), **_new_rails(root)}
        rails = {name: paths for name, paths in found.items() if not power.rails or name in power.rails}
        if not rails or not set(power.total) <= rails.keys():
            return None
        sensor = cls(rails, power.total or tuple(rails))
        return sensor if _answers(sensor) else None

    def read(self) -> Mapping[str, float]:
        """Return milliwatts by rail."""
        found = {}
        for rail, paths in self.rails.items():
            value = 1.0
            for path in paths:
                value *= float(path.read_text())
            found[rail] = value * (1e-3 if len(paths) > 1 else 1.0)  # mV times mA are µW
        return found

    @property
    def total(self) -> tuple[str, ...]:
        """The board's whole: one rail for all of it, or several that add up. Never all rails together."""
        return self.whole


def _old_rails(root: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")):
        number = label.name.rpartition("_")[2]
        found[label.read_text().strip()] = (label.with_name(f"in_power{number}_input"),)
    return found


def _new_rails(root: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_label")):
        name, number = label.read_text().strip(), label.name[2]
        if name and name != "NC":
            found[name] = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
    return found


@dataclass(frozen=True)
class Rapl(Sensor):
    """The energy counters of Intel's and AMD's processors, a package each; readable by root alone since 2020."""

    name: ClassVar[str] = "rapl"
    kind: ClassVar[Kind] = "energy"
    period: float = 0.001

    packages: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def find(cls, power: Power, root: Path = Path("/")) -> Rapl | None:
        """Return the sensor over every package (not their parts); None where none can be read."""
        folders = sorted(root.glob("sys/class/powercap/intel-rapl:*"))
        found = {f"{(f / 'name').read_text().strip()}": f for f in folders if f.name.count(":") == 1 and _readable(f)}
        sensor = cls(packages={name: folder for name, folder in found.items() if name.startswith("package")})
        return sensor if sensor.packages and _answers(sensor) else None

    def read(self) -> Mapping[str, float]:
        """Return millijoules by package."""
        return {name: float((folder / "energy_uj").read_text()) / 1e3 for name, folder in self.packages.items()}

    @property
    def wraps(self) -> Mapping[str, float]:
        """Where each counter starts again: after some minutes of full load."""
        return {n: float((f / "max_energy_range_uj").read_text()) / 1e3 for n, f in self.packages.items()}


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
    def find(cls, power: Power, root: Path = Path("/"), index: int = 0) -> Nvml | None:
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
    def find(cls, power: Power, root: Path = Path("/")) -> RpiPmic | None:
        """Return the sensor if ``vcgencmd pmic_read_adc`` gives rails."""
        sensor = cls()
        return sensor if _answers(sensor) else None

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


SENSORS: tuple[type[Ina3221] | type[Rapl] | type[Nvml] | type[RpiPmic], ...] = (Ina3221, Nvml, Rapl, RpiPmic)


def find(power: Power, root: Path = Path("/")) -> Sensor | None:
    """Return the sensor that the board names, if it gives a reading here; None otherwise.

    On a board that names none, None: what a sensor reads there is not known.
    """
    for one in SENSORS:
        if one.name == power.sensor:
            return one.find(power, root)
    return None


def _readable(folder: Path) -> bool:
    try:
        (folder / "energy_uj").read_text()
    except OSError:
        return False
    return True


def _answers(sensor: Sensor) -> bool:
    try:
        return bool(sensor.read())
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
