"""Power sensors on a made-up sysfs tree: found by a reading, in the units that were promised."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprune.profiles import board as boards
from edgeprune.profiles import sensors
from edgeprune.profiles.board import Power
from edgeprune.profiles.sensors import Nvml, RpiPmic, parse_pmic
from edgeprune.profiles.sysfs_power import Ina3221, Rapl

XAVIER = boards.load("jetson-xavier").power
NX = boards.load("jetson-xavier-nx").power
NANO = boards.load("jetson-nano").power
PMIC = """     3V7_WL_SW_A current(0)=0.09564444A
       VDD_CORE_A current(7)=2.50000000A
    3V7_WL_SW_V volt(8)=3.70000000V
       VDD_CORE_V volt(15)=0.80000000V
         EXT5V_V volt(24)=5.15268000V
"""


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def new_driver(rails: dict[str, tuple[int, int]], folder: str = "1-0040") -> dict[str, str]:
    base = f"sys/bus/i2c/drivers/ina3221/{folder}/hwmon/hwmon3"
    files = {}
    for number, (name, (volts, amperes)) in enumerate(rails.items(), 1):
        files |= {f"{base}/in{number}_label": name, f"{base}/in{number}_input": str(volts),
                  f"{base}/curr{number}_input": str(amperes)}  # fmt: skip
    return files | {f"{base}/in7_label": "sum of shunt voltages", f"{base}/in7_input": "77"}


def old_driver(rails: dict[str, int]) -> dict[str, str]:
    base = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files = {}
    for number, (name, power) in enumerate(rails.items()):
        files |= {f"{base}/rail_name_{number}": name, f"{base}/in_power{number}_input": str(power)}
    return files


def test_jetpack_5_gives_millivolts_and_milliamperes(tmp_path: Path) -> None:
    lay(tmp_path, new_driver({"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "NC": (0, 0)}))
    found = sensors.find(NX, tmp_path)
    assert isinstance(found, Ina3221)
    assert found.read() == {"VDD_IN": pytest.approx(6000), "VDD_CPU_GPU_CV": pytest.approx(2000)}
    assert found.total == ("VDD_IN",)  # and not the rails below it again


def test_jetpack_4_gives_milliwatts(tmp_path: Path) -> None:
    found = sensors.find(NANO, lay(tmp_path, old_driver({"POM_5V_IN": 2003, "POM_5V_GPU": 41, "POM_5V_CPU": 800})))
    assert found is not None
    assert found.read() == {"POM_5V_IN": 2003.0, "POM_5V_GPU": 41.0, "POM_5V_CPU": 800.0}


def test_an_agx_xavier_has_no_total_and_adds_up_six_rails_of_two_chips(tmp_path: Path) -> None:
    lay(tmp_path, new_driver({"GPU": (1000, 1), "CPU": (1000, 2), "SOC": (1000, 3)}))
    lay(tmp_path, new_driver({"CV": (1000, 4), "VDDRQ": (1000, 5), "SYS5V": (1000, 6)}, "1-0041"))
    found = sensors.find(XAVIER, tmp_path)
    assert found is not None
    assert sum(found.read()[rail] for rail in found.total) == pytest.approx(21)


@pytest.mark.parametrize(
    "files",
    [
        {},
        new_driver({"VDD_CPU_GPU_CV": (5000, 400)}),  # the total is missing
        {**new_driver({"VDD_IN": (5000, 400)}), "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_input": "none"},
    ],
    ids=["nothing", "no total", "no number"],
)
def test_a_sensor_that_does_not_answer_is_no_sensor(tmp_path: Path, files: dict[str, str]) -> None:
    assert sensors.find(NX, lay(tmp_path, files)) is None


def test_rapl_counts_packages_and_not_their_parts(tmp_path: Path) -> None:
    base = "sys/class/powercap/intel-rapl:"
    files = {}
    for number, name, energy in (("0", "package-0", 2_000_000), ("0:0", "core", 900_000), ("1", "package-1", 500),
                                 ("2", "psys", 7)):  # fmt: skip
        files |= {f"{base}{number}/name": name, f"{base}{number}/energy_uj": str(energy),
                  f"{base}{number}/max_energy_range_uj": "262143328850"}  # fmt: skip
    found = sensors.find(Power(sensor="rapl"), lay(tmp_path, files))
    assert isinstance(found, Rapl)
    assert found.read() == {"package-0": 2000.0, "package-1": 0.5} and found.total == ("package-0", "package-1")
    assert found.wraps["package-0"] == pytest.approx(262143328.85)


def test_rapl_that_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = "sys/class/powercap/intel-rapl:0"
    lay(tmp_path, {f"{base}/name": "package-0", f"{base}/max_energy_range_uj": "1"})
    assert sensors.find(Power(sensor="rapl"), tmp_path) is None


def test_the_pmic_of_a_raspberry_pi_5() -> None:
    assert parse_pmic(PMIC) == {"3V7_WL_SW": pytest.approx(353.884428), "VDD_CORE": pytest.approx(2000.0)}
    assert RpiPmic(run=lambda: PMIC).read()["VDD_CORE"] == pytest.approx(2000.0)
    assert parse_pmic("VCHI initialization failed") == {}


def fake_nvml(monkeypatch: pytest.MonkeyPatch, energy: object) -> None:
    def read(device: str) -> object:
        if isinstance(energy, Exception):
            raise energy
        return energy

    nvml = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=str, nvmlDeviceGetTotalEnergyConsumption=read
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_nvml_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, 123456)
    found = sensors.find(Power(sensor="nvml"))
    assert isinstance(found, Nvml) and found.read() == {"gpu": 123456.0}


def test_an_nvml_that_starts_and_then_refuses_is_no_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, RuntimeError("Not Supported"))
    assert sensors.find(Power(sensor="nvml")) is None


def test_a_board_without_a_sensor_has_none(tmp_path: Path) -> None:
    assert sensors.find(Power(sensor="none"), tmp_path) is None
