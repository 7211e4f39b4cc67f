"""``python -m edgeprune.backends.peak RUNTIME FLOATS FILE THREADS``: load and run a file, print what memory that took.

A process of its own, because a high-water mark never falls again; it imports no torch, whose own start would hide the
model's cost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import psutil

_RUNS = 3


def main(runtime: str, floats: str, path: str, threads: int) -> int:
    """Return the bytes by which the resident set's peak exceeded what the process held before it loaded the file."""
    process = psutil.Process()
    if runtime == "openvino":
        return _openvino(process, floats, path, threads)
    import onnxruntime

    before = int(process.memory_info().rss)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    for _ in range(_RUNS):
        session.run(None, feeds)
    return max(_peak(process) - before, 0)


def _openvino(process: psutil.Process, floats: str, path: str, threads: int) -> int:
    import openvino

    core = openvino.Core()
    before = int(process.memory_info().rss)
    options = {"INFERENCE_PRECISION_HINT": floats, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
    request = core.compile_model(path, "CPU", options).create_infer_request()
    feeds = [np.zeros(tuple(one.shape), np.float32) for one in request.model_inputs]
    for _ in range(_RUNS):
        request.infer(feeds)
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
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
