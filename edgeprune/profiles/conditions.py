"""What a board says of itself around a measurement: read by a shell script, as not every board has a Python of use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Run = Callable[[Sequence[str]], bytes]
"""Runs a command where the figures are wanted and returns what it prints."""

_SCRIPT = r"""
say() { [ -n "$2" ] && printf '%s\t%s\n' "$1" "$2"; }
look() { tr -d '\0' < "$1" 2>/dev/null | head -n 1; }
each() { for f in $2; do [ -r "$f" ] && say "$1" "$(look "$f")"; done; }
say model "$(look "$1/proc/device-tree/model")"; say host "$(uname -n)"
say machine "$(uname -m)"; say kernel "$(uname -r)"; say cores "$(nproc)"
say l4t "$(look "$1/etc/nv_tegra_release")"
each governor "$1/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
each clock_khz "$1/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
each clock_most_khz "$1/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq"
for f in "$1"/sys/class/thermal/thermal_zone*; do
  [ -r "$f/temp" ] && say "temperature $(look "$f/type")" "$(look "$f/temp")"
done
say throttled "$(vcgencmd get_throttled 2>/dev/null)"
say power_mode "$(nvpmodel -q 2>/dev/null | tr '\n' ' ')"
say memory_kb "$(awk '$1 == "MemTotal:" {print $2}' /proc/meminfo 2>/dev/null)"
say memory_free_kb "$(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo 2>/dev/null)"
say disk_free_kb "$(df -Pk . | awk 'NR == 2 {print $4}')"
exit 0
"""


def gather(run: Run, root: str = "") -> dict[str, Any]:
    """Return what is known of a board now; what it does not tell is left out.

    ``model``, ``host``, ``machine``, ``kernel``, ``l4t``, ``cores``, ``governors``, ``clocks_khz``,
    ``clocks_most_khz``, ``temperatures_c`` by zone, ``throttled`` (the Raspberry Pi's own word, 0x0 for never since it
    was switched on), ``power_mode``, ``memory_bytes``, ``memory_free_bytes``, ``disk_free_bytes`` of the folder that
    ``run`` starts in. ``root`` stands before every path.
    """
    found: dict[str, Any] = {}
    for line in run(["sh", "-c", _SCRIPT, "sh", root]).decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("\t")
        value = value.strip()
        if name.startswith("temperature "):
            if value.lstrip("-").isdigit():
                found.setdefault("temperatures_c", {})[name.partition(" ")[2]] = int(value) / 1000
        elif name in ("clock_khz", "clock_most_khz"):
            found.setdefault(name.replace("clock", "clocks"), []).append(int(value))
        elif name == "governor":
            found["governors"] = sorted({*found.get("governors", []), value})
        elif name.endswith("_kb"):
            found[f"{name.removesuffix('_kb')}_bytes"] = int(value) * 1024
        elif name == "cores":
            found[name] = int(value)
        elif name == "throttled":
            found[name] = value.partition("=")[2] or value
        elif value:
            found[name] = value
    return found


def around(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions of what happened between two gatherings: what changes is given twice."""
    moving = ("temperatures_c", "clocks_khz", "throttled")
    found = {k: v for k, v in before.items() if k not in (*moving, "memory_free_bytes", "disk_free_bytes")}
    for name in moving:
        if name in before or name in after:
            found[name] = {"before": before.get(name), "after": after.get(name)}
    return found
