"""What runs on a board: Python 3.6 and its standard library, and for models the board's own onnxruntime.

    python3 onboard.py facts
    python3 onboard.py time '{"models": {"a": "a.onnx"}, "threads": 1, "rounds": 15, "seconds": 0.1, "warmup": 10}'
    python3 onboard.py predict '{"model": "a.onnx", "threads": 1, "images": "in.npy", "outputs": "out.npy"}'

Each prints one line of JSON, the last of its output. Nothing is written but what the command names.
"""

import glob
import json
import os
import platform
import subprocess
import sys
import time


def facts():
    """Return what the board says of itself now: model, software, clocks, temperature, throttling, memory and disk."""
    found = {
        "model": _text("/proc/device-tree/model").strip("\0") or platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "l4t": _text("/etc/nv_tegra_release").split("\n")[0],
        "cores": os.cpu_count(),
        "governors": sorted(set(_texts("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))),
        "clocks_khz": [int(t) for t in _texts("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")],
        "clocks_most_khz": [int(t) for t in _texts("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq")],
        "temperatures_c": _temperatures(),
        "throttled": _throttled(),
        "power_mode": _said("nvpmodel", "-q").replace("\n", " ") or None,
        "memory_free_bytes": _memory("MemAvailable"),
        "memory_bytes": _memory("MemTotal"),
        "disk_free_bytes": _disk("."),
        "onnxruntime": None,
    }
    try:
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
    except ImportError as error:
        found["onnxruntime_error"] = str(error)
    return found


def time_models(asked):
    """Time models in turns, their order rotating, and return milliseconds of every run: {model: rounds of runs}."""
    import numpy

    calls = {}
    for name, path in asked["models"].items():
        session = _session(path, asked["threads"])
        one = session.get_inputs()[0]
        feed = {one.name: numpy.random.RandomState(0).standard_normal(one.shape).astype(numpy.float32)}
        calls[name] = lambda session=session, feed=feed: session.run(None, feed)
    runs = {name: _warm_up(call, asked) for name, call in calls.items()}
    names = list(calls)
    times = {name: [] for name in names}
    before, start = _stolen_ticks(), time.perf_counter()
    for turn in range(asked["rounds"]):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            times[name].append(_round(calls[name], runs[name]))
    elapsed = time.perf_counter() - start
    stolen = None if before is None else (_stolen_ticks() - before) / os.sysconf("SC_CLK_TCK") / elapsed
    return {"times": times, "stolen": stolen}


def predict(asked):
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


def _session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _warm_up(call, asked):
    """Run a few times and return how many runs make a round."""
    took = []
    for _ in range(asked["warmup"]):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    middle = max(sorted(took)[len(took) // 2], 1e-9)
    return int(round(min(max(asked["seconds"] / middle, 2), 200)))


def _round(call, runs):
    call()  # brings the weights back into the cache
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def _stolen_ticks():
    """Return the clock ticks that other processes have used so far; None where that cannot be known."""
    fields = _text("/proc/stat").split("\n")[0].split()[1:]
    if len(fields) < 8:
        return None
    busy = sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7))
    own = os.times()
    return busy - (own[0] + own[1]) * os.sysconf("SC_CLK_TCK")


def _temperatures():
    found = {}
    for folder in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        name, value = _text(folder + "/type").strip(), _text(folder + "/temp").strip()
        if name and value.lstrip("-").isdigit():
            found[name] = int(value) / 1000.0
    return found


def _throttled():
    """Return the Raspberry Pi's own word (0x0 is "never since it was switched on"); None elsewhere."""
    said = _said("vcgencmd", "get_throttled")
    return said.partition("=")[2].strip() or None


def _memory(field):
    for line in _text("/proc/meminfo").split("\n"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _disk(path):
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _texts(pattern):
    return [text.strip() for text in map(_text, sorted(glob.glob(pattern))) if text.strip()]


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _said(*command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    COMMANDS = {"facts": lambda asked: facts(), "time": time_models, "predict": predict}
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit("usage: onboard.py facts|time|predict [JSON]")
    print("\n" + json.dumps(COMMANDS[sys.argv[1]](json.loads(sys.argv[2]) if len(sys.argv) > 2 else None)))
