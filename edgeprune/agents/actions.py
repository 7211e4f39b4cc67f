"""How an episode spells a plan: which action does what at which step, and which of them are legal. No torch here.

    ladder          a rung of each group's ladder, or its block dropped
    quarters        0, 25, 50, 75 or 100 % of each group removed (AKPERL); 100 % where that drops a residual block
    step            a rung wider, as it is, or a rung narrower: three sweeps from the uniform plan (the driving paper)
    keep-or-prune   keep a group as it is, or take a fixed share of what is left: repeated sweeps (DepGraphRL)

Each offers the search no more widths than it can spell, so that baselines, surrogate and agent choose among the same
plans (``step`` reaches three rungs either way of the uniform plan). The wall is exact: an action is legal iff a plan
under the ceilings can still be reached after it, with ``step``, every state of which is a plan, iff that one fits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.agents.space import Space
from edgeprune.agents.uniform import even_plan
from edgeprune.errors import BadOption, nearest
from edgeprune.groups import DROP, FRACTIONS, CostModel, Group, Widths

SWEEPS = 3
"""Visits of each group by ``step``."""
MOST_SWEEPS = 10
"""Visits of each group by ``keep-or-prune``, at most, as DepGraphRL has them."""
QUARTERS = (1.0, 0.75, 0.5, 0.25)


class Actions(ABC):
    """An action space over the free groups of a space.

    A *state* is a tuple of widths of free groups: those chosen so far, or all as they stand. Actions are
    0 … ``count`` − 1 and keep less the higher they are; an episode has ``steps`` of them.
    """

    name: ClassVar[str]
    count: int
    steps: int

    def __init__(self, space: Space) -> None:
        self.space = space
        self._full = space.full()

    @abstractmethod
    def begin(self) -> Widths:
        """Return the state of an episode's start."""

    @abstractmethod
    def legal(self, state: Widths, step: int) -> NDArray[np.bool_]:
        """Return which actions leave a plan under the ceilings in reach, shape (count,); never none."""

    @abstractmethod
    def after(self, state: Widths, step: int, action: int) -> Widths:
        """Return the state that a legal action leads to."""

    @abstractmethod
    def walk(self, widths: Widths) -> list[int]:
        """Return the legal actions of the episode that ends in a feasible plan, or as near to it as can be."""

    @abstractmethod
    def least(self, state: Widths, step: int) -> Widths:
        """Return the cheapest plan in reach."""

    @abstractmethod
    def most(self, state: Widths, step: int) -> Widths:
        """Return the dearest plan in reach, were there no ceiling."""

    def at(self, step: int) -> int:
        """Return the position among the free groups that a step is about."""
        return step % len(self.space.free)

    def plan(self, state: Widths) -> Widths:
        """Return the canonical plan of a state; what has not been chosen yet stands at full width."""
        return self.space.canonical(self.space.complete(state, self._full))

    def drops(self, action: int) -> bool:
        """Whether an action drops a block."""
        return False


class Ladder(Actions):
    """One action for each fraction kept, then dropping the block: the same for every network, so that a policy can be
    moved between them. Groups in topological order, one step each.
    """

    name = "ladder"
    fractions: ClassVar[tuple[float, ...]] = FRACTIONS

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.count, self.steps = len(self.fractions) + 1, len(space.free)
        self._actions = [actions_of(options, self.fractions) for options in space.options]
        self._floor = space.minimum()

    def begin(self) -> Widths:
        """Nothing is chosen yet."""
        return ()

    def legal(self, state: Widths, step: int) -> NDArray[np.bool_]:
        """Return the space's wall. In a block that was dropped the only legal action is 0."""
        mask = np.zeros(self.count, bool)
        mask[[a for a, ok in zip(self._actions[step], self.space.legal(state), strict=True) if ok]] = True
        return mask

    def after(self, state: Widths, step: int, action: int) -> Widths:
        """Choose the next group's width."""
        return (*state, self.space.options[step][self._actions[step].index(action)])

    def walk(self, widths: Widths) -> list[int]:
        """Return the actions of exactly this plan."""
        choices = self.space.choices(self.space.canonical(widths))
        return [actions[options.index(width)]
                for actions, options, width in zip(self._actions, self.space.options, choices, strict=True)]

    def least(self, state: Widths, step: int) -> Widths:
        """Everything still to choose goes."""
        return self.space.complete(state, self._floor)

    def most(self, state: Widths, step: int) -> Widths:
        """Everything still to choose stays."""
        return self.space.complete(state, self._full)

    def drops(self, action: int) -> bool:
        """The last action does."""
        return action == self.count - 1


class Quarters(Ladder):
    """AKPERL's five actions. Its 100 % would cut the network in two anywhere but in a residual block."""

    name = "quarters"
    fractions = QUARTERS


class _Sweeping(Actions):
    """Every group is visited once a sweep; all of them always have a width. Blocks are not dropped."""

    def __init__(self, space: Space, sweeps: int) -> None:
        super().__init__(space)
        self.sweeps = sweeps
        self.steps = sweeps * len(space.free)

    def _visits(self, step: int) -> list[int]:
        """Return how often each group is still visited, the step ahead included."""
        groups = len(self.space.free)
        return [self.sweeps - step // groups - (at < step % groups) for at in range(groups)]

    def _moved(self, state: Widths, by: Sequence[int]) -> Widths:
        """Return all groups moved down their options by so many rungs, as far as there are any."""
        return tuple(options[min(max(options.index(width) + n, 0), len(options) - 1)]
                     for options, width, n in zip(self.space.options, state, by, strict=True))  # fmt: skip

    def _one(self, state: Widths, step: int, by: int) -> Widths:
        at, options = self.at(step), self.space.options[self.at(step)]
        place = options.index(state[at]) + by
        return (*state[:at], options[place], *state[at + 1 :]) if 0 <= place < len(options) else ()

    def _fits(self, state: Widths) -> bool:
        return self.space.share(self.space.complete(state, self._full)) <= 1.0

    def least(self, state: Widths, step: int) -> Widths:
        """Every visit to come takes a rung."""
        return self.space.complete(self._moved(state, self._visits(step)), self._full)


class Step(_Sweeping):
    """The driving paper's raising and lowering of each layer's sparsity: 0 widens a group by a rung, 1 leaves it, 2
    narrows it. Begins at the uniform plan that fits; whatever is reached fits too.
    """

    name = "step"
    count = 3

    def __init__(self, space: Space) -> None:
        super().__init__(space, SWEEPS)
        self._begin = space.choices(even_plan(space))

    def begin(self) -> Widths:
        """Return the uniform plan."""
        return self._begin

    def legal(self, state: Widths, step: int) -> NDArray[np.bool_]:
        """Holding always is; the others where there is such a rung, and it fits."""
        moved = [self._one(state, step, by) for by in (-1, 0, 1)]
        return np.array([bool(moved[0]) and self._fits(moved[0]), True, bool(moved[2])])

    def after(self, state: Widths, step: int, action: int) -> Widths:
        """Move the group by a rung."""
        return self._one(state, step, action - 1)

    def walk(self, widths: Widths) -> list[int]:
        """Move every group towards its width as soon as that fits, for as many sweeps as there are."""
        goal, state, actions = self.space.choices(self.space.canonical(widths)), self._begin, list[int]()
        for step in range(self.steps):
            at = self.at(step)
            wanted = 1 + (state[at] > goal[at]) - (state[at] < goal[at])
            actions.append(wanted if self.legal(state, step)[wanted] else 1)
            state = self.after(state, step, actions[-1])
        return actions

    def most(self, state: Widths, step: int) -> Widths:
        """Every visit to come gives a rung."""
        return self.space.complete(self._moved(state, [-n for n in self._visits(step)]), self._full)


class KeepOrPrune(_Sweeping):
    """DepGraphRL's decision a group: 0 keeps it, 1 takes a fixed share of what is left of it. Its continuous action,
    rounded to 0 or 1, is what a Bernoulli draw says outright.

    As many sweeps as take the widest group to its least, at most MOST_SWEEPS.
    """

    name = "keep-or-prune"
    count = 2

    def __init__(self, space: Space) -> None:
        super().__init__(space, min(MOST_SWEEPS, max(map(len, space.options)) - 1))

    def begin(self) -> Widths:
        """Return the original."""
        return self.space.choices(self._full)

    def legal(self, state: Widths, step: int) -> NDArray[np.bool_]:
        """Pruning is where there is a rung below, keeping where pruning at every visit to come is enough."""
        visits = self._visits(step)
        visits[self.at(step)] -= 1
        return np.array([self._fits(self._moved(state, visits)), bool(self._one(state, step, 1))])

    def after(self, state: Widths, step: int, action: int) -> Widths:
        """Keep the group, or take it a rung down."""
        return self._one(state, step, action)

    def walk(self, widths: Widths) -> list[int]:
        """Prune every group in the first sweeps, as often as its width asks for."""
        goal, state, actions = self.space.choices(self.space.canonical(widths)), self.begin(), list[int]()
        for step in range(self.steps):
            actions.append(int(state[self.at(step)] > goal[self.at(step)]))
            state = self.after(state, step, actions[-1])
        return actions

    def most(self, state: Widths, step: int) -> Widths:
        """Nothing more goes."""
        return self.space.complete(state, self._full)


ACTIONS: dict[str, type[Actions]] = {one.name: one for one in (Ladder, Quarters, Step, KeepOrPrune)}


def require_known(name: str) -> None:
    """Raise BadOption, naming the nearest, unless there is such an action space."""
    if name not in ACTIONS:
        raise BadOption(f"unknown actions {name!r}{nearest(name, ACTIONS)}")


def offering(cost: CostModel, name: str, ratio: float) -> CostModel:
    """Return the same costs over groups that offer what an action space can spell; ``ratio`` is what ``keep-or-prune``
    takes of a group each time.
    """
    if name == Ladder.name:
        return cost
    if name == Step.name:
        return cost.offering([replace(group, block=None) for group in cost.groups])
    if name == Quarters.name:
        return cost.offering([_nearest(group, QUARTERS) for group in cost.groups])
    powers = [(1.0 - ratio) ** sweep for sweep in range(MOST_SWEEPS + 1)]
    return cost.offering([replace(_nearest(group, powers), block=None) for group in cost.groups])


def _nearest(group: Group, fractions: Sequence[float]) -> Group:
    """Return a group that offers of its rungs those nearest to fractions of its channels."""
    rungs = {min(group.ladder, key=lambda rung: (abs(rung - f * group.channels), -rung)) for f in fractions}
    return replace(group, ladder=tuple(sorted(rungs, reverse=True)))


def actions_of(options: Widths, fractions: Sequence[float] = FRACTIONS) -> tuple[int, ...]:
    """Return the action that stands for each of a group's options, strictly increasing.

    Action i keeps ``fractions[i]`` of the channels (0: all of them), the one after the last drops the block. A ladder
    whose rungs coincide leaves actions without a meaning at this group: those are never legal.
    """
    rungs = [width for width in options if width != DROP]
    actions = [0]
    for i, width in enumerate(rungs[1:], start=1):
        nearest_one = min(range(len(fractions)), key=lambda f: abs(fractions[f] - width / rungs[0]))
        actions.append(min(max(nearest_one, actions[-1] + 1), len(fractions) - len(rungs) + i))
    return tuple(actions) + ((len(fractions),) if len(rungs) < len(options) else ())
