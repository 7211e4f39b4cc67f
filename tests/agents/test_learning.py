"""Learning agents are judged by learning, on a space whose best plan is known."""

import itertools
from functools import cache

import numpy as np
import pytest
from toy_spaces import best_plan, toy_env, toy_space

from edgeprune import find
from edgeprune.agents.base import Trace
from edgeprune.agents.dqn import _LegalDQN
from edgeprune.agents.env import SparsityEnv

SPACE = toy_space(0.5)
EVALUATIONS = 96
LEARNERS = ["ppo", "a2c", "dqn"]


@cache
def optimum() -> float:
    return best_plan(SPACE)[0]


def run(name: str, env: SparsityEnv, evaluations: int, start: tuple = ()) -> Trace:
    return find.find("agents", name)().search(env, evaluations, 0, start)


@pytest.mark.parametrize("name", LEARNERS)
def test_from_nothing_it_beats_uniform_and_gets_better_as_it_goes(name: str) -> None:
    uniform = run("uniform", toy_env(SPACE)[0], 1).best.score
    trace = run(name, toy_env(SPACE)[0], EVALUATIONS)
    assert trace.spent == EVALUATIONS
    assert trace.best.score - uniform > 0.7 * (optimum() - uniform)
    scores = [asked.score for asked in trace.asked]
    assert np.mean(scores[-32:]) > np.mean(scores[:32])


@pytest.mark.parametrize("name", LEARNERS)
def test_a_warm_start_is_improved_on_and_never_lost(name: str) -> None:
    env, _ = toy_env(SPACE)
    baselines = [run("uniform", env, 1).best]
    baselines += [find.find("agents", one)(climbing=False).search(env, 40, 0).best for one in ("greedy", "knapsack")]
    warm = max(best.score for best in baselines)
    assert warm < optimum()  # or there were nothing to learn
    trace = run(name, env, EVALUATIONS // 2, tuple(best.widths for best in baselines))
    assert warm < trace.best.score <= optimum()


@pytest.mark.parametrize("name", LEARNERS)
def test_the_last_seed_there_is_is_no_end(name: str) -> None:
    assert find.find("agents", name)().search(toy_env(toy_space(0.7, blocks=0, plain=2))[0], 60, 2**32 - 1).best


@pytest.mark.parametrize("name", LEARNERS)
def test_a_taught_policy_starts_near_its_lesson_but_not_on_it(name: str) -> None:
    env, _ = toy_env(SPACE)
    lesson = run("greedy", env, 40).best
    trace = run(name, env, 12, (lesson.widths,))
    cold = run(name, toy_env(SPACE)[0], 12)
    taught = [asked.score for asked in trace.asked[1:]]
    assert np.mean(taught) > np.mean([asked.score for asked in cold.asked])
    assert trace.spent == 12  # it explored: all plans but the lesson are new


@pytest.mark.parametrize("name", LEARNERS)
def test_imagined_episodes_are_worth_their_while(name: str) -> None:
    agents = [find.find("agents", name)(imagined=imagined) for imagined in (0, 4)]
    plain, imagining = (agent.search(toy_env(SPACE)[0], 64, 0) for agent in agents)
    means = [np.mean([asked.score for asked in trace.asked[32:]]) for trace in (plain, imagining)]
    assert means[0] < means[1] and plain.best.score <= imagining.best.score
    assert optimum() - imagining.best.score < 0.05


def test_exploration_that_has_fallen_does_not_rise_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable-Baselines3 counts each call's steps anew, and would let the second begin where the first was half-way."""
    rates: list[float] = []

    class Watched(_LegalDQN):
        def _on_step(self) -> None:
            super()._on_step()
            rates.append(self.exploration_rate)

    monkeypatch.setattr("edgeprune.agents.dqn._LegalDQN", Watched)
    find.find("agents", "dqn")(explore_share=1.0).search(toy_env(SPACE)[0], 64, 0)
    assert rates[0] > 0.7 and all(b <= a + 1e-12 for a, b in itertools.pairwise(rates))
