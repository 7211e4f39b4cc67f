"""Who starts a learning agent, at whose cost."""

import pytest
from toy_spaces import toy_env, toy_space

from edgeprune import find
from edgeprune.agents import warm
from edgeprune.agents.table import table_evaluations

SPACE = toy_space(0.5)


def names(agent: str, limit: int, **options: bool) -> list[str]:
    env, scorer = toy_env(SPACE, limit=limit)
    found, trace = warm.search(find.find("agents", agent)(), env, 0, **options)
    assert sum(map(len, scorer.batches)) == sum(one.spent for one in [*found, trace]) <= limit
    return [one.searcher for one in [*found, trace]]


def test_all_baselines_start_an_agent_that_learns() -> None:
    assert names("a2c", 60) == [*warm.BASELINES, "a2c"]


def test_a_table_that_would_take_the_search_is_left_out() -> None:
    table = table_evaluations(SPACE)
    assert names("a2c", 3 * table) == [*warm.BASELINES, "a2c"]
    assert names("a2c", 3 * table - 1) == ["uniform", "global-ranking", "random", "a2c"]


def test_a_baseline_has_uniform_beside_it_and_a_cold_agent_nobody() -> None:
    assert names("greedy", 60) == ["uniform", "greedy"]
    assert names("uniform", 60) == ["uniform"]
    assert names("a2c", 60, warm=False) == ["a2c"]


def test_a_single_evaluation_is_uniforms() -> None:
    env, _ = toy_env(SPACE, limit=1)
    (uniform,), trace = warm.search(find.find("agents", "ppo")(), env, 0)
    assert uniform.spent == 1 and trace.spent == 0
    assert trace.best == uniform.best


@pytest.mark.parametrize(
    ("name", "limit", "takes"),
    [("greedy", 5, True), ("knapsack", 5, True), ("ppo", 30, True), ("ppo", 29, False), ("evolution", 1000, False)],
)
def test_who_measures_a_table(name: str, limit: int, takes: bool) -> None:
    assert warm.takes_table(find.find("agents", name)(), 10, limit) is takes
