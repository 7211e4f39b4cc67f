"""edgeprune beside what a user would pick instead: same data, same epochs, one machine, one run.

    python benchmarks/peers.py [resnet20 resnet56 lite0 yolov5n] [--methods M …] [--epochs 2] [--macs 0.5 …] [--out DIR]

Each method of peer_methods.py runs in a process of its own, with a cache of its own; what is finished is kept in --out
as long as neither edgeprune, these scripts, the packages nor the model change (the wall time of one that was killed is
of what was left to do). Scores (top-1, or mAP50-95) are of the images that chose nothing, by the emitted graph in its
own runtime. What prunes to a share of the MACs has a row for each of --macs. Times are of batch 1 and one thread; all
graphs take turns, and a ratio is taken within each round. With --pruning-alone nothing is quantized: what is compared
is which channels go. yolov5n is first trained on KITTI's classes (--train-epochs); its search split has some 100 images
and lite0's 250, of which one is more than the default --floor. Wants the packages nncf, openvino and nvidia-modelopt,
for modelopt-fastnas torchprofile 0.0.4, and for modelopt-ptq onnx-graphsurgeon, onnxslim, lief, polygraphy, cppimport
and onnxconverter-common, best without what these pin; what is left out or fails is told under the table. Leave the
machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
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
from peer_methods import METHODS, QUANTIZE_ALONE, TO_A_SHARE, installed, options
from peer_networks import NETWORKS, made, place

from edgeprune.compiler.cache import key, source_digest, versions
from edgeprune.model import file_digest
from edgeprune.report import Score
from edgeprune.tasks.base import Task

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
PEERS = ("nncf", "openvino", "nvidia-modelopt", "torch-pruning")
NEEDS = {"nncf-ort": ("nncf",), "nncf-openvino": ("nncf", "openvino"),
         "modelopt-ptq": ("nvidia-modelopt", "onnx-graphsurgeon"),
         "modelopt-fastnas": ("nvidia-modelopt", "torchprofile")}  # fmt: skip
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


class LeftOut(Exception):
    """A method that has no row, and why."""


def labelled(method: str, share: float | None) -> str:
    """Return what the table calls a method, with the share of the MACs that it was told to keep, if any."""
    return method if share is None else f"{method}, {share:g}x"


def found_by(method: str, share: float | None, network: str, model: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run a method, or read what it found before. Raises LeftOut where its package is missing or it failed."""
    needs = [package for package in NEEDS.get(method, ()) if not installed(package)]
    if needs:
        raise LeftOut(f"left out, {', '.join(needs)} not installed")
    passed = [f"--{name}={getattr(asked, name)}" for name in ("epochs", "floor", "seed")]
    passed += [] if share is None else [f"--macs={share}"]
    passed += [f"--evaluations={asked.evaluations}"] if asked.evaluations else []
    passed += ["--pruning-alone"] if asked.pruning_alone else []
    folder = place(network, asked.out, asked.train_epochs) / "".join([method, *passed]) / decided_by(model)
    kept = folder / "found.json"
    if kept.is_file():
        told: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return told
    folder.mkdir(parents=True, exist_ok=True)
    script = str(Path(__file__).with_name("peer_methods.py"))
    command = [sys.executable, script, method, network, str(model), str(folder), *passed]
    with (folder / "errors.txt").open("w", encoding="utf-8") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False,
            env={**os.environ, "EDGEPRUNE_CACHE": str(folder.resolve() / "cache")},
        )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (folder / "errors.txt").read_text(encoding="utf-8").strip().splitlines() or ["no reason"]
        raise LeftOut(f"failed: {said[-1]} ({folder / 'errors.txt'})")
    told = json.loads(lines[-1])
    kept.write_text(json.dumps(told), encoding="utf-8")
    print(f"- {network}, {labelled(method, share)}: {told['seconds']:.0f} s", flush=True)
    return told


def decided_by(model: Path) -> str:
    """Return a hash of all that decides what a method finds, but its options and the data."""
    scripts = [file_digest(Path(__file__).with_name(name)) for name in ("peer_methods.py", "peer_networks.py")]
    peers = [metadata.version(package) for package in PEERS if installed(package)]
    files = sorted(model.rglob("*")) if model.is_dir() else [model]
    digest = hashlib.sha256("".join(file_digest(one) for one in files if one.is_file()).encode()).hexdigest()
    return key(source_digest(), versions(), scripts, peers, digest)[:16]


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
    """Return one network's table, and under it what has no row."""
    model = made(network, place(network, asked.out, asked.train_epochs) / "model", asked.train_epochs)
    facts: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    absent = []
    for method in asked.methods:
        if asked.pruning_alone and method in QUANTIZE_ALONE:
            continue
        for share in asked.macs if method in TO_A_SHARE else (None,):
            name = labelled(method, share)
            try:
                facts[name] = found_by(method, share, network, model, asked)
            except LeftOut as why:
                absent.append(f"- {network}, {name}: {why}")
                print(absent[-1], flush=True)
    graphs = {f"{method}|{runtime}": Path(graph) for method, one in facts.items()
              for runtime, graph in one["graphs"].items()}  # fmt: skip
    for name, graph in graphs.items():
        try:
            runs[name] = runner(graph, name.partition("|")[2])
        except Exception as why:  # a graph that its runtime does not take is a finding too
            absent.append(f"- {network}, {name}: does not load: {' '.join(str(why).split())[:200]}")
    base = "fp32|onnxruntime"
    if base not in runs:
        sys.exit("fp32 is what all others are held against; do not leave it out")
    opened = NETWORKS[network].open(model, asked.seed)
    scores = {name: scored(run, opened.task) for name, run in runs.items()}
    times = timed(runs, opened.original.spec.input_shape, asked.rounds)
    rows = []
    for name in runs:
        method, _, runtime = name.partition("|")
        faster = [whole / own for whole, own in zip(times[base], times[name], strict=True)]
        drop, error = scores[base].drop_to(scores[name])
        files = {graphs[name], graphs[name].with_suffix(".bin")}
        size = sum(path.stat().st_size for path in files if path.is_file())
        score, lost = f"{100 * scores[name].value:.2f}", f"{100 * drop:.2f} ± {196 * error:.2f}"
        one = facts[method]
        rows.append((method, runtime, score, lost, spread(faster), f"{size / 1e3:.0f}", f"{one['macs']:.3f}",
                     f"{one['seconds']:.0f}", f"{one['peak_mb']:.0f}"))  # fmt: skip
    titles = ("method", "runtime", f"{opened.task.metric}, %", "drop, points (95 %)", "times faster than fp32", "kB",
              "MACs", "wall, s", "peak, MB")  # fmt: skip
    images = ", ".join(f"{split.name} {split.n}" for split in opened.task.splits())
    return "\n".join([f"## {network}\n\n{table(titles, rows)}", f"- images: {images}", *absent, ""])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options(parser)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5], help="shares of the MACs that pruners may keep")
    parser.add_argument("--train-epochs", type=int, default=60, help="of yolov5n's head at most, before all else")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    asked = parser.parse_args(arguments)
    unknown = sorted(set(asked.networks) - set(NETWORKS))
    if unknown:
        parser.error(f"unknown network {unknown[0]}; known: {', '.join(NETWORKS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the method that runs is ended too
    torch.set_num_threads(1)
    before = load()
    for network in asked.networks or NETWORKS:
        print(compared(network, asked), flush=True)
    peers = [name for name in PEERS if installed(name)]
    print(conditions(before, peers=", ".join(f"{name} {metadata.version(name)}" for name in peers),
                     epochs=asked.epochs, macs=" ".join(f"{share:g}" for share in asked.macs), floor=asked.floor,
                     seed=asked.seed, rounds=asked.rounds,
                     evaluations=asked.evaluations or "compile's own", train_epochs=asked.train_epochs))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
