"""Uniform pruning that spends its whole allowance: the baseline that an agent has to beat at the same size.

Widths come in eighths here, so that the largest fraction that fits everywhere may leave a third of the parameters
allowed unused: at 25 % it keeps 14. An agent that uses them all would win by that alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgeprune.agents.base import Agent, Space
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.uniform import uniform_plan
from edgeprune.groups import Widths


@dataclass(frozen=True)
class Even(Agent):
    """One evaluation: the largest fraction kept everywhere that fits, then one rung more where that still fits."""

    name: ClassVar[str] = "uniform"

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Evaluate the one plan."""
        env.account.scores([even_plan(env.space)])


def even_plan(space: Space) -> Widths:
    """Return the uniform plan, with as many groups as fit one rung wider, those first that cost the least for it.

    No group is further than a rung from the same fraction of all.
    """
    widths = uniform_plan(space)
    wider = {}
    for at in space.free:
        above = [rung for rung in space.cost.groups[at].ladder if rung > widths[at] > 0]
        if above:
            wider[at] = (*widths[:at], min(above), *widths[at + 1 :])
    for at in sorted(wider, key=lambda at: space.share(wider[at])):
        tried = (*widths[:at], wider[at][at], *widths[at + 1 :])
        if space.share(tried) <= 1.0:
            widths = tried
    return space.canonical(widths)
