"""Power sensors that the kernel shows as files, here or copied from a board: INA3221 monitors and RAPL counters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgeprune.profiles.board import Power
from edgeprune.profiles.sensor_base import Kind, Sensor, answers


class FileSensor(Sensor):
    """A sensor whose reading is one number a file: who reads ``files`` elsewhere lets ``of`` make a reading of them."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files, in the order in which ``of`` takes their numbers."""

    @abstractmethod
    def of(self, numbers: Sequence[float]) -> Mapping[str, float]:
        """Return the reading that as many numbers as there are files make."""

    def read(self) -> Mapping[str, float]:
        """Return one reading of every rail."""
        return self.of([float(path.read_text()) for path in self.files])


@dataclass(frozen=True)
class Ina3221(FileSensor):
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
        return sensor if answers(sensor) else None

    @property
    def files(self) -> tuple[Path, ...]:
        """One file a rail, or two: millivolts and milliamperes."""
        return tuple(path for paths in self.rails.values() for path in paths)

    def of(self, numbers: Sequence[float]) -> Mapping[str, float]:
        """Return milliwatts by rail."""
        found, at = {}, 0
        for rail, paths in self.rails.items():
            # mV times mA are µW
            found[rail] = numbers[at] if len(paths) == 1 else numbers[at] * numbers[at + 1] / 1e3
            at += len(paths)
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
class Rapl(FileSensor):
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
        return sensor if sensor.packages and answers(sensor) else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The counters of the packages."""
        return tuple(folder / "energy_uj" for folder in self.packages.values())

    def of(self, numbers: Sequence[float]) -> Mapping[str, float]:
        """Return millijoules by package."""
        return {name: number / 1e3 for name, number in zip(self.packages, numbers, strict=True)}

    @property
    def wraps(self) -> Mapping[str, float]:
        """Where each counter starts again: after some minutes of full load."""
        return {n: float((f / "max_energy_range_uj").read_text()) / 1e3 for n, f in self.packages.items()}


def find_by_files(power: Power, root: Path = Path("/")) -> FileSensor | None:
    """Return the sensor that the board names, if it is one of files and gives a reading below ``root``."""
    for one in (Ina3221, Rapl):
        if one.name == power.sensor:
            return one.find(power, root)
    return None


def _readable(folder: Path) -> bool:
    try:
        (folder / "energy_uj").read_text()
    except OSError:
        return False
    return True
