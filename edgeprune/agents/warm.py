"""What a learning agent is started from: the best plans of the baselines, whose evaluations count as its own run's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from edgeprune import find
from edgeprune.agents.base import Agent, Asked, Trace
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.reward import Reward
from edgeprune.agents.table import table_evaluations

BASELINES = ("uniform", "global-ranking", "random", "greedy", "knapsack")
"""In the order in which they run; greedy and knapsack share one sensitivity table."""
TABLED = ("greedy", "knapsack")
TABLE_SHARE = 1 / 3
"""Of a search: where the table takes more, its plans are not worth what it leaves for the agent."""


def search(
    agent: Agent, env: SparsityEnv, seed: int, note: Callable[[Trace], None] = lambda trace: None, warm: bool = True
) -> tuple[list[Trace], Trace]:
    """Search with the baselines' best plans as a warm start.

    As ``searches`` with the environment's own reward. Returns the baselines' traces and the agent's.
    """
    baselines, found = searches(agent, env, seed, [env.rules.reward], note, warm)
    return baselines, found[0]


def searches(
    agent: Agent, env: SparsityEnv, seed: int, rewards: Sequence[Reward],
    note: Callable[[Trace], None] = lambda trace: None, warm: bool = True,
) -> tuple[list[Trace], list[Trace]]:
    """Spend what is left of the evaluator's limit on the baselines that start a learning agent, then on the agent, once
    for each of ``rewards``: each has its share of the evaluations and of the imagined episodes, and what one has
    evaluated is free to those after it.

    Greedy and knapsack are left out where their table would take more than TABLE_SHARE of the search. An agent that
    does not learn has uniform beside it alone, for comparison. Without ``warm`` the agent has all of it to
    itself and starts from nothing. ``note`` is told each trace as it ends. Returns the baselines' traces and the
    agent's, one for each reward.
    """
    limit, table = env.evaluator.limit, table_evaluations(env.space)
    games = [env.paying(reward) for reward in rewards]  # what is wrong with one is told before anything is spent
    others: Sequence[str] = () if not warm else BASELINES if agent.learns else BASELINES[:1]
    baselines: list[Trace] = []
    for name in others:
        left = env.evaluator.left
        # Of a single evaluation uniform makes more than a novice.
        spare = 0 if agent.learns and name == "uniform" else 1
        if name == agent.name or left <= spare or (name in TABLED and not takes_table(agent, table, limit)):
            continue
        # What they would climb with is the agent's.
        options = {"climbing": False} if agent.learns and name in TABLED else {}
        baselines.append(find.find("agents", name)(**options).search(env, allowance(name, limit, left), seed))
        note(baselines[-1])
    start = started_from(baselines)
    found: list[Trace] = []
    for at, game in enumerate(games):
        game.reference = max((game.value(one.widths, one.score) for one in start), default=env.reference)
        share = math.ceil(env.evaluator.left / (len(rewards) - at))
        found.append(with_episodes(agent, 1 / len(rewards)).search(game, share, seed, [one.widths for one in start]))
        note(found[-1])
    return baselines, found


def takes_table(agent: Agent, table: int, limit: int) -> bool:
    """Return whether a search of ``limit`` evaluations measures a sensitivity table that takes ``table`` of them."""
    return agent.name in TABLED or (agent.learns and table <= limit * TABLE_SHARE)


def with_episodes(agent: Agent, share: float) -> Agent:
    """Return the agent with a share of the episodes it is to imagine, where their number was set."""
    changes: dict[str, Any] = {"episodes": math.ceil(getattr(agent, "episodes", 0) * share)}
    return dataclasses.replace(agent, **changes) if changes["episodes"] else agent


def allowance(name: str, limit: int, left: int) -> int:
    """Return what a baseline may spend: random a sixth of the search, those with a table up to two thirds of what is
    left.
    """
    few = {"uniform": 1, "global-ranking": 2, "random": max(4, limit // 6)}
    return few.get(name, left * 2 // 3)


def started_from(baselines: Sequence[Trace]) -> list[Asked]:
    """Return the baselines' best plans, each once, best first."""
    return sorted({t.best.widths: t.best for t in baselines if t.best}.values(), key=lambda one: -one.score)
