"""How many true evaluations a second one and two workers make on CIFAR-10's ResNet-20: threads, and Ray's processes.

    python benchmarks/scaling.py [--evaluations 40] [--rounds 5] [--images 2000] [--recalibration 1024]

Weights and data come from the folder that EDGEPRUNE_DATA names. Every round, the four ways score the same random plans
under half the MACs one after the other; ratios are of one round, and scores are compared to the bit. Workers are warm:
a cluster's start and the first plans of each worker are timed apart. Wants two idle cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from conditions import conditions, data_pack, load, spread, table
from search import not_needed, opened

from edgeprune.agents.drawing import draw
from edgeprune.agents.space import Space
from edgeprune.budget import Budget
from edgeprune.compiler.ray_pool import RayPool
from edgeprune.passes.base import Context
from edgeprune.passes.judging import Judge
from edgeprune.passes.pool import Pool, Threads
from edgeprune.passes.sparsify import Sparsify
from edgeprune.profiles import board

TARGET = 0.5
"""The ceiling of the plans, as a share of the original's MACs."""
WARMING = 6
"""Plans a worker that are scored before the clock starts: a cluster's workers do not all start at once."""
WAYS: dict[str, Callable[[], Pool]] = {
    "threads 1": lambda: Threads(1), "threads 2": lambda: Threads(2),
    "ray 1": lambda: RayPool(1), "ray 2": lambda: RayPool(2),
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Time true evaluations on one and two workers.")
    parser.add_argument("--evaluations", type=int, default=40, help="plans a round and way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--recalibration", type=int, default=1024)
    options = parser.parse_args(arguments)
    before = load()
    torch.set_num_threads(1)
    rates, ready, way = measured(options)
    rows = []
    for name in WAYS:
        ratios = np.divide(rates[name], rates[f"{name.split()[0]} 1"]).tolist()
        rows.append((name, spread(rates[name]), spread(ratios), spread(ready[name], 1)))
    print("Median (10th–90th percentile) over the rounds; the ratio is against one worker of that kind.\n")
    print(table(("workers", "evaluations a second", "ratio", "s to be warm"), rows))
    print("In every round all scores were the same to the bit on all four.\n")
    more = {"arithmetic": way, **vars(options), "ceiling": f"{TARGET} of MACs"}
    print(conditions(before, **more))


def measured(options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[float]], str]:
    """Return evaluations a second and seconds until warm, both by round, and the arithmetic of the scores."""
    model, task = opened("resnet20", data_pack())
    step, target = Sparsify(criterion="taylor"), board.load("host-cpu")
    cost = step.rows(model, target)
    ranking = step.ranking(model, cost.groups, task, 0)
    space = Space(cost, {"macs": TARGET * cost.full["macs"]})
    rng = np.random.default_rng(0)
    rates: defaultdict[str, list[float]] = defaultdict(list)
    ready: defaultdict[str, list[float]] = defaultdict(list)
    way = ""
    for _ in range(options.rounds):
        plans = [draw(space, rng, 0.9, 500) for _ in range(options.evaluations)]
        found = []
        for name, make in WAYS.items():
            with closing(make()) as pool, tempfile.TemporaryDirectory() as folder:
                ctx = Context(
                    board=target, task=task, budget=Budget(None), seed=0, original=model, baseline=None,
                    open=not_needed, measure=not_needed, workspace=Path(folder), pool=pool,
                )  # fmt: skip
                judge = Judge(model, cost.groups, ranking, ctx, step.surgery, images=options.images,
                              recalibration=options.recalibration)  # fmt: skip
                with judge.running():
                    start = time.perf_counter()
                    list(judge.scores((WARMING * pool.workers * plans)[: WARMING * pool.workers]))
                    warm = time.perf_counter()
                    found.append(tuple(judge.scores(plans)))
                    rates[name].append(len(plans) / (time.perf_counter() - warm))
                    ready[name].append(warm - start)
                    way = str(judge.way)
        if len(set(found)) != 1:
            sys.exit(f"the scores differ: {found}")
    return rates, ready, way


if __name__ == "__main__":
    main(sys.argv[1:])
