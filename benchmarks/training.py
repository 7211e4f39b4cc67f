"""What different ways to fine-tune win back of one and the same plan.

    python benchmarks/training.py resnet56 hints=0 hints=1 hints=1,lr=0.05 [--data DIR] [--epochs 1] [--macs 0.476]

Weights, and data unless --data names other, come from the folder that EDGEPRUNE_DATA names. Each argument is one build
with those options of ``finetune``, by the plan of a global ranking by ``l1``; what builds share is kept in edgeprune's
cache, and so is every finished one. No clock is involved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from conditions import conditions, data_pack, load, table

import edgeprune
from edgeprune.compiler.progress import Bars

RESNETS = Path(__file__).parents[1] / "examples" / "cifar10" / "resnet.py"
TITLES = ("finetune", "untrained", "last epoch", "test", "drop, points (95 %)")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", choices=("resnet20", "resnet56"))
    parser.add_argument("settings", nargs="+", help="such as hints=1,lr=0.05")
    parser.add_argument("--data", type=Path, help="default: the data pack's CIFAR-10")
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


def row(asked: argparse.Namespace, finetune: Mapping[str, str]) -> tuple[str, ...]:
    """Build once and return a row of the table."""
    name = ", ".join(f"{option}={value}" for option, value in finetune.items())
    report = edgeprune.compile(
        data_pack() / "weights" / f"cifar10_{asked.network}.safetensors", arch=f"{RESNETS}:{asked.network}",
        data=asked.data or data_pack() / "cifar10", agent="global-ranking", evaluations=2, max_macs=f"{asked.macs:g}x",
        max_accuracy_drop=None, epochs=asked.epochs, precision="fp32", cost="macs", seed=asked.seed,
        settings={"finetune": dict(finetune), "sparsify": {"criterion": "l1"}},
        out=asked.out / f"{asked.network}-{name.replace(', ', '-')}", progress=Bars(),
    ).report  # fmt: skip
    epochs = [one["score"] for one in report.learning]
    score = report.result.score if report.result else None
    assert score is not None and score.drop is not None
    low, high = score.drop_interval or (float("nan"), float("nan"))
    drop = f"{100 * score.drop:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    return name, f"{100 * epochs[0]:.2f}", f"{100 * epochs[-1]:.2f}", f"{100 * score.value:.2f}", drop


if __name__ == "__main__":
    main(sys.argv[1:])
