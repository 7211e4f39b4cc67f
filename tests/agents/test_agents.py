"""What every searcher owes, whatever it is."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from toy_spaces import toy_env, toy_space

from edgeprune import find
from edgeprune.agents.base import Agent
from edgeprune.agents.bayesian import Bayesian
from edgeprune.agents.uniform import uniform_plan

NAMES = find.names("agents")
SPACE = toy_space(0.5)


def agent(name: str) -> Agent:
    return find.find("agents", name)()


def test_the_nine_are_found() -> None:
    assert NAMES == [
        "a2c", "bayesian", "dqn", "evolution", "global-ranking", "greedy", "knapsack", "ppo", "random", "uniform"
    ]  # fmt: skip
    assert {name for name in NAMES if agent(name).learns} == {"a2c", "dqn", "ppo"}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_trace(name: str) -> None:
    first, second = (agent(name).search(toy_env(SPACE)[0], 30, 7) for _ in range(2))
    assert first == second
    assert first.searcher == name


@pytest.mark.parametrize("name", ["random", "evolution", "bayesian", "ppo", "a2c", "dqn"])
def test_another_seed_gives_another_trace(name: str) -> None:
    assert agent(name).search(toy_env(SPACE)[0], 12, 1).asked != agent(name).search(toy_env(SPACE)[0], 12, 2).asked


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("evaluations", [1, 2, 13, 40])
def test_no_more_is_spent_than_allowed_and_the_best_is_feasible(name: str, evaluations: int) -> None:
    env, scorer = toy_env(SPACE)
    trace = agent(name).search(env, evaluations, 0)
    assert trace.spent == sum(map(len, scorer.batches)) <= evaluations
    assert len({asked.widths for asked in trace.asked}) == len(trace.asked) == trace.spent
    assert trace.best is not None
    feasible = [asked for asked in trace.asked if asked.share <= 1.0]
    assert trace.best.score == max(asked.score for asked in feasible)
    assert SPACE.share(trace.best.widths) <= 1.0


def test_few_first_plans_are_made_up_for() -> None:
    """The surrogate wants a dozen; a search that begins with three spends all it has nevertheless."""
    trace = Bayesian(first=3).search(toy_env(SPACE)[0], 40, 0)
    assert trace.spent == 40


@pytest.mark.parametrize("name", NAMES)
def test_a_spent_run_gives_an_empty_trace(name: str) -> None:
    trace = agent(name).search(toy_env(SPACE, limit=0)[0], 20, 0)
    assert trace.spent == 0 and trace.asked == () and trace.best is None


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_search_repeats_itself_without_evaluating(name: str) -> None:
    memo: dict[str, float] = {}
    trace = agent(name).search(toy_env(SPACE, memo=memo)[0], 30, 3)
    env, scorer = toy_env(SPACE, memo=memo)
    assert agent(name).search(env, 30, 3) == trace
    assert scorer.batches == [] and env.evaluator.resumed == trace.spent


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn"])
def test_learning_leaves_no_trace_in_the_process(name: str) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    agent(name).search(toy_env(SPACE)[0], 6, 5)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn"])
def test_plans_that_finish_together_are_evaluated_together(name: str) -> None:
    for imagined, together in ((0, 4), (4, 8)):
        env, scorer = toy_env(SPACE)
        find.find("agents", name)(imagined=imagined).search(env, 24, 0)
        assert len(scorer.batches[0]) == together == max(map(len, scorer.batches))


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn"])
def test_start_plans_are_free_if_known_and_left_out_if_too_big(name: str) -> None:
    env, scorer = toy_env(SPACE)
    start = uniform_plan(SPACE)
    env.evaluator.scores([start], "uniform")
    trace = agent(name).search(env, 5, 0, [SPACE.full(), start])
    assert trace.asked[0].widths == start and trace.spent == 5
    assert SPACE.full() not in env.evaluator.known
    assert sum(map(len, scorer.batches)) == 6


@pytest.mark.parametrize("name", NAMES)
def test_parameters_can_be_the_ceiling_too(name: str) -> None:
    space = dataclasses.replace(SPACE, limits={"parameters": 0.4 * SPACE.cost.full["parameters"]})
    best = agent(name).search(toy_env(space)[0], 25, 0).best
    assert best is not None
    assert space.cost.cost(best.widths)["parameters"] <= 0.4 * space.cost.full["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_one_free_group_is_enough(name: str) -> None:
    space = toy_space(0.7, blocks=0, plain=1)
    best = agent(name).search(toy_env(space)[0], 10, 0).best
    assert best is not None and best.share <= 1.0
