"""What runs on a board: Python 3.6 and its standard library, and for models the board's own onnxruntime.

    python3 onboard.py time '{"models": {"a": "a.onnx"}, "threads": 1, "rounds": 15, "seconds": 0.1, "warmup": 10}'
    python3 onboard.py loop '{"model": "a.onnx", "threads": 1, "seconds": 5, "result": "loop.json"}'
    python3 onboard.py layers '{"model": "a.onnx", "threads": 1, "runs": 50, "prefix": "profile"}'
    python3 onboard.py predict '{"model": "a.onnx", "threads": 1, "images": "in.npy", "outputs": "out.npy"}'

Each prints one line of JSON, the last of its output. Nothing is written but what the command names.
"""

import json
import os
import platform
import sys
import time
from typing import Any, Callable, Dict, List, Optional


def time_models(asked: Dict[str, Any]) -> Dict[str, Any]:
    """Time models in turns, their order rotating, and return milliseconds of every run: {model: rounds of runs}.

    ``stolen`` is the share of our threads' time that other processes can have taken; None where that is not known.
    """
    import numpy

    calls = {}
    for name, path in asked["models"].items():
        session = _session(path, asked["threads"])
        one = session.get_inputs()[0]
        feed = {one.name: numpy.random.RandomState(0).standard_normal(one.shape).astype(numpy.float32)}
        calls[name] = lambda session=session, feed=feed: session.run(None, feed)
    runs = {name: _warm_up(call, asked) for name, call in calls.items()}
    names = list(calls)
    times = {name: [] for name in names}  # type: Dict[str, List[List[float]]]
    before, start = _stolen_ticks(), time.perf_counter()
    for turn in range(asked["rounds"]):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            times[name].append(_round(calls[name], runs[name]))
    elapsed = time.perf_counter() - start
    after = _stolen_ticks()
    stolen = None
    if before is not None and after is not None:
        # others slow us down only once they want more than the cores that we leave free
        spare = max((os.cpu_count() or 1) - asked["threads"], 0)
        others = (after - before) / os.sysconf("SC_CLK_TCK") / elapsed
        stolen = max(others - spare, 0.0) / asked["threads"]
    return {"times": times, "stolen": stolen, "onnxruntime": _version(), "python": platform.python_version()}


def loop(asked: Dict[str, Any]) -> Dict[str, Any]:
    """Run a model over and over for some seconds, and write how often and how long to the file ``result``."""
    import numpy

    session = _session(asked["model"], asked["threads"])
    one = session.get_inputs()[0]
    feed = {one.name: numpy.random.RandomState(0).standard_normal(one.shape).astype(numpy.float32)}
    session.run(None, feed)
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < asked["seconds"]:
        session.run(None, feed)
        runs += 1
    told = {"runs": runs, "seconds": time.perf_counter() - start}
    with open(asked["result"], "w", encoding="utf-8") as file:
        json.dump(told, file)
    return told


def layers(asked: Dict[str, Any]) -> Dict[str, Any]:
    """Return [name, operator, milliseconds of every run] of each node, in order, by ONNX Runtime's profiler.

    Its file begins with ``prefix`` and is removed.
    """
    import numpy

    session = _session(asked["model"], asked["threads"], asked["prefix"])
    one = session.get_inputs()[0]
    feed = {one.name: numpy.random.RandomState(0).standard_normal(one.shape).astype(numpy.float32)}
    for _ in range(asked["runs"] + 1):
        session.run(None, feed)
    path = session.end_profiling()
    try:
        with open(path, encoding="utf-8") as file:
            events = json.load(file)
    finally:
        os.remove(path)
    found = {}  # type: Dict[str, List[Any]]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"][: -len("_kernel_time")]
            found.setdefault(name, [event["args"]["op_name"]]).append(event["dur"] / 1e3)
    return {"layers": [[name, told[0], told[2:] or told[1:]] for name, told in found.items()]}


def predict(asked: Dict[str, Any]) -> Dict[str, int]:
    """Run every image of a file, shape (n, C, H, W), and write the first outputs, shape (n, ...), to another."""
    import numpy

    session = _session(asked["model"], asked["threads"])
    images = numpy.load(asked["images"], allow_pickle=False)
    name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        short = size - len(batch)
        if short:
            batch = numpy.concatenate([batch, numpy.zeros((short,) + batch.shape[1:], batch.dtype)])
        parts.append(session.run(None, {name: batch})[0][: size - short])
    numpy.save(asked["outputs"], numpy.concatenate(parts))
    return {"images": len(images)}


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _session(path: str, threads: int, profile: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = bool(profile)
    options.profile_file_prefix = profile or "profile"
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _warm_up(call: Callable[[], object], asked: Dict[str, Any]) -> int:
    """Run a few times and return how many runs make a round."""
    took = []
    for _ in range(asked["warmup"]):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    middle = max(sorted(took)[len(took) // 2], 1e-9)
    return int(round(min(max(asked["seconds"] / middle, 2), 200)))


def _round(call: Callable[[], object], runs: int) -> List[float]:
    call()  # brings the weights back into the cache
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def _stolen_ticks() -> Optional[float]:
    """Return the clock ticks that other processes have used so far; None where that cannot be known."""
    fields = _text("/proc/stat").split("\n")[0].split()[1:]
    if len(fields) < 8:
        return None
    busy = sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7))
    own = os.times()
    return busy - (own[0] + own[1]) * os.sysconf("SC_CLK_TCK")


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    COMMANDS = {"time": time_models, "loop": loop, "layers": layers, "predict": predict}
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        sys.exit("usage: onboard.py time|loop|layers|predict JSON")
    print("\n" + json.dumps(COMMANDS[sys.argv[1]](json.loads(sys.argv[2]))))
