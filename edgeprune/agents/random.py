"""Random plans of the right cost: what any search must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.drawing import draw
from edgeprune.agents.env import SparsityEnv
from edgeprune.groups import Widths

_BATCH = 8


@dataclass(frozen=True)
class Random(Agent):
    """Draws plans whose cost falls in [``low``, 1] of the ceiling (see ``drawing.draw``).

    The search ends early when ``patience`` plans in a row were known.
    """

    name: ClassVar[str] = "random"
    low: float = 0.97
    draws: int = 500
    patience: int = 50

    def __post_init__(self) -> None:
        at_least(self, low=0, draws=1, patience=1)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Evaluate plans in batches of 8 until the allowance is spent."""
        rng = np.random.default_rng(seed)
        asked: set[Widths] = set()
        stale = 0
        while env.account.left and stale < self.patience:
            batch: list[Widths] = []
            while len(batch) < min(_BATCH, env.account.left) and stale < self.patience:
                plan = draw(env.space, rng, self.low, self.draws)
                stale = stale + 1 if plan in asked else 0
                batch += [] if plan in asked else [plan]
                asked.add(plan)
            env.account.scores(batch)
