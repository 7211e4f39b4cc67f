"""edgeprune beside what a user would pick instead: same data, same epochs, one machine, one run.

    python benchmarks/peers.py [resnet20 resnet56 lite0 yolov5n] [--methods M …] [--epochs 2] [--macs 0.5] [--out DIR]

Each method of peer_methods.py runs in a process of its own; what is finished is kept in --out. Scores (top-1, or
mAP50-95) are of the images that chose nothing, by the emitted graph in its own runtime. Times are of batch 1 and one
thread; all graphs take turns, and a ratio is taken within each round. With --pruning-alone nothing is quantized: what
is compared is which channels go. yolov5n is first trained on KITTI's classes (--train-epochs). Wants the packages nncf,
openvino and nvidia-modelopt, for modelopt-fastnas torchprofile 0.0.4, and for modelopt-ptq onnx-graphsurgeon, lief,
polygraphy, cppimport and onnxconverter-common, best without what these pin; a method whose package is missing is left
out, and the table says so. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import conditions, load, spread, table
from numpy.typing import NDArray
from peer_methods import METHODS, QUANTIZE_ALONE, options
from peer_networks import NETWORKS, made, place

from edgeprune.report import Score
from edgeprune.tasks.base import Task

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
NEEDS = {"nncf-ort": "nncf", "nncf-openvino": "openvino", "modelopt-ptq": "onnx-graphsurgeon",
         "modelopt-fastnas": "nvidia-modelopt"}  # fmt: skip
WINDOW = 0.2
"""Seconds that a graph runs before the next has its turn."""


def runner(graph: Path, runtime: str) -> Run:
    """Return what runs one graph on one thread."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})[0]
    import openvino

    precision = "bf16" if runtime.endswith("bf16") else "f32"
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    return lambda images: np.asarray(compiled(images)[0])


def found_by(method: str, network: str, model: Path, asked: argparse.Namespace) -> dict[str, Any] | None:
    """Run a method, or read what it found before; None where its package is missing or it failed, which is said."""
    passed = [f"--{name}={getattr(asked, name)}" for name in ("epochs", "macs", "floor", "seed")]
    passed += [f"--evaluations={asked.evaluations}"] if asked.evaluations else []
    passed += ["--pruning-alone"] if asked.pruning_alone else []
    folder = place(network, asked.out, asked.train_epochs) / "".join([method, *passed])
    kept = folder / "found.json"
    if kept.is_file():
        told: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return told
    package = NEEDS.get(method)
    if package is not None:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            print(f"- {network}, {method}: left out, {package} is not installed", flush=True)
            return None
    script = str(Path(__file__).with_name("peer_methods.py"))
    command = [sys.executable, script, method, network, str(model), str(folder), *passed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"- {network}, {method}: failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}", flush=True)
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    kept.write_text(json.dumps(told), encoding="utf-8")
    print(f"- {network}, {method}: {told['seconds']:.0f} s", flush=True)
    return told


def scored(run: Run, task: Task) -> Score:
    """Score a graph one image at a time, as it will run."""
    return task.score(lambda images: np.concatenate([run(image[None]) for image in images]), "test")


def timed(runs: dict[str, Run], shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Return each graph's median milliseconds, one a round; the graphs take turns."""
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            times, until = [], time.perf_counter() + WINDOW
            while time.perf_counter() < until:
                started = time.perf_counter()
                run(image)
                times.append(1e3 * (time.perf_counter() - started))
            if number:  # the first round warms up
                found[name].append(float(np.median(times)))
    return found


def compared(network: str, asked: argparse.Namespace) -> str:
    """Return one network's table."""
    model = made(network, place(network, asked.out, asked.train_epochs) / "model", asked.train_epochs)
    methods = [one for one in asked.methods if not (asked.pruning_alone and one in QUANTIZE_ALONE)]
    told = {method: found_by(method, network, model, asked) for method in methods}
    facts = {method: one for method, one in told.items() if one is not None}
    if "fp32" not in facts:
        sys.exit("fp32 is what all others are held against; do not leave it out")
    opened = NETWORKS[network].open(model)
    runs = {method: runner(Path(one["graph"]), one["runtime"]) for method, one in facts.items()}
    scores = {method: scored(run, opened.task) for method, run in runs.items()}
    times = timed(runs, opened.original.spec.input_shape, asked.rounds)
    rows = []
    for method, one in facts.items():
        faster = [base / own for base, own in zip(times["fp32"], times[method], strict=True)]
        drop, error = scores["fp32"].drop_to(scores[method])
        graph = Path(one["graph"])
        size = sum(path.stat().st_size for path in {graph, graph.with_suffix(".bin")} if path.is_file())
        score, lost = f"{100 * scores[method].value:.2f}", f"{100 * drop:.2f} ± {196 * error:.2f}"
        rows.append((method, one["runtime"], score, lost, spread(faster), f"{size / 1e3:.0f}", f"{one['macs']:.3f}",
                     f"{one['seconds']:.0f}", f"{one['peak_mb']:.0f}"))  # fmt: skip
    titles = ("method", "runtime", f"{opened.task.metric}, %", "drop, points (95 %)", "times faster than fp32", "kB",
              "MACs", "wall, s", "peak, MB")  # fmt: skip
    return f"## {network}\n\n{table(titles, rows)}\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56"], choices=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options(parser)
    parser.add_argument("--train-epochs", type=int, default=60, help="of yolov5n's head at most, before all else")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = load()
    tables = [compared(network, asked) for network in asked.networks]
    print("\n".join(tables))
    names = ("nncf", "openvino", "nvidia-modelopt", "torch-pruning")
    installed = {name for name in names if any(one.metadata["Name"] == name for one in metadata.distributions())}
    print(conditions(before, peers=", ".join(f"{name} {metadata.version(name)}" for name in sorted(installed)),
                     epochs=asked.epochs, macs=asked.macs, floor=asked.floor, seed=asked.seed, rounds=asked.rounds,
                     evaluations=asked.evaluations or "compile's own", train_epochs=asked.train_epochs))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
