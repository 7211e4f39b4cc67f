"""``python -m edgeprune.backends.peak FILE THREADS``: load and run an ONNX file, print what that cost in memory.

A process of its own, because a high-water mark never falls again; it imports no torch, whose own start would hide the
model's cost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

_RUNS = 3


def main(path: str, threads: int) -> int:
    """Return the bytes by which the resident set's peak exceeded what the process held before it loaded the file."""
    process = psutil.Process()
    before = int(process.memory_info().rss)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    for _ in range(_RUNS):
        session.run(None, feeds)
    return max(_peak(process) - before, 0)


def _peak(process: psutil.Process) -> int:
    """Return the high-water mark of the resident set in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage(2) on Linux also counts what the parent held when it started this process
        high = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(high.split()[1]) * 1024
    memory = process.memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
