"""What the searches of one bisection gain by what the earlier ones of them were told.

    python benchmarks/bisection.py resnet20 [--evaluations 24] [--seeds 3] [--shares 0.7 0.35 0.55 0.65] [--agent ppo]

Weights and data come from the folder that EDGEPRUNE_DATA names. For each seed the searches under those shares of the
MACs run one after another, twice: each for itself, and each told the scores of those before it, as a build does. Scores
are the accuracies of the plans taken and of the warm starts' best, untrained, on images that no search looked at. No
clock is involved.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import conditions, data_pack, load, table
from search import context, opened

from edgeprune import find
from edgeprune.passes.sparsify import Sparsify
from edgeprune.tracing import size_of

TITLES = ("MACs", "warm start", "each for itself", "told", "gain", "standard error")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", choices=("resnet20", "resnet56"))
    parser.add_argument("--agent", default="ppo")
    parser.add_argument("--evaluations", type=int, default=24, help="of each search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.35, 0.55, 0.65])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    before = load()
    torch.set_num_threads(1)
    found = np.array([[chain(asked, seed, told) for told in (False, True)] for seed in range(asked.seeds)])
    rows = []
    for at, share in enumerate(asked.shares):  # found is (seeds, ways, shares, warm start and best)
        start, alone, told = 100 * found[:, 0, at, 0], 100 * found[:, 0, at, 1], 100 * found[:, 1, at, 1]
        error = f"{(told - alone).std(ddof=1) / asked.seeds**0.5:.2f}" if asked.seeds > 1 else ""
        means = (f"{one.mean():.2f}" for one in (start, alone, told))
        rows.append((f"{share:g}x", *means, f"{(told - alone).mean():+.2f}", error))
    print(f"## {asked.network}\n\n{table(TITLES, rows)}")
    print("Top-1 accuracy in per cent, untrained, means over the seeds.\n")
    print(conditions(before, **{name: value for name, value in vars(asked).items() if name != "network"}))


def chain(asked: argparse.Namespace, seed: int, telling: bool) -> list[tuple[float, float]]:
    """Search under one share after another and return, for each, what the warm start came to and what was taken."""
    model, task = opened(asked.network, data_pack())
    agent, full = find.find("agents", asked.agent)(), size_of(model)["macs"]
    usual = Sparsify(agent=agent, evaluations=asked.evaluations, criterion="l1", recalibration=256, finalists=1)
    told: dict[str, dict[str, float]] = {}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for share in asked.shares:
            facts: dict[str, Any] = {}
            search = dataclasses.replace(usual, limits=(("macs", share * full),), **task.searching,
                                         earlier=told if telling else {})  # fmt: skip
            search.run(model.clone(), context(model, task, Path(folder), asked.workers, facts, seed))
            found.append((facts["warm_start"], facts["best"]))
            told = {name: {**told.get(name, {}), **scores} for name, scores in facts["asked"].items()}
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
