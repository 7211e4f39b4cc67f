"""Bayesian optimisation: the surrogate that the learning agents imagine on, searched without any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.drawing import draw
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.imagined import BATCH, Imagined, promising
from edgeprune.agents.surrogate import Surrogate
from edgeprune.groups import Widths


@dataclass(frozen=True)
class Bayesian(Agent):
    """``first`` random plans (start plans among them), then batches of what the surrogate promises most.

    What a learning agent gains over this one is what its policy adds: both spend their evaluations in the same way.
    """

    name: ClassVar[str] = "bayesian"
    first: int = 32
    boldness: float = 0.5
    low: float = 0.97
    draws: int = 500

    def __post_init__(self) -> None:
        at_least(self, first=1, boldness=0, low=0, draws=1)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Evaluate the first plans, then batches, until the allowance is spent or nothing is new."""
        rng, account, surrogate = np.random.default_rng(seed), env.account, Surrogate(env.space)
        plans = dict.fromkeys(start)
        for _ in range(self.first):
            plans[draw(env.space, rng, self.low, self.draws)] = None
        first = list(plans)
        for at in range(0, len(first), BATCH):
            account.scores(first[at : at + BATCH])
        dream = Imagined(account, surrogate, self.boldness)
        with threadpool_limits(1):
            while account.left:
                surrogate.fit(account.evaluator.lessons)
                dream.forget()
                count = min(BATCH, account.left)
                if surrogate.ready:
                    new = promising(dream, [], rng, count)
                else:  # too few to learn from: more of the first kind
                    drawn = dict.fromkeys(draw(env.space, rng, self.low, self.draws) for _ in range(4 * count))
                    new = [plan for plan in drawn if plan not in account.evaluator.known][:count]
                if not new:
                    return
                account.scores(new)
