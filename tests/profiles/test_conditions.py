"""What a board says of itself: a made-up tree of /sys and /proc, read by a real shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgeprune.profiles.conditions import around, gather


def run(words: Sequence[str]) -> bytes:
    return subprocess.run(words, capture_output=True, check=True).stdout


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_jetson(tmp_path: Path) -> None:
    put(tmp_path, {
        "proc/device-tree/model": "Jetson-AGX\0",
        "etc/nv_tegra_release": "# R35 (release), REVISION: 2.1\nmore\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1190400\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2265600\n",
        "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone1/type": "broken\n",
        "sys/class/thermal/thermal_zone1/temp": "none\n",
    })  # fmt: skip
    found = gather(run, str(tmp_path))
    assert found["model"] == "Jetson-AGX" and found["l4t"] == "# R35 (release), REVISION: 2.1"
    assert found["governors"] == ["schedutil"]
    assert (found["clocks_khz"], found["clocks_most_khz"]) == ([1190400], [2265600])
    assert found["temperatures_c"] == {"CPU-therm": 41.5}
    assert found["cores"] >= 1 and found["memory_bytes"] > found["memory_free_bytes"] > 0
    assert found["disk_free_bytes"] > 0


def test_what_is_not_told_is_not_there(tmp_path: Path) -> None:
    found = gather(run, str(tmp_path))
    assert not {"model", "l4t", "governors", "clocks_khz", "temperatures_c"} & found.keys()
    assert None not in found.values() and "" not in found.values()


def test_what_moves_is_given_twice() -> None:
    before = {"model": "x", "temperatures_c": {"cpu": 40.0}, "disk_free_bytes": 5}
    after = {"model": "x", "temperatures_c": {"cpu": 55.0}, "throttled": "0x50000", "disk_free_bytes": 4}
    assert around(before, after) == {
        "model": "x",
        "temperatures_c": {"before": {"cpu": 40.0}, "after": {"cpu": 55.0}},
        "throttled": {"before": None, "after": "0x50000"},
    }
