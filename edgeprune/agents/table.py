"""The sensitivity table: what cutting one group alone costs the score, and the greedy descent along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edgeprune.agents.base import Account
from edgeprune.agents.space import Space
from edgeprune.groups import DROP, Widths

_FRACTIONS = (0.5, 0.25)
_BATCH, _ELITE = 8, 8


@dataclass(frozen=True, eq=False)
class Table:
    """Predicted loss of every option of every free group, taken alone; ``losses[g][o]`` ≥ 0 goes with
    ``space.options[g][o]``.

    The prediction for a plan is their sum: no interaction between groups is known to it.
    """

    space: Space
    losses: tuple[tuple[float, ...], ...]

    def loss(self, widths: Widths) -> float:
        """Return the predicted loss of a plan."""
        choices = self.space.choices(self.space.canonical(widths))
        return sum(row[options.index(width)]
                   for row, options, width in zip(self.losses, self.space.options, choices, strict=True))

    def descend(self, widths: Widths) -> Widths:
        """Cut step by step, each with the least predicted loss per cost saved, until the plan fits.

        A step takes one group to its next rung or drops its block. Cost saved beyond the ceiling earns nothing.
        """
        space = self.space
        excess = space.excess(widths)
        while excess > 0.0:
            loss = self.loss(widths)
            steps = []
            for plan in self._shorter(widths):
                left = space.excess(plan)
                steps.append(((self.loss(plan) - loss) / max(excess - left, 1e-12), left, plan))
            _, excess, widths = min(steps)
        return space.canonical(widths)

    def _shorter(self, widths: Widths) -> list[Widths]:
        choices = self.space.choices(widths)
        plans = []
        for at, (options, width) in enumerate(zip(self.space.options, choices, strict=True)):
            later = options[options.index(width) + 1:]
            if later and not self.space.skipped(choices[:at]):
                nexts = {later[0], later[-1]} if later[-1] == DROP else {later[0]}
                plans += [self.space.complete([*choices[:at], w], widths) for w in sorted(nexts)]
        return plans

    def neighbours(self, widths: Widths) -> list[Widths]:
        """Return the feasible plans that widen at most one group by a rung and cut at most one other, by predicted
        loss.
        """
        space, found = self.space, set()
        choices = space.choices(widths)
        for at, (options, width) in enumerate(zip(space.options, choices, strict=True)):
            if width == options[0] or space.skipped(choices[:at]):
                continue
            wider = space.complete([*choices[:at], options[options.index(width) - 1]], widths)
            found |= {space.canonical(plan) for plan in [wider, *self._shorter(wider)] if space.share(plan) <= 1.0}
        return sorted(found - {widths}, key=lambda plan: (self.loss(plan), plan))


def sensitivity(account: Account) -> Table:
    """Measure the table: the original, then each free group alone at about 1/2, then dropped, then at about 1/4.

    One evaluation is held back for the plan the table leads to; where the allowance ends sooner, what was not
    measured is filled in. Between points the loss is linear in the fraction kept; beyond them it follows the last
    slope; it never falls as a group shrinks. A group without any point of its own loses, per share of its own
    channels, the mean of the others, which without any point at all makes a table of plain channel fractions.
    """
    space = account.space
    probes = _probes(space)
    plans = [space.full(), *(_alone(space, at, width) for at, width in probes)]
    plans = account.affordable(plans, reserve=1)
    scores = account.scores(plans)
    points: list[dict[int, float]] = [{} for _ in space.free]
    for (at, width), score in zip(probes, scores[1:], strict=False):
        points[at][width] = max(0.0, scores[0] - score)
    slopes = [loss / (1.0 - width / options[0])
              for options, found in zip(space.options, points, strict=True) for width, loss in found.items()]
    slope = float(np.mean(slopes)) if slopes else 1.0
    rows = (_row(options, found, slope) for options, found in zip(space.options, points, strict=True))
    return Table(space, tuple(rows))


def table_evaluations(space: Space) -> int:
    """Return how many evaluations a whole table takes."""
    return 1 + len(_probes(space))


def _probes(space: Space) -> list[tuple[int, int]]:
    """Return the (free group, width) pairs to measure, in order of how much they tell; each once."""
    found: dict[tuple[int, int], None] = {}
    rungs = [[w for w in options if w != DROP] for options in space.options]
    for fraction in (_FRACTIONS[0], None, _FRACTIONS[1]):
        for at, (options, ladder) in enumerate(zip(space.options, rungs, strict=True)):
            if fraction is None and options[-1] == DROP:
                found[at, DROP] = None
            elif fraction is not None and len(ladder) > 1:
                found[at, min((abs(w - fraction * ladder[0]), -w, w) for w in ladder[1:])[-1]] = None
    return list(found)


def _alone(space: Space, at: int, width: int) -> Widths:
    return space.complete([*space.choices(space.full())[:at], width], space.full())


def _row(options: Widths, points: Mapping[int, float], slope: float) -> tuple[float, ...]:
    """Interpolate one group's losses over its options."""
    full = options[0]
    xs = [0.0, *sorted(1.0 - w / full for w in points if w != DROP)]
    ys = [0.0, *(points[w] for w in sorted((w for w in points if w != DROP), reverse=True))]
    ys = np.maximum.accumulate(ys).tolist()
    last = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) if len(xs) > 1 else slope
    losses = []
    for width in options:
        x = 1.0 - width / full
        if width == DROP and DROP in points:
            losses.append(points[DROP])
        else:
            losses.append(float(np.interp(x, xs, ys)) + max(0.0, x - xs[-1]) * last)
    return tuple(losses)


def evaluate_first(account: Account, plans: Sequence[Widths]) -> None:
    """Evaluate as many of the leading plans as the allowance still pays for."""
    affordable = account.affordable(plans)
    if affordable:
        account.scores(affordable)


def climb(account: Account, table: Table) -> None:
    """Spend what is left on neighbours of the best plan so far, those of least predicted loss first, eight at a time.

    Where one is better, its neighbours are next; where all are known, those of the next best plan are.
    """
    asked: set[Widths] = set()
    while account.left:
        near = (plan for best in account.elite(_ELITE) for plan in table.neighbours(best))
        batch = list(islice((plan for plan in dict.fromkeys(near) if plan not in asked), min(_BATCH, account.left)))
        if not batch:
            return
        account.scores(batch)
        asked.update(batch)
