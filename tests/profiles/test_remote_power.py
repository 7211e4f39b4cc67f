"""Power of a board: what its shell prints, and what this machine makes of it. The shell here is a real one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeprune.errors import Lacking
from edgeprune.profiles.board import Power
from edgeprune.profiles.remote_power import RemoteSensor, discover, mean_power, sample

NANO = Power(sensor="ina3221", total=("POM_5V_IN",), rails=("POM_5V_IN", "POM_5V_GPU"))
PMIC = """     3V3_SYS_A current(1)=0.10000000A
     3V3_SYS_V volt(9)=3.30000000V
     VDD_CORE_A current(7)=2.00000000A
     VDD_CORE_V volt(15)=0.50000000V
"""


def run(words: Sequence[str], timeout: float = 30) -> bytes:
    return subprocess.run(words, capture_output=True, check=True, timeout=timeout).stdout


def nano(root: Path, milliwatts: dict[str, int]) -> None:
    """The rails as JetPack 4 shows them: milliwatts by number, names beside."""
    folder = root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    folder.mkdir(parents=True)
    for number, (name, value) in enumerate(milliwatts.items()):
        (folder / f"rail_name_{number}").write_text(f"{name}\n")
        (folder / f"in_power{number}_input").write_text(f"{value}\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path


def test_rails_are_found_and_read_while_a_command_runs(home: Path) -> None:
    nano(home / "it's root", {"POM_5V_IN": 3000, "POM_5V_GPU": 500, "POM_5V_CPU": 900})
    sensor = discover(run, NANO, str(home / "it's root"))
    assert sensor is not None and (sensor.name, sensor.total) == ("ina3221", ("POM_5V_IN",))
    samples = sample(run, sensor, ["sleep", "0.4"], "log", 30)
    assert len(samples) >= 3 and samples == sorted(samples, key=lambda one: one[0])
    power = mean_power(sensor, samples, 1.0)
    assert power == {"POM_5V_IN": pytest.approx(3000.0), "POM_5V_GPU": pytest.approx(500.0)}
    assert sensor.whole(power) == pytest.approx(3000.0), "the rails are part of the total, not on top of it"
    assert list(Path.cwd().iterdir()) == []


def test_a_command_that_fails_is_not_hidden(home: Path) -> None:
    nano(home, {"POM_5V_IN": 3000, "POM_5V_GPU": 500})
    sensor = discover(run, NANO, str(home))
    assert sensor is not None
    with pytest.raises(subprocess.CalledProcessError) as caught:
        sample(run, sensor, ["sh", "-c", "echo why >&2; exit 7"], "log", 30)
    assert caught.value.returncode == 7 and b"why" in caught.value.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("rails", [{}, {"POM_5V_GPU": 500}, {"SOMETHING": 3}])
def test_without_its_rails_there_is_no_sensor(home: Path, rails: dict[str, int]) -> None:
    nano(home, rails)
    assert discover(run, NANO, str(home)) is None


def test_a_board_without_vcgencmd(home: Path) -> None:
    assert discover(run, Power(sensor="rpi-pmic")) is None
    assert discover(run, Power(sensor="none")) is None


def test_the_raspberry_pi_s_chip(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "bin").mkdir()
    (home / "bin" / "vcgencmd").write_text(f"#!/bin/sh\ncat <<'X'\n{PMIC}X\n")
    (home / "bin" / "vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:/usr/bin:/bin")
    sensor = discover(run, Power(sensor="rpi-pmic"))
    assert sensor is not None
    power = mean_power(sensor, sample(run, sensor, ["sleep", "0.4"], "log", 30), 1.0)
    assert power == {"3V3_SYS": pytest.approx(330.0), "VDD_CORE": pytest.approx(1000.0)}
    assert sensor.whole(power) == pytest.approx(1330.0)


def test_readings_that_are_not_whole_are_left_out(home: Path) -> None:
    nano(home, {"POM_5V_IN": 3000, "POM_5V_GPU": 500})
    sensor = discover(run, NANO, str(home))
    assert sensor is not None
    assert sensor.parse(["3000"]) is None and sensor.parse(["3000", "x"]) is None
    assert sensor.parse(["3000", "500"]) == {"POM_5V_IN": 3000.0, "POM_5V_GPU": 500.0}


def test_too_few_readings_tell_nothing(home: Path) -> None:
    nano(home, {"POM_5V_IN": 3000, "POM_5V_GPU": 500})
    sensor = discover(run, NANO, str(home))
    assert isinstance(sensor, RemoteSensor)
    reading = {"POM_5V_IN": 1.0, "POM_5V_GPU": 1.0}
    with pytest.raises(Lacking, match=r"the sensor gave 2 readings in 1 s; power cannot be told from that"):
        mean_power(sensor, [(0.0, reading), (5.0, reading), (5.5, reading)], 1.0)
    assert mean_power(sensor, [(0.0, reading), (5.0, reading), (5.5, reading)], 9.0) == reading
