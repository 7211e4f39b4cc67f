"""Power of a board while it runs something: the board's shell reads its sensor, this machine does the sums.

What finds a sensor on this machine finds it there: the few files that tell are copied here first.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.errors import Lacking
from edgeprune.profiles.board import Power
from edgeprune.profiles.energy import Sample, integrate
from edgeprune.profiles.sensors import Ina3221, Rapl, Sensor, find, parse_pmic

Run = Callable[[Sequence[str], float], bytes]
"""Runs a command on the board within so many seconds and returns what it prints."""

_PATTERNS = (
    "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*",
    "sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_*",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/curr[1-3]_input",
    "sys/class/powercap/intel-rapl:*/name",
    "sys/class/powercap/intel-rapl:*/energy_uj",
    "sys/class/powercap/intel-rapl:*/max_energy_range_uj",
)
_COPY = """cd "$1/" || exit 0; shift
for pattern in "$@"; do for f in $pattern; do
  [ -r "$f" ] && printf '%s\\t%s\\n' "$f" "$(cat "$f" 2>/dev/null)"
done; done; exit 0"""
_SAMPLE = """log=$1; once=$2; shift 2
follow() { while :; do read -r now rest < /proc/uptime; printf '@%s\\n' "$now"; eval "$once"; sleep 0.05; done; }
follow > "$log" 2>/dev/null & sampler=$!
"$@" >&2; code=$?
kill "$sampler" 2>/dev/null; wait "$sampler" 2>/dev/null
cat "$log"; rm -f "$log"; exit "$code"
"""
"""Samples into a file while a command runs, whose output goes to stderr, then prints the samples."""


@dataclass(frozen=True)
class RemoteSensor:
    """A sensor on a board. ``once`` is shell text of our own that prints one reading.

    ``rails`` are in its order, none where it names them itself; ``wraps`` are the millijoules after which a counter
    starts again.
    """

    sensor: Sensor
    once: str
    rails: tuple[str, ...]
    wraps: Mapping[str, float] = field(default_factory=dict)

    def parse(self, lines: Sequence[str]) -> Mapping[str, float] | None:
        """Return milliwatts or millijoules by rail of one reading; None for one that is not whole."""
        if not self.rails:
            return parse_pmic("\n".join(lines)) or None
        try:
            numbers = [float(line) for line in lines]
        except ValueError:
            return None
        if isinstance(self.sensor, Ina3221):
            each = [len(paths) for paths in self.sensor.rails.values()]
            if len(numbers) != sum(each):
                return None
            found, at = {}, 0
            for rail, count in zip(self.rails, each, strict=True):
                found[rail] = numbers[at] if count == 1 else numbers[at] * numbers[at + 1] / 1e3
                at += count
            return found
        if len(numbers) != len(self.rails):
            return None
        return {rail: value / 1e3 for rail, value in zip(self.rails, numbers, strict=True)}


def discover(run: Run, power: Power, root: str = "") -> RemoteSensor | None:
    """Return the sensor that a board's file names, if it gives a reading there; None otherwise."""
    if power.sensor == "rpi-pmic":
        remote = RemoteSensor(_Pmic(), "vcgencmd pmic_read_adc", ())
    else:
        with tempfile.TemporaryDirectory() as folder:
            told = run(["sh", "-c", _COPY, "sh", root, *_PATTERNS], 30).decode("utf-8", "replace")
            for line in told.splitlines():
                name, _, content = line.partition("\t")
                copy = (Path(folder) / name).resolve()
                if not copy.is_relative_to(folder):
                    continue
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(content, encoding="utf-8")
            sensor = find(power, Path(folder))
            if not isinstance(sensor, Ina3221 | Rapl):
                return None
            remote = RemoteSensor(sensor, *_reading(sensor, Path(folder), root), sensor.wraps)
    samples = sample(run, remote, ["sleep", "0.3"], ".edgeprune-power", 30)
    return remote if samples else None


class _Pmic(Sensor):
    """The Raspberry Pi 5's power management chip: every rail that it tells is part of the whole."""

    name = "rpi-pmic"
    kind = "power"

    def read(self) -> Mapping[str, float]:
        """Refuse: it is read on the board."""
        raise OSError("this sensor is on a board")


def _reading(sensor: Ina3221 | Rapl, copy: Path, root: str) -> tuple[str, tuple[str, ...]]:
    files = (
        [path for paths in sensor.rails.values() for path in paths]
        if isinstance(sensor, Ina3221)
        else [folder / "energy_uj" for folder in sensor.packages.values()]
    )
    names = tuple(sensor.rails) if isinstance(sensor, Ina3221) else tuple(sensor.packages)
    there = [shlex.quote(f"{root}/{path.resolve().relative_to(copy.resolve())}") for path in files]
    return "; ".join(f'read -r v < {path} && echo "$v"' for path in there), names


def sample(run: Run, remote: RemoteSensor, command: Sequence[str], log: str, timeout: float) -> list[Sample]:
    """Run a command on the board and return the readings from its start to its end, on the board's clock."""
    told = run(["sh", "-c", _SAMPLE, "sh", log, remote.once, *command], timeout).decode("utf-8", "replace")
    samples: list[Sample] = []
    for part in told.split("@")[1:]:
        now, *lines = part.strip().splitlines()
        reading = remote.parse(lines)
        if reading is not None and (not samples or float(now) > samples[-1][0]):
            samples.append((float(now), reading))
    return samples


def mean_power(remote: RemoteSensor, samples: Sequence[Sample], seconds: float) -> dict[str, float]:
    """Return mean milliwatts by rail over the last ``seconds`` of a run; before, it was still starting.

    Raises Lacking when too few readings fell into that time.
    """
    end = samples[-1][0] if samples else 0.0
    late = [one for one in samples if one[0] >= end - seconds]
    if len(late) < 3:
        raise Lacking(f"the sensor gave {len(late)} readings in {seconds:g} s; power cannot be told from that")
    energy = integrate(late, remote.sensor.kind, remote.wraps)
    return {rail: value / (late[-1][0] - late[0][0]) for rail, value in energy.items()}


def whole(remote: RemoteSensor, power: Mapping[str, float]) -> float:
    """Return the milliwatts of the rails that make the whole."""
    total = remote.sensor.total if isinstance(remote.sensor, Ina3221) else tuple(power)
    return sum(power[rail] for rail in total)
