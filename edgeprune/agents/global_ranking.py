"""All channels in one ranking: those that matter least go, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.agents.base import Agent
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.space import Space
from edgeprune.agents.table import evaluate_first
from edgeprune.agents.uniform import fitted
from edgeprune.budget import largest
from edgeprune.groups import Widths, nearest

Ranking = Mapping[int, NDArray[np.float64]]
"""What each channel of a free group counts for, by the group's index."""


@dataclass(frozen=True)
class GlobalRanking(Agent):
    """Two evaluations: one threshold for all groups, on importance alone and on importance for the cost it comes at.

    The first is what Torch-Pruning calls ``global_pruning``: importance is the criterion's, and each group's is divided
    by its mean, for layers differ in scale (Fang et al., CVPR 2023, section 3.3). The second divides it by the share of
    the ceilings that a channel of the group takes in the original. Widths are the rungs nearest to what the threshold
    leaves, and what is left of the ceilings widens the groups whose next channels count for most. Blocks are dropped
    only if no threshold fits.
    """

    name: ClassVar[str] = "global-ranking"

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Evaluate the two plans, or the one that both are."""
        evaluate_first(env.account, plans(env.space))


def plans(space: Space) -> list[Widths]:
    """Return the two plans, or the one that both are."""
    return list(dict.fromkeys((ranked(space, alone(space)), ranked(space, priced(space)))))


def alone(space: Space) -> Ranking:
    """Return every channel's importance, of each group in the mean 1; a group that none is told of has 1 throughout."""
    found = {}
    for at in space.free:
        group = space.cost.groups[at]
        told = np.asarray(space.importance.get(group.name, np.ones(group.channels)), np.float64)
        found[at] = told / told.mean() if told.any() else np.ones(group.channels)
    return found


def priced(space: Space) -> Ranking:
    """Return ``alone`` divided by the share of the ceilings that each channel takes, where it takes any."""
    full = space.full()
    found = {}
    for at, told in alone(space).items():
        lowest = space.cost.groups[at].ladder[-1]
        saved = space.share(full) - space.share((*full[:at], lowest, *full[at + 1 :]))
        price = saved / (full[at] - lowest) if full[at] > lowest else 0.0
        found[at] = told / price if price > 0.0 else np.full(full[at], np.inf)
    return found


def ranked(space: Space, ranking: Ranking) -> Widths:
    """Return the plan of the lowest threshold that fits, then widened as far as the ceilings allow, best first."""
    thresholds = np.unique(np.concatenate(list(ranking.values())))[::-1]

    def plan(kept: int) -> Widths:
        """Keep what counts for no less than the ``kept`` highest thresholds; of 0 as little as can be, even where that
        alone saves nothing: under several ceilings, or together with others, it may.
        """
        widths = list(space.full())
        for at, told in ranking.items():
            left = int((told >= thresholds[kept - 1]).sum()) if kept else 0
            widths[at] = nearest(space.cost.groups[at], left)
        return tuple(widths)

    widths = fitted(space, plan(largest(len(thresholds), lambda kept: space.share(plan(kept)) <= 1.0)))
    order = {at: np.sort(told)[::-1] for at, told in ranking.items()}
    while True:
        wider = []
        for at, told in order.items():
            above = [rung for rung in space.cost.groups[at].ladder if rung > widths[at] > 0]
            if above:
                tried = (*widths[:at], min(above), *widths[at + 1 :])
                wider.append((float(told[widths[at] : min(above)].mean()), tried))
        fitting = [one for one in wider if space.share(one[1]) <= 1.0]
        if not fitting:
            return space.canonical(widths)
        widths = max(fitting)[1]
