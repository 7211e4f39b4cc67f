"""How long a command takes before it does anything.

    python benchmarks/startup.py [RUNS]

Wall and CPU time of whole child processes, taking turns so that the machine's moods fall on all of them alike.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from conditions import conditions, load, spread, table

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import edgeprune": ["-c", "import edgeprune"],
    "edgeprune --help": ["-m", "edgeprune", "--help"],
    "edgeprune compile --help": ["-m", "edgeprune", "compile", "--help"],
    "import torch": ["-c", "import torch"],
}
"""The first and the last are there to compare with: what cannot be gone below, and what is not imported."""


def main(runs: int) -> None:
    before = load()
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(runs + 1):
        for name, arguments in COMMANDS.items():
            seconds = timed(arguments)
            if turn:  # the first turn fills the file cache
                wall[name].append(seconds[0])
                cpu[name].append(seconds[1])
    print("Seconds a process: median (10th–90th percentile).\n")
    rows = [(f"`{name}`", spread(wall[name]), spread(cpu[name])) for name in COMMANDS]
    print(table(("process", "wall", "CPU"), rows))
    print(conditions(before, runs=runs))


def timed(arguments: list[str]) -> tuple[float, float]:
    """Return the wall and CPU seconds of one run of the interpreter."""
    used, start = _cpu_of_children(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, _cpu_of_children() - used


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
