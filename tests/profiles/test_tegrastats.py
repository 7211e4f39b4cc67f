"""tegrastats where sysfs tells no rails, here and there: a SYNTHETIC stand-in that prints the documented lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeprune.profiles import board as boards
from edgeprune.profiles import sensors
from edgeprune.profiles.board import Power
from edgeprune.profiles.remote_power import discover, mean_power, sample
from edgeprune.profiles.tegrastats import Tegrastats, parse_tegrastats

NANO = boards.load("jetson-nano").power
XAVIER = boards.load("jetson-xavier").power
NX = boards.load("jetson-xavier-nx").power
OLD = ("RAM 1409/3964MB (lfb 372x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [5%@102,2%@102,off,off] "
       "EMC_FREQ 0% GR3D_FREQ 0%@76 APE 25 PLL@23C CPU@25C PMIC@100C GPU@24C AO@31.5C thermal@24.5C ")  # fmt: skip
NANO_LINE = OLD + "POM_5V_IN 2003/1950 POM_5V_GPU 0/0 POM_5V_CPU 163/163"
AGX_LINE = OLD + "GPU 620/310 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 155/155 SYS5V 1480/1480"
NEW_LINE = (
    "11-27-2026 12:00:00 RAM 1409/6858MB (lfb 2x4MB) SWAP 0/3429MB (cached 0MB) CPU [5%@1190,off] EMC_FREQ 0%@1600 "
    "GR3D_FREQ 0%@114 AO@36C GPU@36.5C PMIC@50C VDD_IN 2390mW/2400mW VDD_CPU_GPU_CV 361mW/380mW VDD_SOC 722mW/722mW"
)


@pytest.mark.parametrize(
    ("power", "line", "expected"),
    [
        (NANO, NANO_LINE, {"POM_5V_IN": 2003.0, "POM_5V_GPU": 0.0, "POM_5V_CPU": 163.0}),
        (XAVIER, AGX_LINE, {"GPU": 620.0, "CPU": 311.0, "SOC": 932.0, "CV": 0.0, "VDDRQ": 155.0, "SYS5V": 1480.0}),
        (NX, NEW_LINE, {"VDD_IN": 2390.0, "VDD_CPU_GPU_CV": 361.0, "VDD_SOC": 722.0}),
        (Power(sensor="ina3221", rails=("RAM", "SWAP", "IRAM")), NEW_LINE + NANO_LINE, {}),
        (NANO, "POM_5V_IN 2003mW/1950 POM_5V_GPU 7/x POM_5V_CPU 1/1C", {}),
    ],
    ids=["JetPack 4", "rails called CPU and GPU", "JetPack 5", "memory is no rail", "no rail"],
)
def test_a_line_gives_what_the_named_rails_draw_now(power: Power, line: str, expected: dict[str, float]) -> None:
    assert parse_tegrastats(line, power.rails) == expected


def install(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch, before: str = "") -> Path:
    """Put a tegrastats on the PATH that notes its process and prints ``line`` every tenth of a second."""
    tool = folder / "tegrastats"
    tool.write_text(
        f"#!/bin/sh\n# SYNTHETIC\necho $$ \"$@\" >> {folder}/started\n{before}\n"
        f"while :; do echo '{line}'; sleep 0.05; done\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "started"


def gone(started: Path) -> bool:
    """Whether every process that was started has ended, and has been waited for."""
    for _ in range(60):
        if not any(Path(f"/proc/{line.split()[0]}").exists() for line in started.read_text().splitlines()):
            return True
        time.sleep(0.05)
    return False


def test_where_sysfs_does_not_answer_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = install(tmp_path, AGX_LINE, monkeypatch)
    sensor = sensors.find(XAVIER, tmp_path / "no sysfs")
    assert isinstance(sensor, Tegrastats) and sensor.name == "tegrastats" and sensor.kind == "power"
    try:
        assert sum(sensor.read()[rail] for rail in sensor.total) == pytest.approx(3498)
        for _ in range(50):
            sensor.read()
        [line] = started.read_text().splitlines()  # one process, however often it is read
        assert line.endswith(" --interval 100")
    finally:
        sensor.close()
    assert gone(started)
    with pytest.raises(OSError, match="it printed no rails for 2 s"):
        time.sleep(2.1)
        sensor.read()


@pytest.mark.parametrize(
    ("power", "line", "before"),
    [
        (XAVIER, NANO_LINE, ""),
        (Power(sensor="ina3221"), NANO_LINE, ""),
        (NANO, NANO_LINE, "exit 1"),
        (NANO, NANO_LINE, "exec sleep 30"),
    ],
    ids=["other rails", "no total is named", "it fails", "it says nothing"],
)
def test_what_does_not_tell_the_whole_is_no_sensor(
    power: Power, line: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = install(tmp_path, line, monkeypatch, before)
    assert Tegrastats.find(power, seconds=0.5) is None
    assert not started.exists() or gone(started)


def test_a_machine_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sensors.find(NANO, tmp_path) is None


def test_other_boards_do_not_ask_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = install(tmp_path, NANO_LINE, monkeypatch)
    assert sensors.find(Power(sensor="none"), tmp_path) is None
    assert sensors.find(Power(sensor="rapl", total=("POM_5V_IN",), rails=("POM_5V_IN",)), tmp_path) is None
    assert not started.exists()


INTERRUPTED = """
import signal, time
from contextlib import closing
from edgeprune.profiles import board, sensors
from edgeprune.profiles.energy import Protocol, loop, measure
from edgeprune.profiles.sensor_meter import SensorMeter
from pathlib import Path
protocol = Protocol(seconds=30.0, warmup=0.0)
try:
    with closing(sensors.find(board.load("jetson-nano").power, Path("/nowhere"))) as sensor:
        print("ready", flush=True)
        measure(loop(lambda: time.sleep(0.01), protocol), lambda: 0.0, SensorMeter(sensor), protocol)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_nothing_is_left_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = install(tmp_path, NANO_LINE, monkeypatch)
    child = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    told, _ = child.communicate(timeout=20)
    assert told == "interrupted\n" and gone(started)


def run(words: Sequence[str], timeout: float = 30) -> bytes:
    return subprocess.run(words, capture_output=True, check=True, timeout=timeout).stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path


def test_a_board_s_shell_reads_it_beside_a_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = install(home, AGX_LINE, monkeypatch)
    sensor = discover(run, XAVIER, str(home / "no sysfs"))
    assert sensor is not None and (sensor.name, sensor.total) == ("tegrastats", XAVIER.total)
    samples = sample(run, sensor, ["sleep", "0.5"], "log", 30)
    assert len(samples) >= 3 and samples == sorted(samples, key=lambda one: one[0])
    assert sensor.whole(mean_power(sensor, samples, 1.0)) == pytest.approx(3498)
    assert len(started.read_text().splitlines()) == 2, "one process a command, and not one a reading"
    assert gone(started) and list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("before", ["exit 1", "exec sleep 30"])
def test_a_board_whose_tegrastats_tells_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    started = install(home, NANO_LINE, monkeypatch, before)
    assert discover(run, NANO, str(home)) is None
    assert gone(started) and list(Path.cwd().iterdir()) == []


def test_a_line_without_the_whole_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home, NANO_LINE, monkeypatch)
    sensor = discover(run, NANO, str(home))
    assert sensor is not None
    assert sensor.parse(["POM_5V_GPU 3/3"]) is None and sensor.parse([]) is None
    assert sensor.parse([NANO_LINE]) == {"POM_5V_IN": 2003.0, "POM_5V_GPU": 0.0, "POM_5V_CPU": 163.0}


def test_a_shell_that_is_told_to_stop_ends_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = install(home, NANO_LINE, monkeypatch)
    sensor = discover(run, NANO, str(home))
    assert sensor is not None

    def interrupted(words: Sequence[str], timeout: float) -> bytes:
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(0.4)
        os.kill(child.pid, signal.SIGTERM)
        child.communicate(timeout=20)
        assert child.returncode == 130
        return b""

    assert sample(interrupted, sensor, ["sleep", "1"], "log", 30) == []
    assert gone(started) and list(Path.cwd().iterdir()) == []
