"""Power of a board while it runs something: the board's shell reads its sensor, this machine does the sums.

What finds a sensor on this machine finds it there: the few files that tell are copied here first.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.errors import Lacking
from edgeprune.profiles.board import Power
from edgeprune.profiles.energy import Job, Meter, Sample, Window, integrate
from edgeprune.profiles.sensor_base import Kind
from edgeprune.profiles.sensors import parse_pmic
from edgeprune.profiles.sysfs_power import FileSensor, find_by_files
from edgeprune.profiles.tegrastats import COMMAND as TEGRASTATS
from edgeprune.profiles.tegrastats import parse_tegrastats

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
_SAMPLE = """log=$1; stream=$2; once=$3; shift 3
stamp() { read -r now rest < /proc/uptime; printf '@%s\\n' "$now"; }
poll() { while :; do stamp; eval "$once"; sleep 0.05; done; }
mark() { while read -r line; do stamp; printf '%s\\n' "$line"; done; }
sampler= reader=
end() { for one in $sampler; do kill "$one"; wait "$one"; done; for one in $reader; do wait "$one"; done; } 2>/dev/null
trap 'end; rm -f "$log" "$log.pipe"' EXIT
trap 'exit 130' HUP INT TERM
if [ -n "$stream" ]; then
  rm -f "$log.pipe"; mkfifo "$log.pipe"
  mark < "$log.pipe" > "$log" 2>/dev/null & reader=$!
  eval "exec $stream" > "$log.pipe" 2>/dev/null & sampler=$!
else
  poll > "$log" 2>/dev/null & sampler=$!
fi
"$@" >&2; code=$?
end; sampler= reader=
cat "$log"; exit "$code"
"""
"""Samples into a file while a command runs, whose output goes to stderr, then prints the samples. What prints readings
by itself runs on beside the command, and ends with it.
"""
Parse = Callable[[Sequence[str]], Mapping[str, float] | None]
"""Makes a reading of the lines that belong to it; None of lines that are not whole."""


@dataclass(frozen=True)
class RemoteSensor:
    """A sensor on a board. ``once`` is shell text of our own that prints one reading, ``stream`` a command of our own
    that prints one on each of its lines until it is ended; one of them is empty.

    ``total`` names the rails that make the whole, none where all that it tells do; ``wraps`` are the millijoules after
    which a counter starts again.
    """

    name: str
    kind: Kind
    parse: Parse
    once: str = ""
    stream: str = ""
    total: tuple[str, ...] = ()
    wraps: Mapping[str, float] = field(default_factory=dict)

    def whole(self, power: Mapping[str, float]) -> float:
        """Return the milliwatts of the rails that make the whole."""
        return sum(power[rail] for rail in self.total or power)


def discover(run: Run, power: Power, root: str = "") -> RemoteSensor | None:
    """Return the sensor that a board's file names, if it gives a reading there; None otherwise."""
    for remote, seconds in _possible(run, power, root):
        if sample(run, remote, ["sleep", f"{seconds:g}"], ".edgeprune-power", 30):
            return remote
    return None


def _possible(run: Run, power: Power, root: str) -> Iterator[tuple[RemoteSensor, float]]:
    """Yield sensors to be tried, the best first, and for how many seconds."""
    if power.sensor == "rpi-pmic":
        yield RemoteSensor("rpi-pmic", "power", lambda lines: parse_pmic("\n".join(lines)) or None,
                           once="vcgencmd pmic_read_adc"), 0.3  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder:
        told = run(["sh", "-c", _COPY, "sh", root, *_PATTERNS], 30).decode("utf-8", "replace")
        for line in told.splitlines():
            name, _, content = line.partition("\t")
            copy = (Path(folder) / name).resolve()
            if not copy.is_relative_to(folder):
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(content, encoding="utf-8")
        sensor = find_by_files(power, Path(folder))
        found = None if sensor is None else _by_files(sensor, Path(folder), root)
    if found is not None:
        yield found, 0.3
    if power.sensor == "ina3221" and power.total:
        yield RemoteSensor("tegrastats", "power", _tegrastats(power), stream=shlex.join(TEGRASTATS),
                           total=power.total), 1.0  # fmt: skip


def _by_files(sensor: FileSensor, copy: Path, root: str) -> RemoteSensor:
    files, folder = sensor.files, copy.resolve()
    there = [shlex.quote(f"{root}/{path.resolve().relative_to(folder)}") for path in files]

    def parse(lines: Sequence[str]) -> Mapping[str, float] | None:
        try:
            numbers = [float(line) for line in lines]
        except ValueError:
            return None
        return sensor.of(numbers) if len(numbers) == len(files) else None

    once = "; ".join(f'read -r v < {path} && echo "$v"' for path in there)
    return RemoteSensor(sensor.name, sensor.kind, parse, once=once, total=sensor.total, wraps=sensor.wraps)


def _tegrastats(power: Power) -> Parse:
    def parse(lines: Sequence[str]) -> Mapping[str, float] | None:
        reading = parse_tegrastats(" ".join(lines), power.rails)
        return reading if set(power.total) <= reading.keys() else None

    return parse


def sample(run: Run, remote: RemoteSensor, command: Sequence[str], log: str, timeout: float) -> list[Sample]:
    """Run a command on the board and return the readings from its start to its end, on the board's clock."""
    words = ["sh", "-c", _SAMPLE, "sh", log, remote.stream, remote.once, *command]
    told = run(words, timeout).decode("utf-8", "replace")
    samples: list[Sample] = []
    for part in re.split(r"^@", told, flags=re.MULTILINE)[1:]:
        now, *lines = part.strip().splitlines()
        reading = remote.parse(lines)
        if reading is None or (samples and (float(now) <= samples[-1][0] or reading.keys() != samples[0][1].keys())):
            continue
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
    energy = integrate(late, remote.kind, remote.wraps)
    return {rail: value / (late[-1][0] - late[0][0]) for rail, value in energy.items()}


class BoardMeter(Meter):
    """A sensor on a board, read there beside commands: jobs are done by ``execute``, once in each."""

    def __init__(self, run: Run, remote: RemoteSensor) -> None:
        self.name = remote.name
        self._run, self._remote = run, remote
        self._power: Mapping[str, float] = {}
        self._seconds = 0.0

    def execute(self, command: Sequence[str], timeout: float, seconds: float) -> float:
        """Run a command there, of whose end ``seconds`` count; return them."""
        samples = sample(self._run, self._remote, command, "power.txt", timeout)
        self._power, self._seconds = mean_power(self._remote, samples, seconds), seconds
        return seconds

    def windows(self, jobs: Iterable[Job]) -> list[Window]:
        """Do jobs and return what each took in the time that counts."""
        found = []
        for job in jobs:
            runs, seconds = job(), self._seconds
            rails = {rail: power * seconds for rail, power in self._power.items()}
            found.append(Window(rails, self._remote.whole(rails), seconds, runs))
        return found
