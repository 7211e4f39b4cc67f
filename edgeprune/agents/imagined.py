"""Episodes that cost nothing: an agent learns on a surrogate, and true evaluations go where that is promising.

The scheme is model-based policy optimisation (Janner et al., NeurIPS 2019) with an episode for a roll-out: what the
model of the world replaces is the one expensive step of an episode, the score at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.agents.base import Account
from edgeprune.agents.drawing import breed
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.surrogate import Surrogate
from edgeprune.groups import Widths

BATCH = 8
"""True evaluations between two fits of the surrogate. Not the number of cores: a search must not depend on those."""
POOL = 96
"""Episodes that the policy plays to propose a batch from."""
_GENERATIONS, _CHILDREN, _PARENTS, _ELITE, _SHORTLIST = 4, 64, 24, 16, 200

Play = Callable[[Any, NDArray[np.float32], NDArray[np.bool_]], NDArray[np.int64]]
"""(model, observations (n, o), legal actions (n, a)) -> actions (n,): what a policy does, chance included."""


class Imagined(Account):
    """An account that asks nobody: plans score what the surrogate expects, and ``boldness`` deviations more.

    A plan that was truly evaluated scores what it did. Nothing is spent.
    """

    def __init__(self, account: Account, surrogate: Surrogate, boldness: float) -> None:
        super().__init__(account.space, account.evaluator, account.searcher, 0)
        self.surrogate, self._boldness = surrogate, boldness
        self._told: dict[Widths, float] = {}

    def forget(self) -> None:
        """Drop what the surrogate said: it has learnt since."""
        self._told.clear()

    def scores(self, batch: Sequence[Widths]) -> list[float]:
        """Return what is expected of plans."""
        plans = [self.space.canonical(widths) for widths in batch]
        known = self.evaluator.lessons
        new = [plan for plan in dict.fromkeys(plans) if plan not in known and plan not in self._told]
        if new and not self.surrogate.ready:  # a lesson beside the plans that were evaluated; what they are worth
            self._told.update(dict.fromkeys(new, float(np.mean(list(known.values()) or [0.0]))))
        elif new:
            mean, deviation = self.surrogate.predict(new)
            self._told.update(zip(new, (mean + self._boldness * deviation).tolist(), strict=True))
        return [known[plan] if plan in known else self._told[plan] for plan in plans]


def promising(dream: Imagined, plans: Sequence[Widths], rng: np.random.Generator, count: int) -> list[Widths]:
    """Return up to ``count`` new plans to evaluate truly: ``plans`` and the best known, refined on the surrogate.

    A few generations of children compete by what is imagined of them. Few, for a surrogate that is climbed to its top
    is climbed to its errors: on ResNet-56, four found better plans than ten.
    """
    account, surrogate = dream.evaluator, dream.surrogate
    space = dream.space
    feasible = [plan for plan in account.known if space.share(plan) <= 1.0]
    elite = sorted(feasible, key=lambda plan: -account.known[plan])
    pool = list(dict.fromkeys([*elite[:_ELITE], *plans]))
    values = dict(zip(pool, dream.scores(pool), strict=True))
    for _ in range(_GENERATIONS):
        parents = sorted(values, key=lambda plan: -values[plan])[:_PARENTS]
        children = list(dict.fromkeys(breed(space, parents, rng) for _ in range(_CHILDREN)))
        values.update(zip(children, dream.scores(children), strict=True))
    new = sorted((plan for plan in values if plan not in account.known), key=lambda plan: -values[plan])
    return surrogate.choose(new[:_SHORTLIST], count, account.known[elite[0]] if elite else -np.inf)


def proposals(model: Any, env: SparsityEnv, dream: Imagined, play: Play, count: int = POOL) -> list[Widths]:
    """Return the distinct plans, in order of their first appearance, of ``count`` episodes by the model's policy. What
    they score on the way is imagined, as it was when the policy learnt.
    """
    twins = [env.twin(dream) for _ in range(count)]
    seen = np.stack([twin.reset()[0] for twin in twins])
    found: dict[Widths, None] = {}
    for step in range(env.steps):
        masks = np.stack([twin.action_masks() for twin in twins])
        actions = play(model, seen, masks)
        previews = (twin.preview(int(action)) for twin, action in zip(twins, actions, strict=True))
        dream.scores([plan for plan in previews if plan is not None])
        ends = [twin.step(action) for twin, action in zip(twins, actions, strict=True)]
        seen = np.stack([end[0] for end in ends])
        if step == env.steps - 1:
            found = dict.fromkeys(end[4]["widths"] for end in ends)
    return list(found)
