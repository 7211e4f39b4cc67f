"""How well few images tell which plan is the most accurate: by the metric, and by agreement with the original.

    python benchmarks/agreement.py [resnet20 resnet56] [--plans 64] [--images 3000] [--share 0.5] [--criterion taylor]

Weights and data come from the folder that EDGEPRUNE_DATA names. Plans under a share of the MACs are global rankings
whose groups count for more or less than they do by a random factor. Each is cut, its batch norms are re-estimated on
``--calibration`` training images, and it is run on ``--images`` of the search split. Then, many times, few of those
images score all plans, and the others are the truth. No clock is involved.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from conditions import conditions, data_pack, load, table
from numpy.typing import NDArray
from scipy.stats import spearmanr
from search import opened

from edgeprune.agents.global_ranking import alone, priced, ranked
from edgeprune.agents.space import Space
from edgeprune.groups import Widths
from edgeprune.model import Predict
from edgeprune.passes.agreement import TEMPERATURE
from edgeprune.passes.judging import Scorer
from edgeprune.passes.sparsify import Sparsify
from edgeprune.passes.ways import agreed
from edgeprune.profiles import board
from edgeprune.recalibration import first_images
from edgeprune.tasks.base import Task
from edgeprune.threads import threads

FEW = (64, 100, 200, 400, 1000)
DRAWS = 100
STRENGTHS = (0.1, 0.2, 0.4, 0.8, 1.5)
"""Standard deviations of the logarithm of the factor."""


def main(arguments: Sequence[str]) -> None:
    parser = parser_of("Compare the metric and agreement as objectives of a search.", 64, 3000, "taylor")
    options = parser.parse_args(arguments)
    before = load()
    for network in options.networks:
        hits, distances = measured(network, options)
        print(f"## {network}, {options.share:g}x MACs\n")
        print(table(("images", "metric", "agreement", "metric, better half", "agreement, better half",
                     "metric, lost", "agreement, lost"), rows(hits, distances)))  # fmt: skip
    print("Spearman's rank correlation with the accuracy on all other images, over all plans and over the better half "
          f"of them; and how many points of accuracy the plan taken lies below the best. Means over {DRAWS} draws.\n")
    print(conditions(before, **vars(options)))


def rows(hits: NDArray[np.float64], distances: NDArray[np.float64]) -> list[tuple[str, ...]]:
    """Return the table's rows; both arrays are (plans, images)."""
    better = hits.mean(1) >= np.median(hits.mean(1))
    found = []
    for few in (n for n in FEW if n <= hits.shape[1] // 2):
        rng, told = np.random.default_rng(few), []
        for _ in range(DRAWS):
            order = rng.permutation(hits.shape[1])
            truth = hits[:, order[few:]].mean(1)
            scores = hits[:, order[:few]].mean(1), -distances[:, order[:few]].mean(1)
            told.append([
                *(spearmanr(one, truth)[0] for one in scores),
                *(spearmanr(one[better], truth[better])[0] for one in scores),
                *(100 * (truth.max() - truth[one.argmax()]) for one in scores),
            ])  # fmt: skip
        means = np.mean(told, axis=0)
        found.append((str(few), *(f"{value:.2f}" for value in means)))
    return found


def measured(network: str, options: argparse.Namespace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return whether each plan is right on each image, and how far its outputs lie from the original's there."""
    space, scorer = scoring(network, options)
    model, task, way, indices = scorer.model, scorer.task, scorer.way, scorer.indices
    dense = Kept(task, indices, lambda images: way.predict(way.dress(model.clone()), images))
    with threads(1), ThreadPoolExecutor() as pool:
        kept = list(pool.map(lambda plan: Kept(task, indices, scorer.predict(plan)), drawn(space, options.plans)))
    return np.array([one.hits for one in kept]), np.array([one.distances(task, dense) for one in kept])


def parser_of(description: str, plans: int, images: int, criterion: str) -> argparse.ArgumentParser:
    """Return a parser of what ``scoring`` takes, with these defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--plans", type=int, default=plans)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--criterion", default=criterion)
    return parser


def scoring(network: str, options: argparse.Namespace) -> tuple[Space, Scorer]:
    """Return the plans under a share of a trained network's MACs, and who scores them as a search does."""
    model, task = opened(network, data_pack())
    task = dataclasses.replace(task, calibration=options.calibration)
    step, target = Sparsify(criterion=options.criterion), board.load("host-cpu")
    cost = step.rows(model, target)
    ranking = step.ranking(model, cost.groups, task, 0)
    seen = first_images(task.calibration_batches(), options.calibration)
    way = agreed(model, torch.cat(seen)[:64].numpy())
    whole = next(split.n for split in task.splits() if split.name == "search")
    indices = sorted(np.random.default_rng(0).permutation(whole)[: options.images].tolist())
    scorer = Scorer(model, cost.groups, ranking, task, step.surgery, way, indices, seen).by(way)
    return Space(cost, {"macs": options.share * cost.full["macs"]}, ranking), scorer


class Kept:
    """A model's outputs for images of the search split, and which of them are right."""

    def __init__(self, task: Task, indices: Sequence[int], predict: Predict) -> None:
        parts: list[NDArray[np.float32]] = []

        def asked(images: NDArray[np.float32]) -> NDArray[np.float32]:
            parts.append(predict(images))
            return parts[-1]

        self.hits = task.score(asked, "search", indices).per_item
        self.outputs = torch.from_numpy(np.concatenate(parts))

    def distances(self, task: Task, other: Kept) -> list[float]:
        """Return how far the outputs lie from another's, image by image."""
        pairs = ((self.outputs[i : i + 1], other.outputs[i : i + 1]) for i in range(len(self.outputs)))
        return [task.distance(one, wanted, TEMPERATURE).item() for one, wanted in pairs]


def drawn(space: Space, count: int) -> list[Widths]:
    """Return the two global rankings and as many like them as make ``count`` plans."""
    rng, kinds = np.random.default_rng(1), (alone(space), priced(space))
    found = dict.fromkeys(ranked(space, one) for one in kinds)
    while len(found) < count:
        strength, kind = rng.choice(STRENGTHS), kinds[rng.integers(2)]
        found[ranked(space, {at: told * np.exp(strength * rng.standard_normal()) for at, told in kind.items()})] = None
    return list(found)[:count]


if __name__ == "__main__":
    main(sys.argv[1:])
