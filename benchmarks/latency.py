"""How far a latency table's predictions are off: whole models at several widths, in fp32 and int8, against the clock.

    python benchmarks/latency.py TABLE [resnet20 resnet56 mobilenetv3 yolov5n] [--plans N]

TABLE is the file of the table; what it lacks is measured into it, a few minutes a model. Weights come from the folder
that EDGEPRUNE_DATA names; MobileNetV3-small has random ones. Of the plans every other one has widths at the target's
widest channel multiple, as a search by the clock proposes them; the others have any. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conditions import conditions, data_pack, load, table

from edgeprune.benches.base import Bench
from edgeprune.benches.choose import bench_for
from edgeprune.benches.tabulate import check
from edgeprune.budget import Budget
from edgeprune.compiler import tabling
from edgeprune.frontends import checkpoint
from edgeprune.groups import CostModel, aligned, plan_of
from edgeprune.importance import scores
from edgeprune.model import OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context, Silent
from edgeprune.passes.export import Export
from edgeprune.passes.graph import write
from edgeprune.passes.lowering import calibrate
from edgeprune.profiles import board as boards
from edgeprune.profiles.latency_table import Check, errors
from edgeprune.surgery import rebuild, resolve
from edgeprune.tracing import trace

RESNETS = Path(__file__).parents[1] / "examples" / "cifar10" / "resnet.py"
MODELS = {
    "resnet20": ("cifar10_resnet20.safetensors", f"{RESNETS}:resnet20", (1, 3, 32, 32)),
    "resnet56": ("cifar10_resnet56.safetensors", f"{RESNETS}:resnet56", (1, 3, 32, 32)),
    "mobilenetv3": (None, "torchvision:mobilenet_v3_small", (1, 3, 224, 224)),
    "yolov5n": ("yolov5n.pt", None, (1, 3, 320, 320)),
}


def read(name: str) -> TorchModel:
    """Return one of MODELS."""
    file, arch, shape = MODELS[name]
    torch.manual_seed(0)
    weights = None if file is None else data_pack() / "weights" / file
    return checkpoint.load(checkpoint.Source(weights, arch), shape).model


def finished(model: TorchModel, folder: Path, bench: Bench) -> dict[str, OnnxModel]:
    """Return the graph of a model, and the same with every layer in int8; its ranges are those of noise."""
    folder.mkdir()

    @contextmanager
    def opened(graph: OnnxModel) -> Iterator[Predict]:
        with bench.open(graph) as runner:
            yield batched(runner, graph.spec)

    ctx = Context(board=bench.board, task=None, budget=Budget(), seed=0, original=model, baseline=None, open=opened,
                  measure=bench.measure, workspace=folder)  # fmt: skip
    floating = Export().run(model, ctx)
    assert bench.board.int8 is not None
    image = np.random.default_rng(0).standard_normal(model.spec.input_shape).astype(np.float32)
    lowering = calibrate(floating.path, [image], bench.board.int8, "minmax", 1, guarded=True)
    lowered = write(lowering.build(lowering.candidates()), replace(floating, path=folder / "int8.onnx"))
    return {"fp32": floating, "int8": lowered}


def narrowed(model: TorchModel, cost: CostModel, multiple: int, number: int) -> TorchModel:
    """Return the model at random widths, drawn above a random share of its own."""
    rng = np.random.default_rng(number)
    least = rng.uniform(0.1, 0.9)
    groups = (aligned(cost, multiple) if number % 2 else cost).groups
    offered = ([width for width in group.ladder if width >= least * group.channels] for group in groups)
    widths = tuple(int(rng.choice(options)) for options in offered)
    ranking = scores(model, cost.groups, "l2", None, 0)
    return rebuild(model, resolve(model.module, cost.groups, plan_of(cost.groups, widths, ranking)))


def predictions(name: str, path: Path, bench: Bench, plans: int, scratch: Path) -> list[Check]:
    """Measure what the table lacks of a model and hold its predictions against the clock, the model's own first."""
    model = read(name)
    cost = trace(model, tuple(bench.board.channel_multiples.values()))
    known = tabling.open_table(path, bench)
    found: list[Check] = []
    for number in range(plans + 1):
        shape = narrowed(model, cost, bench.board.widest_multiple, number) if number else model
        made = finished(shape, scratch / f"{name}{number}", bench)
        if not number:
            for graph in made.values():
                tabling.extend(known, path, bench, graph, tabling.units_of(graph), Silent())
        kind = "whole" if not number else "aligned" if number % 2 else "any"
        whole = {f"{name}, {kind} {number}, {p}": (graph, tabling.units_of(graph)) for p, graph in made.items()}
        for one in check(known, bench, whole):
            print(f"{one.name}: {one.predicted_ms:.3f} ms predicted, {one.measured_ms:.3f} measured, "
                  f"{100 * one.error:+.1f} %", flush=True)  # fmt: skip
            found.append(one)
    return found


def main() -> None:
    """Print every prediction, then a table in markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--plans", type=int, default=6)
    asked = parser.parse_args()
    before, rows, every = load(), [], []
    with tempfile.TemporaryDirectory() as scratch, closing(bench_for(boards.load("host-cpu"))) as bench:
        for name in asked.models:
            found = predictions(name, asked.table, bench, asked.plans, Path(scratch))
            every += found
            kinds = {"all": found} | {
                kind: [one for one in found if kind in one.name] for kind in ("fp32", "int8", "aligned", "any")
            }
            rows += [[f"{name}, {kind}", str(len(some)), *(f"{100 * e:.1f}" for e in errors(some).values())]
                     for kind, some in kinds.items() if some]  # fmt: skip
    rows.append(["**all**", str(len(every)), *(f"{100 * e:.1f}" for e in errors(every).values())])
    print(conditions(before, table=asked.table.name))
    print(table(["error, %", "graphs", "median", "p90", "worst"], rows))


if __name__ == "__main__":
    main()
