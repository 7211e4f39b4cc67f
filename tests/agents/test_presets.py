"""The three systems: what they set, that they learn, and what they cost."""

from functools import cache

import numpy as np
import pytest
from toy_spaces import played_space, toy_env, toy_score

from edgeprune import find
from edgeprune.agents import warm
from edgeprune.agents.base import Agent, Trace
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.presets import PRESETS, preset
from edgeprune.agents.reward import Reward, rewards
from edgeprune.agents.uniform import even_plan
from edgeprune.compiler.request import configure
from edgeprune.errors import BadOption
from edgeprune.passes.sparsify import Sparsify

REPAIRED = [name for name in PRESETS if not name.endswith("-paper")]


def search(name: str, episodes: int, evaluations: int = 56, seed: int = 0) -> tuple[SparsityEnv, Trace]:
    chosen = preset(name)
    step = configure(Sparsify(), chosen.settings["sparsify"])
    agent: Agent = configure(find.find("agents", chosen.agent), {**chosen.settings["agent"], "episodes": str(episodes)})
    rules = Rules(step.actions, step.observation, Reward(step.reward), 0.9)
    env, _ = toy_env(played_space(step.actions, 0.5), rules=rules)
    return env, agent.search(env, evaluations, seed)


@cache
def found(name: str) -> tuple[SparsityEnv, Trace]:
    return search(name, 400)


def test_what_they_set() -> None:
    told = {name: (one.agent, *(one.settings["sparsify"][o] for o in ("actions", "reward", "criterion")))
            for name, one in PRESETS.items()}  # fmt: skip
    assert told == {
        "akperl": ("dqn", "quarters", "akperl", "l1"),
        "driving": ("ppo", "step", "driving", "gradient_l1"),
        "depgraphrl": ("a2c", "keep-or-prune", "depgraphrl", "l1"),
        "akperl-paper": ("dqn", "quarters", "akperl-paper", "l1"),
        "driving-paper": ("ppo", "step", "driving-paper", "gradient_l1"),
        "depgraphrl-paper": ("a2c", "keep-or-prune", "depgraphrl-paper", "l1"),
    }
    assert preset("driving").settings["agent"] == {"learning_rate": "3e-4", "episodes": "10000"}
    assert preset("depgraphrl").settings["agent"] == {"learning_rate": "2e-4", "episodes": "5000"}
    for name, one in PRESETS.items():
        agent = configure(find.find("agents", one.agent), one.settings["agent"])
        assert agent.learns and configure(Sparsify(agent=agent), one.settings["sparsify"]).warm == (name in REPAIRED)
        assert bool(one.warnings()) == (name not in REPAIRED)


def test_only_what_is_printed_comes_with_a_warning_that_says_what_is_wrong() -> None:
    assert "below it, where small networks are, more error is paid more" in preset("depgraphrl-paper").warnings()[0]
    assert "telescopes" in preset("driving-paper").warnings()[0]
    assert any("cuts the network in two" in line for line in preset("akperl-paper").warnings())


def test_what_is_given_by_hand_wins() -> None:
    one = preset("driving")
    given = {"sparsify": {"reward": "constrained"}, "agent": {"learning_rate": "1"}, "export": {"a": "b"}}
    under = one.under(given, None)
    assert under["sparsify"]["reward"] == "constrained" and under["sparsify"]["actions"] == "step"
    assert under["agent"] == {"learning_rate": "1", "episodes": "10000"} and under["export"] == {"a": "b"}
    assert "agent" not in one.under({}, "dqn"), "the options of PPO are none of DQN's"
    assert one.under({}, "ppo")["agent"]["learning_rate"] == "3e-4"


def test_an_unknown_one_answers_with_the_nearest() -> None:
    with pytest.raises(BadOption, match=r"^unknown preset 'akper'; did you mean 'akperl'\?$"):
        preset("akper")


@pytest.mark.parametrize("name", REPAIRED)
def test_from_nothing_its_agent_beats_uniform_and_gets_better_as_it_goes(name: str) -> None:
    env, trace = found(name)
    assert trace.best.score > toy_score(env.space, even_plan(env.space))
    scores = [asked.score for asked in trace.asked]
    assert np.mean(scores[-24:]) > np.mean(scores[:24])


@pytest.mark.parametrize("name", REPAIRED)
def test_the_curve_tells_the_imagined_episodes_and_the_best_so_far(name: str) -> None:
    _, trace = found(name)
    assert 400 <= sum(lesson.episodes for lesson in trace.curve) < 560, "as many as were asked for, in whole rounds"
    assert all(lesson.imagined for lesson in trace.curve)
    spent = [lesson.evaluations for lesson in trace.curve]
    assert spent == sorted(set(spent)) and spent[-1] < trace.spent
    for lesson in trace.curve:
        scores = [asked.score for asked in trace.asked[: lesson.evaluations]]
        assert lesson.best == max(scores)


def test_without_a_surrogate_no_episode_is_imagined() -> None:
    env, _ = toy_env(played_space("quarters", 0.5))
    agent = configure(find.find("agents", "dqn"), {"episodes": "400", "imagined": "0"})
    trace = agent.search(env, 24, 0)
    assert trace.spent == 24 and trace.curve and not any(lesson.imagined for lesson in trace.curve)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in REPAIRED])
def test_as_printed_it_runs(name: str) -> None:
    env, trace = search(name, 60, 24)
    assert trace.spent == 24 and env.space.share(trace.best.widths) <= 1.0
    assert sum(lesson.episodes for lesson in trace.curve) >= 60
    assert trace == search(name, 60, 24)[1], "and it is the same again"


def test_a_grid_shares_evaluations_and_episodes_and_its_plans_are_free_to_the_next() -> None:
    grid = rewards("akperl", "", "b=0|0.5")
    env, scorer = toy_env(played_space("quarters", 0.5), 80, rules=Rules("quarters", "akperl", grid[0], 0.9))
    agent = configure(find.find("agents", "dqn"), {"episodes": "200"})
    baselines, traces = warm.searches(agent, env, 0, grid)
    assert len(traces) == 2 and len(env.evaluator.known) == sum(map(len, scorer.batches)) == 80
    assert abs(traces[0].spent - traces[1].spent) <= 1
    for trace in traces:
        assert 100 <= sum(lesson.episodes for lesson in trace.curve) < 200
        assert trace.best.score >= max(one.best.score for one in baselines)
