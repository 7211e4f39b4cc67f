"""Plans by chance, at the cost that was allowed: what random search draws and evolution mends its children by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.agents.space import Space
from edgeprune.groups import Widths


def draw(space: Space, rng: np.random.Generator, low: float, draws: int) -> Widths:
    """Return a random plan whose cost lies in [``low``, 1] of the ceiling, or as near below as can be reached.

    Every group's option is drawn uniformly until the cost fits. The draws do not go through the action wall: that would
    push them towards plans that keep much at the front and little at the back. After ``draws`` misses the best-fitting
    draw is moved into the window.
    """
    closest, distance = space.minimum(), 1.0 - space.share(space.minimum())
    for _ in range(draws):
        picks = [options[rng.integers(len(options))] for options in space.options]
        plan = space.complete(picks, space.full())
        share = space.share(plan)
        if low <= share <= 1.0:
            return space.canonical(plan)
        if abs(1.0 - share) < distance:
            closest, distance = plan, abs(1.0 - share)
    return settle(space, closest, rng, low)


def settle(space: Space, plan: Widths, rng: np.random.Generator, low: float) -> Widths:
    """Move random groups one option down until the plan fits, then up as long as it still does and is below ``low``."""
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
            if low <= space.share(space.complete(choices, full)) or space.share(space.complete(wider, full)) > 1.0:
                break
            choices = wider
    return space.canonical(space.complete(choices, full))


def breed(
    space: Space, elite: Sequence[Widths], rng: np.random.Generator, crossover: float = 0.5, changes: float = 2.0,
    low: float = 0.97,
) -> Widths:
    """Return a child of plans that score well, ``elite`` being best first.

    Parents are the better of two drawn; a child takes each group from either (with the chance ``crossover``, else all
    from one), moves ``changes`` groups on average by a rung or two, and is settled into [``low``, 1] of the ceiling.
    """

    def parent() -> Widths:
        return space.choices(elite[int(rng.integers(len(elite), size=2).min())])

    one, other = parent(), parent()
    mixed = rng.random() < crossover
    choices = [b if mixed and rng.random() < 0.5 else a for a, b in zip(one, other, strict=True)]
    for at, options in enumerate(space.options):
        if rng.random() < changes / len(space.free):
            moved = options.index(choices[at]) + int(rng.choice([-2, -1, 1, 2]))
            choices[at] = options[min(max(moved, 0), len(options) - 1)]
    return settle(space, space.complete(choices, space.full()), rng, low)
