"""Random plans of the right cost: what any search must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.space import Space
from edgeprune.groups import Widths

_BATCH = 8


@dataclass(frozen=True)
class Random(Agent):
    """Draws every group's option uniformly until the cost falls in [``low``, 1] of the ceiling.

    The draws do not go through the action wall: that would push them towards plans that keep much at the front and
    little at the back, and flatter whatever is compared with them. After ``draws`` misses the best-fitting draw is
    moved into the window one option at a time. The search ends early when ``patience`` plans in a row were known.
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
                plan = self.draw(env.space, rng)
                stale = stale + 1 if plan in asked else 0
                batch += [] if plan in asked else [plan]
                asked.add(plan)
            env.account.scores(batch)

    def draw(self, space: Space, rng: np.random.Generator) -> Widths:
        """Return one random plan that fits, within the window if it can be reached."""
        closest, distance = space.minimum(), 1.0 - space.share(space.minimum())
        for _ in range(self.draws):
            picks = [options[rng.integers(len(options))] for options in space.options]
            plan = space.complete(picks, space.full())
            share = space.share(plan)
            if self.low <= share <= 1.0:
                return space.canonical(plan)
            if abs(1.0 - share) < distance:
                closest, distance = plan, abs(1.0 - share)
        return space.canonical(self._settle(space, closest, rng))

    def _settle(self, space: Space, plan: Widths, rng: np.random.Generator) -> Widths:
        """Move random groups one option down until the plan fits, then up as long as it still does."""
        choices, steps = list(space.choices(plan)), len(space.free)
        full = space.full()
        while space.share(space.complete(choices, full)) > 1.0:
            at = int(rng.integers(steps))
            options = space.options[at]
            choices[at] = options[min(options.index(choices[at]) + 1, len(options) - 1)]
        for at in rng.permutation(steps).tolist():
            options = space.options[at]
            for width in options[max(options.index(choices[at]) - 1, 0)::-1]:
                wider = [*choices[:at], width, *choices[at + 1:]]
                if self.low <= space.share(space.complete(choices, full)) or space.share(
                        space.complete(wider, full)) > 1.0:
                    break
                choices = wider
        return space.complete(choices, full)
