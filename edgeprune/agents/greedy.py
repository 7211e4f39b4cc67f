"""Greedy by sensitivity: cut where the table says it hurts least per MAC saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.table import climb, evaluate_first, sensitivity
from edgeprune.groups import Widths


@dataclass(frozen=True)
class Greedy(Agent):
    """Two or three evaluations a group for the table, then the plan it leads to and ``variants`` near ones; with
    ``climbing``, what is left goes on from the best of them by true scores.
    """

    name: ClassVar[str] = "greedy"
    variants: int = 4
    climbing: bool = True

    def __post_init__(self) -> None:
        at_least(self, variants=0)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Measure the table, descend along it, and evaluate what comes out and its most promising neighbours."""
        table = sensitivity(env.account)
        plan = table.descend(env.space.full())
        evaluate_first(env.account, [plan, *table.neighbours(plan)[: self.variants]])
        if self.climbing:
            climb(env.account, table)
