"""How much faster the model of a build is than the original it was made from.

    python benchmarks/emitted.py DIR MODEL --arch ARCH [--threads 1 2] [--sessions 5]

MODEL and ARCH are what DIR was compiled from; ``ARCH`` may be code in a file, so it is never taken from DIR. The
original is exported as ``compile`` exports it. The two take turns, and a ratio is taken within each turn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conditions import conditions, load, spread, table

from edgeprune.budget import Budget
from edgeprune.compiler.cache import Store
from edgeprune.compiler.workshop import Means, Workshop
from edgeprune.errors import EdgepruneError
from edgeprune.frontends import checkpoint
from edgeprune.model import OnnxModel, TorchModel
from edgeprune.passes.base import Silent
from edgeprune.passes.pool import Threads
from edgeprune.profiles import board
from edgeprune.report import Measurement

Sessions = list[tuple[Measurement, Measurement]]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Time the model of a build against the original it was made from.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--sessions", type=int, default=5)
    options = parser.parse_args(arguments)
    before = load()
    try:
        emitted = OnnxModel.read(options.directory / "model.onnx")
        source = checkpoint.Source(options.model, options.arch)
        original = checkpoint.load(source, emitted.spec.input_shape).model
        found = {threads: timed(original, emitted, threads, options.sessions) for threads in options.threads}
    except EdgepruneError as error:
        sys.exit(f"error: {error}")
    print(f"`{options.directory}` against `{options.model}`, ONNX Runtime, batch 1.")
    print("Milliseconds are the median of a session's p50s, ratios the median (10th–90th percentile) of its ratios.\n")
    titles = ("threads", "original, ms", "emitted, ms", "ratio", "times faster", "noisy sessions")
    print(table(titles, [row(threads, sessions) for threads, sessions in found.items()]))
    print(conditions(before, sessions=options.sessions, rounds=next(iter(found.values()))[0][0].conditions["rounds"]))


def timed(original: TorchModel, emitted: OnnxModel, threads: int, sessions: int) -> Sessions:
    """Return the measurements of (original, emitted), one pair a session."""
    means = Means(board.load("host-cpu"), Budget(None), 0, "measured", threads, 1, Threads(), "cpu", Silent())
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(original, None, means, Store(Path(folder)))
        models = {"original": workshop.source.model, "emitted": emitted}
        runs = [workshop.measure(models) for _ in range(sessions)]
    return [(run["original"], run["emitted"]) for run in runs]


def row(threads: int, sessions: Sessions) -> tuple[str, ...]:
    """Return one line of the table."""
    ratios = [emitted.ratio or 1.0 for _, emitted in sessions]
    return (
        str(threads),
        spread([original.latency_ms.p50 for original, _ in sessions if original.latency_ms], 3),
        spread([emitted.latency_ms.p50 for _, emitted in sessions if emitted.latency_ms], 3),
        spread(ratios, 3),
        spread([1.0 / ratio for ratio in ratios]),
        f"{sum(emitted.noisy for _, emitted in sessions)} of {len(sessions)}",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
