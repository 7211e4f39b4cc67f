"""What re-estimating batch norms does to plans: by images alone, and corrected by what the original's own see there.

    python benchmarks/norms.py [resnet20 resnet56] [--plans 8] [--images 1000] [--calibration 100] [--share 0.5]

Weights and data come from the folder that EDGEPRUNE_DATA names. Plans under a share of the MACs are the original
itself, global rankings whose groups count for more or less by a random factor, and what ``random`` draws. Each is cut
once for either way; accuracy is that on the same images of the search split. No clock is involved.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from agreement import drawn, parser_of, scoring
from conditions import conditions, load, table
from numpy.typing import NDArray

from edgeprune.agents.drawing import draw
from edgeprune.groups import Widths
from edgeprune.threads import threads


def main(arguments: Sequence[str]) -> None:
    options = parser_of("Compare two ways of re-estimating batch norms.", 8, 1000, "l1").parse_args(arguments)
    before = load()
    for network in options.networks:
        print(f"## {network}, {options.share:g}x MACs, {options.calibration} images\n")
        print(table(("plans", "images alone", "corrected", "gain", "standard error"), rows(network, options)))
    print(f"Accuracy in percent, untrained, means over the plans, on {options.images} images.\n")
    print(conditions(before, **vars(options)))


def rows(network: str, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Return a row a kind of plan."""
    space, corrected = scoring(network, options)
    model, task, way, indices = corrected.model, corrected.task, corrected.way, corrected.indices
    alone = dataclasses.replace(corrected, told={})
    rng = np.random.default_rng(0)
    kinds: dict[str, list[Widths]] = {
        "the original": [space.full()], "rankings": drawn(space, options.plans),
        "random": [draw(space, rng, 0.97, 500) for _ in range(options.plans)],
    }  # fmt: skip
    before = task.score(partial(way.predict, way.dress(model.clone())), "search", indices).value
    found: list[tuple[str, ...]] = [("as it came", f"{100 * before:.1f}", f"{100 * before:.1f}", "", "")]
    with threads(1), ThreadPoolExecutor() as pool:
        for kind, plans in kinds.items():
            pairs: NDArray[np.float64] = 100 * np.array(
                [[one.value for one in pool.map(scorer.scored, plans)] for scorer in (alone, corrected)]
            )
            gains = pairs[1] - pairs[0]
            error = f"{gains.std(ddof=1) / len(gains) ** 0.5:.2f}" if len(gains) > 1 else ""
            found.append((kind, *(f"{mean:.1f}" for mean in pairs.mean(1)), f"{gains.mean():+.2f}", error))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
