"""What is imagined costs nothing, and never stands for what was evaluated."""

import numpy as np
import pytest
from toy_spaces import toy_env, toy_score, toy_space

from edgeprune import find
from edgeprune.agents.base import Account
from edgeprune.agents.drawing import draw
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.imagined import Imagined, promising, proposals
from edgeprune.agents.reward import Reward
from edgeprune.agents.surrogate import Surrogate

SPACE = toy_space(0.5)


def dreaming(seen: int = 40) -> tuple[Imagined, SparsityEnv]:
    env, _ = toy_env(SPACE)
    rng = np.random.default_rng(0)
    account = Account(SPACE, env.evaluator, "someone", 1000)
    account.scores([draw(SPACE, rng, 0.9, 50) for _ in range(seen)])
    surrogate = Surrogate(SPACE)
    surrogate.fit(env.evaluator.known)
    return Imagined(account, surrogate, 0.5), env


def test_imagining_spends_nothing_and_knows_what_is_known() -> None:
    dream, env = dreaming()
    known = dict(env.evaluator.known)
    plans = [draw(SPACE, np.random.default_rng(9), 0.9, 50), *list(known)[:3]]
    scores = dream.scores(plans)
    assert scores[1:] == [known[plan] for plan in plans[1:]]
    mean, deviation = dream.surrogate.predict(plans[:1])
    assert scores[0] == pytest.approx(float(mean[0] + 0.5 * deviation[0]))
    assert env.evaluator.known == known and dream.spent == 0


def test_what_was_imagined_is_forgotten_when_more_is_known() -> None:
    dream, env = dreaming(16)
    plan = draw(SPACE, np.random.default_rng(9), 0.9, 50)
    before = dream.scores([plan])
    env.evaluator.scores([draw(SPACE, np.random.default_rng(s), 0.9, 50) for s in range(20, 60)], "someone")
    dream.surrogate.fit(env.evaluator.known)
    assert dream.scores([plan]) == before
    dream.forget()
    assert dream.scores([plan]) != before


def test_what_is_promised_is_new_feasible_and_better_than_chance() -> None:
    dream, env = dreaming()
    found = promising(dream, [], np.random.default_rng(0), 8)
    assert len(set(found)) == 8 and not set(found) & env.evaluator.known.keys()
    assert all(SPACE.share(plan) <= 1.0 for plan in found)
    assert np.mean([toy_score(SPACE, plan) for plan in found]) > np.mean(list(env.evaluator.known.values()))


def test_a_policy_proposes_the_plans_its_episodes_end_in() -> None:
    dream, env = dreaming()

    def narrowest(model: object, seen: np.ndarray, masks: np.ndarray) -> np.ndarray:
        assert seen.shape == (5, *env.observation_space.shape) and masks.any(1).all()
        return masks.shape[1] - 1 - masks[:, ::-1].argmax(1)

    known = len(env.evaluator.known)
    assert proposals(None, env, dream, narrowest, 5) == [SPACE.canonical(SPACE.minimum())]
    assert len(env.evaluator.known) == known


def test_a_policy_that_sees_scores_on_its_way_is_shown_what_it_learnt_from() -> None:
    env, _ = toy_env(SPACE, rules=Rules(observation="driving", reward=Reward("driving-paper"), original=0.9))
    account = Account(SPACE, env.evaluator, "someone", 1000)
    rng = np.random.default_rng(0)
    account.scores([draw(SPACE, rng, 0.9, 50) for _ in range(40)])
    surrogate = Surrogate(SPACE)
    surrogate.fit(env.evaluator.known)
    dream, shown = Imagined(account, surrogate, 0.5), list[np.ndarray]()

    def widest(model: object, seen: np.ndarray, masks: np.ndarray) -> np.ndarray:
        shown.append(seen[0])
        return masks.argmax(1)

    proposals(None, env, dream, widest, 1)
    twin, learnt = env.twin(dream), list[np.ndarray]()
    observation, _ = twin.reset()
    for _ in range(env.steps):
        learnt.append(observation)
        observation, *_ = twin.step(int(twin.action_masks().argmax()))
    np.testing.assert_array_equal(shown, learnt)
    assert set(learnt[-1]) != set(learnt[0]) and account.spent == len(env.evaluator.known)


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "bayesian"])
def test_a_search_too_short_to_learn_from_itself_goes_by_what_others_were_told(name: str) -> None:
    """Under ceilings of 0.7 and 0.35, to search under 0.5: better than by itself, at the same price."""
    rng, options = np.random.default_rng(0), {"first": 2} if name == "bayesian" else {}
    told = [draw(toy_space(share), rng, 0.9, 50) for share in (0.7, 0.35) for _ in range(40)]
    env, scorer = toy_env(SPACE)
    alone = find.find("agents", name)(**options).search(env, 10, 0)
    env, scorer = toy_env(SPACE, earlier={plan: toy_score(SPACE, plan) for plan in told})
    taught = find.find("agents", name)(**options).search(env, 10, 0)
    assert alone.spent == taught.spent == 10 == sum(map(len, scorer.batches))
    assert alone.best and taught.best and taught.best.score > alone.best.score
    assert all(one.share <= 1.0 for one in taught.asked)


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "bayesian"])
def test_every_plan_of_a_trace_was_truly_evaluated(name: str) -> None:
    env, scorer = toy_env(SPACE)
    trace = find.find("agents", name)().search(env, 40, 0)
    true = {plan for batch in scorer.batches for plan in batch}
    assert {one.widths for one in trace.asked} == true and len(true) == trace.spent == 40
    assert all(one.score == toy_score(SPACE, one.widths) for one in trace.asked)
