"""The plan everyone tries first: the same fraction kept in every group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune.agents.base import Agent
from edgeprune.agents.space import Space
from edgeprune.budget import largest
from edgeprune.groups import DROP, Widths, uniform

if TYPE_CHECKING:
    from edgeprune.agents.env import SparsityEnv  # whose action spaces begin at plans of this file

_GRAIN = 1000


@dataclass(frozen=True)
class Uniform(Agent):
    """One evaluation: the largest fraction kept everywhere that fits, then what is left of the ceiling spent evenly.

    Widths come in eighths or coarser, so that the largest fraction alone may leave a third of the ceiling unused, and
    would lose by that to any search that uses it. Blocks are dropped only if no fraction fits.
    """

    name: ClassVar[str] = "uniform"

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Evaluate the one plan."""
        env.account.scores([even_plan(env.space)])


def uniform_plan(space: Space) -> Widths:
    """Return the largest uniform plan that fits, found by bisecting the fraction kept to 1/1000.

    Where even the lowest rungs are too much, whole blocks go as well, the one that saves most first.
    """
    def plan(thousandths: int) -> Widths:
        return uniform(space.cost.groups, thousandths / _GRAIN)

    return fitted(space, plan(largest(_GRAIN, lambda k: space.share(plan(k)) <= 1.0)))


def fitted(space: Space, widths: Widths) -> Widths:
    """Return a plan that fits: this one, or less whole blocks, the one that saves most first."""
    droppable = [i for i in space.free if space.cost.groups[i].block]
    while space.share(widths) > 1.0:
        shorter = {i: (*widths[:i], DROP, *widths[i + 1:]) for i in droppable if widths[i] != DROP}
        widths = min(shorter.values(), key=space.excess)
    return space.canonical(widths)


def even_plan(space: Space) -> Widths:
    """Return the uniform plan with as many groups as fit one rung wider, those first that cost the least for it.

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
