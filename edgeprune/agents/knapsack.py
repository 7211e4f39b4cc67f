"""One option a group under the ceilings as a knapsack, solved exactly on the sensitivity table.

The idea is HALP's (Shen et al., NeurIPS 2022): importance as value, cost as weight; here with measured losses and a
mixed-integer linear program instead of its augmented knapsack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.space import Space
from edgeprune.agents.table import Table, climb, evaluate_first, sensitivity
from edgeprune.groups import DROP, Widths

_GAP = 1e-3


@dataclass(frozen=True)
class Knapsack(Agent):
    """The table's losses summed, least under the ceilings.

    Cost is not a sum over groups (two neighbours' cuts multiply), so it is linearised around a plan, solved, and
    linearised again around the answer, ``rounds`` times; each answer is tightened along the table until its true cost
    fits. All distinct answers are evaluated, the best predicted first; with ``climbing``, what is left goes on from the
    best of them by true scores.
    """

    name: ClassVar[str] = "knapsack"
    rounds: int = 6
    climbing: bool = True

    def __post_init__(self) -> None:
        at_least(self, rounds=1)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Measure the table, solve, evaluate."""
        table = sensitivity(env.account)
        around = table.descend(env.space.full())
        found: dict[Widths, None] = {}
        for _ in range(self.rounds):
            solution = solve(table, around)
            if solution is None:
                break
            around = table.descend(solution)
            if around in found:
                break
            found[around] = None
        found = found or {around: None}
        evaluate_first(env.account, sorted(found, key=lambda plan: (table.loss(plan), plan)))
        if self.climbing:
            climb(env.account, table)


def solve(table: Table, around: Widths) -> Widths | None:
    """Return the plan of least predicted loss under the ceilings, costs being linear around the plan ``around``.

    Every group takes one option, or is gone with the block around it, which costs and loses nothing beside what
    dropping the block does. None if the linearised problem has no solution (its true one may).
    """
    space = table.space
    where = [(at, option) for at, options in enumerate(space.options) for option in range(len(options))]
    index = {pair: i for i, pair in enumerate(where)}
    gone = [(at, opener) for at, opener in enumerate(space.openers)
            if opener is not None and space.options[opener][-1] == DROP]  # fmt: skip
    one = np.zeros((len(space.free), len(where) + len(gone)))
    for i, (at, _) in enumerate([*where, *gone]):
        one[at, i] = 1.0
    constraints = [LinearConstraint(one, 1.0, 1.0)]
    if gone:
        together = np.zeros((len(gone), one.shape[1]))
        for i, (_, opener) in enumerate(gone):
            together[i, len(where) + i], together[i, index[opener, len(space.options[opener]) - 1]] = 1.0, -1.0
        constraints.append(LinearConstraint(together, 0.0, 0.0))
    nothing = np.zeros(len(gone))
    constraints += [
        LinearConstraint(np.append(row, nothing), -np.inf, room) for row, room in _costs(space, around, where)
    ]
    values = np.append([table.losses[at][option] for at, option in where], nothing)
    result = milp(values, constraints=constraints, integrality=np.ones(len(values)), bounds=Bounds(0, 1),
                  options={"mip_rel_gap": _GAP})
    if result.x is None:
        return None
    chosen = [int(np.argmax(np.where(one[at] > 0, result.x, -1.0))) for at in range(len(space.free))]
    widths = [space.options[at][where[i][1] if i < len(where) else 0] for at, i in enumerate(chosen)]
    return space.complete(widths, space.full())


def _costs(space: Space, around: Widths, where: Sequence[tuple[int, int]]) -> list[tuple[NDArray[np.float64], float]]:
    """Return, for each ceiling, the change of cost of every option as a share of the ceiling, and the room there is."""
    choices = space.choices(around)
    here = space.cost.cost(around)
    changed = []
    for at, option in where:
        picks = [*choices[:at], space.options[at][option], *choices[at + 1:]]
        changed.append(space.cost.cost(space.complete(picks, around)))
    return [(np.array([cost[quantity] - here[quantity] for cost in changed]) / limit, 1.0 - here[quantity] / limit)
            for quantity, limit in space.limits.items()]
