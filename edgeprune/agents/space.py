"""The search space: which plans there are, what they cost, and the wall that keeps them feasible. No torch here."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BadOption, Infeasible, UnmetRequirement
from edgeprune.groups import DROP, CostModel, Widths, canonical

_WORDS = {"macs": "MACs", "parameters": "parameters", "latency": "predicted latency", "energy": "predicted energy"}
_REMEMBERED = 200_000
"""Plans whose costs are kept: some hundred bytes each."""


@dataclass(frozen=True, eq=False)
class Space:
    """Every plan a search may propose, under absolute ceilings on what the cost algebra knows:
    ``macs``, ``parameters``, and ``latency`` or ``energy`` where there is a tally of it.

    ``importance`` tells how much each channel of a group matters, by the group's name and in no unit, to whoever goes
    by it. Widths name every group of ``cost``; *choices* name the free ones alone (those with more than one option), in
    the same order. The cost of a plan must not fall when a width grows, which holds for the cost algebra.

    Raises UnmetRequirement if no group is free, BadOption for a quantity the algebra does not know, and Infeasible,
    naming the reachable range, if the smallest plan breaks a ceiling.
    """

    cost: CostModel
    limits: Mapping[str, float]
    importance: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for quantity in self.limits:
            if quantity not in self.cost.full:
                raise BadOption(f"a search cannot limit {quantity}; it can limit {', '.join(self.cost.full)}")
        if not self.free:
            raise UnmetRequirement("no group of this model can be pruned; `edgeprune inspect` says why for each")
        smallest = self.cost.cost(self.minimum())
        for quantity, limit in self.limits.items():
            if smallest[quantity] > limit:
                full, word = self.cost.full[quantity], _WORDS[quantity]
                reach = math.ceil(1000 * smallest[quantity] / full) / 1000
                raise Infeasible(
                    f"the ceiling of {limit:.4g} {word} ({limit / full:.3f}x of the original's) is out of reach: "
                    f"the smallest reachable is {reach:.3f}x of the original's {word}; "
                    f"set --max-{quantity} to {reach:.3f}x or more"
                )

    @cached_property
    def free(self) -> tuple[int, ...]:
        """Indices of the groups that have a choice, in topological order: the steps of an episode."""
        return tuple(i for i, group in enumerate(self.cost.groups) if len(group.options()) > 1)

    @cached_property
    def options(self) -> tuple[Widths, ...]:
        """The widths on offer at each free group, from the widest to the cheapest (DROP last)."""
        return tuple(self.cost.groups[i].options() for i in self.free)

    @cached_property
    def openers(self) -> tuple[int | None, ...]:
        """For each free group the position in ``free`` of the group that may drop the block around it, or None."""
        opened = {self.cost.groups[i].block: at for at, i in enumerate(self.free) if self.cost.groups[i].block}
        inside = [opened.get(self.cost.groups[i].inside) for i in self.free]
        return tuple(None if at is None or at >= step else at for step, at in enumerate(inside))

    def complete(self, choices: Sequence[int], rest: Widths) -> Widths:
        """Return the widths whose first free groups take ``choices`` and whose other groups stand as in ``rest``."""
        widths = list(rest)
        for i, width in zip(self.free, choices, strict=False):
            widths[i] = width
        return tuple(widths)

    def choices(self, widths: Widths) -> Widths:
        """Return the widths of the free groups alone."""
        return tuple(widths[i] for i in self.free)

    def full(self) -> Widths:
        """Return the original's widths."""
        return tuple(group.channels for group in self.cost.groups)

    def minimum(self) -> Widths:
        """Return the cheapest plan: every free group dropped where that is on offer, else on its lowest rung.

        Not canonical: groups inside a dropped block stand on their lowest rung too, as the wall needs it.
        """
        return self.complete([options[-1] for options in self.options], self.full())

    def canonical(self, widths: Sequence[int]) -> Widths:
        """Return the one spelling of a plan: groups inside a dropped block stand at full width."""
        return canonical(self.cost.groups, widths)

    def costs(self, widths: Sequence[int]) -> Mapping[str, float]:
        """Return what the algebra says of a plan; thousands of episodes pass the same plans again and again."""
        key = tuple(widths)
        if key not in self._costs:
            if len(self._costs) >= _REMEMBERED:
                self._costs.clear()
            self._costs[key] = self.cost.cost(key)
        return self._costs[key]

    @cached_property
    def _costs(self) -> dict[Widths, Mapping[str, float]]:
        return {}

    def share(self, widths: Sequence[int]) -> float:
        """Return the cost as a share of its ceiling, the largest over the ceilings; at most 1 is feasible."""
        cost = self.costs(widths)
        return max((cost[quantity] / limit for quantity, limit in self.limits.items()), default=0.0)

    def excess(self, widths: Sequence[int]) -> float:
        """Return by how much the ceilings are broken, as the sum of the shares above 1; 0 is feasible."""
        cost = self.costs(widths)
        return sum(max(0.0, cost[quantity] / limit - 1.0) for quantity, limit in self.limits.items())

    def skipped(self, choices: Sequence[int]) -> bool:
        """Whether the next free group lies in a block that ``choices`` already dropped."""
        opener = self.openers[len(choices)]
        return opener is not None and choices[opener] == DROP

    def legal(self, choices: Sequence[int]) -> tuple[bool, ...]:
        """Return the action wall at the next free group: which of its options leave a feasible plan in reach.

        An option is legal iff the choices so far, the option, and everything after at its cheapest fit the ceilings.
        Costs fall along the options, so the first legal one is bisected. Inside a dropped block only full width is
        legal. At least one option is legal as long as the choices before were.
        """
        step = len(choices)
        options = self.options[step]
        if self.skipped(choices):
            return (True,) + (False,) * (len(options) - 1)
        rest = list(self.complete(choices, self._minimum))

        def fits(option: int) -> bool:
            rest[self.free[step]] = options[option]
            return self.share(rest) <= 1.0

        first = bisect_left(range(len(options) - 1), True, key=fits)
        return (False,) * first + (True,) * (len(options) - first)

    @cached_property
    def _minimum(self) -> Widths:
        return self.minimum()
