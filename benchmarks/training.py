"""What different ways to fine-tune win back of one and the same plan.

    python benchmarks/training.py resnet56 hints=0 hints=1 hints=1,lr=0.05 [--data DIR] [--epochs 1] [--macs 0.476]
    python benchmarks/training.py lite0 lr=0.02 lr=0.005,task.batch=32 --macs 0.85

Weights, and data unless --data names other, come from the folder that EDGEPRUNE_DATA names. Each argument is one build
with those options of ``finetune``, or of the table that an option names before a dot, by the plan of a global ranking
by ``l1``; what builds share is kept in edgeprune's cache, and so is every finished one. No clock is involved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from conditions import conditions, load, table
from peer_networks import NETWORKS, made, place

import edgeprune
from edgeprune.compiler.progress import Bars

TITLES = ("finetune", "untrained", "last epoch", "test", "drop, points (95 %)")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", choices=[name for name, one in NETWORKS.items() if not one.trains])
    parser.add_argument("settings", nargs="+", help="such as hints=1,lr=0.05")
    parser.add_argument("--data", type=Path, help="default: the network's own of the data pack")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--macs", type=float, default=0.476, help="share that the plan may keep (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/training"))
    asked = parser.parse_args(arguments)
    before = load()
    rows = [row(asked, dict(one.split("=", 1) for one in text.split(","))) for text in asked.settings]
    print(table(TITLES, rows))
    print("Top-1 in per cent: untrained and last epoch on the search split, test on images that chose nothing.\n")
    print(conditions(before, **{k: v for k, v in vars(asked).items() if k not in ("settings", "out")}))


def row(asked: argparse.Namespace, chosen: Mapping[str, str]) -> tuple[str, ...]:
    """Build once and return a row of the table."""
    network = NETWORKS[asked.network]
    name = ", ".join(f"{option}={value}" for option, value in chosen.items())
    settings = {"sparsify": {"criterion": "l1"}, **{of: dict(options) for of, options in network.settings.items()}}
    for option, value in chosen.items():
        of, _, last = option.rpartition(".")
        settings.setdefault(of or "finetune", {})[last] = value
    folder = place(asked.network, asked.out, 0)
    told = network.asked(made(asked.network, folder / "model", 0))
    report = edgeprune.compile(
        **{**told, "settings": settings, **({"data": asked.data} if asked.data else {})}, agent="global-ranking",
        evaluations=2, max_macs=f"{asked.macs:g}x", max_accuracy_drop=None, epochs=asked.epochs, precision="fp32",
        cost="macs", seed=asked.seed, out=folder / name.replace(", ", "-"), progress=Bars(),
    ).report  # fmt: skip
    epochs = [one["score"] for one in report.learning]
    score = report.result.score if report.result else None
    assert score is not None and score.drop is not None
    low, high = score.drop_interval or (float("nan"), float("nan"))
    drop = f"{100 * score.drop:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    return name, f"{100 * epochs[0]:.2f}", f"{100 * epochs[-1]:.2f}", f"{100 * score.value:.2f}", drop


if __name__ == "__main__":
    main(sys.argv[1:])
