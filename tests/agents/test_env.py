"""The environment keeps Gymnasium's contract, is deterministic, and says what it did."""

import gymnasium.utils.env_checker
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_spaces import played_space, toy_env, toy_score, toy_space

from edgeprune.agents.actions import actions_of
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.reward import Reward
from edgeprune.groups import DROP, FRACTIONS, ladder

SPACE = toy_space(0.5)
ACTIONS = len(FRACTIONS) + 1


def play(env: SparsityEnv, actions: list[int]) -> tuple[list[np.ndarray], float, dict]:
    observation, _ = env.reset(seed=0)
    seen = [observation]
    for action in actions:
        observation, reward, over, truncated, info = env.step(action)
        seen.append(observation)
        assert not truncated and over == (len(seen) == len(actions) + 1)
    return seen, reward, info


def test_the_checkers_of_gymnasium_and_sb3_are_content() -> None:
    env, _ = toy_env(SPACE)
    gymnasium.utils.env_checker.check_env(env, skip_render_check=True)
    stable_baselines3.common.env_checker.check_env(env)


@given(st.lists(st.integers(0, ACTIONS - 1), min_size=8, max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_actions_give_a_feasible_plan_and_bounded_observations(actions: list[int]) -> None:
    env, _ = toy_env(SPACE)
    seen, reward, info = play(env, actions)
    assert all(env.observation_space.contains(observation) for observation in seen)
    assert SPACE.share(info["widths"]) <= 1.0
    assert info["widths"] == SPACE.canonical(info["widths"])
    assert info["score"] == toy_score(SPACE, info["widths"])
    assert reward == pytest.approx(info["score"] / 0.1)


def test_an_illegal_action_becomes_the_nearest_legal_one() -> None:
    env, _ = toy_env(toy_space(0.2))
    env.reset()
    legal = np.flatnonzero(env.action_masks())
    assert legal[0] > 0  # keeping everything is behind the wall
    observation, *_, info = env.step(0)
    assert info["action"] == legal[0]
    executed, _ = toy_env(toy_space(0.2))
    executed.reset()
    same, *_ = executed.step(int(legal[0]))
    assert np.count_nonzero(observation != same) == 1  # only the flag that says it was projected


def test_the_same_actions_give_the_same_episode() -> None:
    first, second = (play(toy_env(SPACE)[0], [3, 1, 8, 0, 4, 2, 8, 5]) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1:] == second[1:]


def test_preview_and_walk_agree_with_step() -> None:
    env, scorer = toy_env(SPACE)
    *_, info = play(env, [3, 1, 8, 0, 4, 2, 8, 5])
    actions = env.walk(info["widths"])
    env.reset()
    assert [env.preview(a) for a in actions[:1]] == [None]
    for action in actions[:-1]:
        env.step(action)
    assert env.preview(actions[-1]) == info["widths"]
    assert env.step(actions[-1])[-1]["widths"] == info["widths"]
    assert len(scorer.batches) == 1


def test_a_dropped_block_is_walked_through_without_a_choice() -> None:
    env, _ = toy_env(toy_space(1.0))
    env.reset()
    for _ in range(4):
        env.step(0)
    assert env.step(8)[-1]["action"] == 8
    np.testing.assert_array_equal(np.flatnonzero(env.action_masks()), [0])


def test_rewards_are_relative_and_those_far_out_grow_by_their_logarithm() -> None:
    env, _ = toy_env(SPACE)
    score = play(env, [8] * 8)[2]["score"]

    def paid(apart: float) -> float:
        return play(SparsityEnv(SPACE, env.evaluator, reference=score - apart), [8] * 8)[1]

    assert paid(0.05) == pytest.approx(0.5) and paid(-0.99) == pytest.approx(-9.9)
    assert paid(-9) == pytest.approx(-10 - np.log(9)) and paid(9) == pytest.approx(10 + np.log(9))
    assert paid(-90) < paid(-9) < paid(-1.01) < paid(-0.99), "never the same for less"


@pytest.mark.parametrize("reward", ["accuracy-guaranteed", "depgraphrl"])
def test_from_nothing_plans_far_below_the_original_are_still_told_apart(reward: str) -> None:
    env, _ = toy_env(played_space("ladder"), rules=Rules(reward=Reward(reward), original=1.9))  # a point and more lost
    rng = np.random.default_rng(0)
    ended = [play(env, rng.integers(0, ACTIONS, env.steps).tolist()) for _ in range(40)]
    assert len({round(reward, 9) for _, reward, _ in ended}) == len({info["widths"] for *_, info in ended}) > 30


def test_a_seed_makes_it_forget_what_was_scored_before() -> None:
    env, _ = toy_env(SPACE, rules=Rules(observation="driving", original=0.9))
    first, _ = env.reset(seed=0)
    play(env, [8] * 8)
    assert (env.reset()[0] != first).any()
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)


def test_a_step_after_the_end_is_refused() -> None:
    env, _ = toy_env(SPACE)
    play(env, [8] * 8)
    with pytest.raises(ResetNeeded, match=r"^this episode is over; call reset\(\) first$"):
        env.step(0)


@given(st.integers(2, 600), st.sampled_from([(1,), (4,), (8,), (16,), (4, 16)]))
@settings(deadline=None)
def test_actions_are_distinct_ordered_and_mean_fractions(channels: int, multiples: tuple[int, ...]) -> None:
    rungs = ladder(channels, multiples)
    actions = actions_of((*rungs, DROP))
    assert list(actions) == sorted(set(actions)) and actions[0] == 0 and actions[-1] == ACTIONS - 1
    if channels % 32 == 0 and multiples == (4,):
        expected = [FRACTIONS[a] * channels for a in actions[: len(rungs)]]
        assert list(rungs) == pytest.approx(expected, abs=4)
