"""Evolution: plans that score well are crossed and mutated, and their children judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.drawing import breed, draw
from edgeprune.agents.env import SparsityEnv
from edgeprune.groups import Widths


@dataclass(frozen=True)
class Evolution(Agent):
    """A steady population: ``population`` random plans (start plans among them), then ``children`` a generation.

    Parents are the better of two drawn from the ``parents`` best plans so far; a child takes each group from
    either parent (with the chance ``crossover``, else all from one), moves ``changes`` groups on average by a rung or
    two, and is settled into [``low``, 1] of the ceiling, as in the searches of EagleEye and Once-for-all. It ends early
    after ``patience`` children in a row that were known.
    """

    name: ClassVar[str] = "evolution"
    population: int = 32
    parents: int = 12
    children: int = 8
    crossover: float = 0.5
    changes: float = 2.0
    low: float = 0.97
    draws: int = 500
    patience: int = 200

    def __post_init__(self) -> None:
        at_least(self, population=1, parents=1, children=1, crossover=0, changes=0, low=0, draws=1, patience=1)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Evaluate the first population, then generations, until the allowance is spent."""
        rng = np.random.default_rng(seed)
        account, space = env.account, env.space
        first = dict.fromkeys(start)
        repeats = 0
        while len(first) < self.population and repeats < self.population:  # in a small space most draws repeat
            drawn = draw(space, rng, self.low, self.draws)
            repeats = repeats + 1 if drawn in first else 0
            first[drawn] = None
        plans = list(first)
        for at in range(0, len(plans), self.children):
            account.scores(plans[at : at + self.children])
        asked, stale = set(plans), 0
        while account.left and stale < self.patience:
            elite = account.elite(self.parents)
            batch: list[Widths] = []
            while len(batch) < min(self.children, account.left) and stale < self.patience:
                child = breed(space, elite, rng, self.crossover, self.changes, self.low)
                stale = stale + 1 if child in asked else 0
                batch += [] if child in asked else [child]
                asked.add(child)
            account.scores(batch)
