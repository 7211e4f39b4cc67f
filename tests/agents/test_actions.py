"""Every action space keeps the environment's contract, whatever is seen and paid."""

import gymnasium.utils.env_checker
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_spaces import played_space, toy_env, toy_score, toy_space

from edgeprune.agents.actions import ACTIONS, KeepOrPrune, Quarters, Step, offering
from edgeprune.agents.base import Evaluator
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.observation import OBSERVATIONS
from edgeprune.agents.reward import FORMS, Reward
from edgeprune.agents.uniform import even_plan
from edgeprune.errors import BadOption, UnmetRequirement
from edgeprune.groups import DROP

NAMES = list(ACTIONS)


def env_of(actions: str, share: float = 0.5, observation: str = "full", reward: str = "constrained", **toy: int
           ) -> SparsityEnv:  # fmt: skip
    rules = Rules(actions, observation, Reward(reward), 0.9, (0.1, 0.9))
    return toy_env(played_space(actions, share, **toy), rules=rules)[0]


def play(env: SparsityEnv, seed: int) -> tuple[list[np.ndarray], list[int], float, dict]:
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=0)
    seen, done, paid, over = [observation], [], 0.0, False
    while not over:
        assert env.action_masks().any()
        observation, reward, over, truncated, info = env.step(int(rng.integers(env.action_space.n)))
        seen.append(observation)
        done.append(info["action"])
        paid += reward
        assert not truncated and "widths" in info if over else "widths" not in info
    assert len(done) == env.steps and not env.action_masks().any()
    return seen, done, paid, info


@pytest.mark.parametrize("actions", NAMES)
@pytest.mark.parametrize("observation", list(OBSERVATIONS))
def test_the_checkers_of_gymnasium_and_sb3_are_content(actions: str, observation: str) -> None:
    env = env_of(actions, observation=observation, reward="akperl")
    gymnasium.utils.env_checker.check_env(env, skip_render_check=True)
    stable_baselines3.common.env_checker.check_env(env)


@pytest.mark.parametrize("actions", NAMES)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.25, 0.5, 0.9]))
@settings(max_examples=25, deadline=None)
def test_whatever_is_done_the_plan_fits_and_the_same_again_is_the_same(actions: str, seed: int, share: float) -> None:
    env = env_of(actions, share)
    seen, done, paid, info = play(env, seed)
    assert env.space.share(info["widths"]) <= 1.0
    assert info["widths"] == env.space.canonical(info["widths"])
    assert info["score"] == toy_score(env.space, info["widths"])
    assert all(env.observation_space.contains(observation) for observation in seen)
    again = env_of(actions, share)
    again.reset(seed=0)
    for action in done:
        assert again.action_masks()[action], "what was done had been legal"
        _, reward, *_, last = again.step(action)
    assert (last["widths"], reward) == (info["widths"], paid)


@pytest.mark.parametrize("actions", NAMES)
def test_a_legal_action_is_done_and_an_illegal_one_becomes_the_nearest(actions: str) -> None:
    env = env_of(actions, 0.25)
    for asked in range(env.action_space.n):
        env.reset()
        for _ in range(env.steps):
            legal = np.flatnonzero(env.action_masks())
            done = env.step(asked)[-1]["action"]
            assert done in legal and abs(done - asked) == np.abs(legal - asked).min()


@pytest.mark.parametrize("actions", [name for name in NAMES if name != "step"])
@pytest.mark.parametrize("seed", range(5))
def test_walking_leads_back_to_any_plan(actions: str, seed: int) -> None:
    env = env_of(actions, 0.5)
    plan = play(env, seed)[-1]["widths"]
    assert env.reached(plan) == plan
    env.reset()
    for action in env.walk(plan)[:-1]:
        assert env.preview(action) is None and env.action_masks()[action]
        env.step(action)
    assert env.preview(env.walk(plan)[-1]) == plan


@pytest.mark.parametrize("seed", range(5))
def test_steps_walk_towards_a_plan(seed: int) -> None:
    env = env_of("step", 0.5)
    plan, begun = play(env, seed)[-1]["widths"], even_plan(env.space)
    distance = [sum(abs(a - b) for a, b in zip(plan, other, strict=True)) for other in (env.reached(plan), begun)]
    assert distance[0] < distance[1]
    assert env.reached(begun) == begun
    assert env.space.share(env.reached(env.space.minimum())) <= 1.0


@pytest.mark.parametrize("actions", NAMES)
def test_one_group_is_enough(actions: str) -> None:
    env = env_of(actions, 0.7, blocks=0, plain=1)
    widths = play(env, 0)[-1]["widths"]
    (free,) = env.space.free
    assert widths[free] < env.space.cost.groups[free].channels and env.space.share(widths) <= 1.0


def test_quarters_offer_quarters_and_drop_nothing_but_blocks() -> None:
    env = env_of("quarters", 1.0)
    assert isinstance(env.actions, Quarters) and env.actions.count == 5
    for group in env.space.cost.groups:
        if not group.locked:
            assert group.options() == (32, 24, 16, 8) + ((DROP,) if group.block else ())
    env.reset()
    for at in env.space.free:
        assert env.action_masks()[4] == bool(env.space.cost.groups[at].block)
        env.step(0)


def test_a_step_is_a_rung_from_uniform() -> None:
    env = env_of("step", 0.5)
    assert isinstance(env.actions, Step) and env.steps == 3 * len(env.space.free)
    begun = even_plan(env.space)
    env.reset()
    assert env.actions.plan(env.actions.begin()) == begun
    for _ in range(env.steps):
        info = env.step(2)[-1]
    for at in env.space.free:
        options = env.space.cost.groups[at].options()
        assert info["widths"][at] == options[min(options.index(begun[at]) + 3, len(options) - 1)]


def test_pruning_takes_the_same_share_of_what_is_left_each_time() -> None:
    space = played_space("keep-or-prune", 1.0, blocks=0, plain=2, channels=100, multiple=1)
    assert isinstance(ACTIONS["keep-or-prune"](space), KeepOrPrune)
    assert space.options[0][:4] == (100, 75, 50, 38)  # the rungs nearest to 70, 49 and 34.3
    half = offering(toy_space(1.0, plain=2, blocks=0, channels=64).cost, "keep-or-prune", 0.5)
    assert half.groups[1].options() == (64, 32, 16, 8)


def test_what_goes_by_energy_needs_a_tally_of_it() -> None:
    space = toy_space(0.5)
    for rules in (Rules(reward=Reward("akperl")), Rules(observation="depgraphrl")):
        with pytest.raises(UnmetRequirement, match=r" goes by energy, and no tally tells it$"):
            SparsityEnv(space, Evaluator(lambda plans: [], 1, {}), rules=rules)


def test_energy_is_seen_where_the_reward_goes_by_it() -> None:
    plain, energetic = env_of("ladder"), env_of("ladder", reward="akperl")
    assert energetic.observation_space.shape[0] == plain.observation_space.shape[0] + 1
    first = energetic.reset()[0][-1]
    assert first == 1.0, "nothing is cut yet"
    assert energetic.step(7)[0][-1] < first


def test_without_the_index_every_layer_looks_the_same() -> None:
    seen = {name: play(env_of("ladder", 1.0, name), 1)[0] for name in ("akperl", "akperl-paper")}
    env = env_of("ladder", 1.0, "akperl-paper")
    env.reset(seed=0)
    same = [env.step(0)[0] for _ in range(env.steps - 1)]
    assert len({row.tobytes() for row in same}) == 1
    assert len({row[-1] for row in seen["akperl"]}) == len(seen["akperl"])


def test_depgraphrl_sees_index_channels_energy_and_share() -> None:
    env = env_of("keep-or-prune", 1.0, "depgraphrl")
    first = env.reset(seed=0)[0]
    touched = env.space.cost.share_of(env.space.free[0])["energy"]
    np.testing.assert_allclose(first, [-1, 5 / 6 - 1, 5 / 6 - 1, 2 * touched - 1, 2 * touched - 1], atol=1e-6)


@pytest.mark.parametrize("reward", list(FORMS))
def test_pay_is_the_reward_s_centred_and_scaled_unless_it_is_as_printed(reward: str) -> None:
    env = env_of("ladder", reward=reward)
    env = env.twin(env.account, 0.3)
    _, _, paid, info = play(env, 3)
    form, worth = FORMS[reward], env.value(info["widths"], info["score"])
    if form.stepwise:  # telescoped: what is left over is the start
        full = env.space.full()
        assert paid == pytest.approx(worth - env.value(full, toy_score(env.space, full)))
    elif form.verbatim:
        assert paid == worth
    else:
        apart = (worth - 0.3) / form.scale
        assert paid == pytest.approx(apart if abs(apart) <= 10 else np.sign(apart) * (10 + np.log(abs(apart) / 10)))


def test_what_a_dropped_block_holds_is_gone_too() -> None:
    env = env_of("ladder", 1.0, reward="akperl-paper")
    whole, cut = env.space.full(), list(env.space.full())
    at = next(i for i in env.space.free if env.space.cost.groups[i].block)
    cut[at] = DROP
    energy = [env.space.costs(plan)["energy"] for plan in (whole, tuple(cut))]
    layers = len(env.space.free)
    # Two of the groups are gone: −γ · pruned is 2, −λ · |a| is 2, and the energy saved comes back once a layer.
    assert env.value(tuple(cut), 0.5) - env.value(whole, 0.5) == pytest.approx(layers * (energy[0] - energy[1]) - 4.0)


def test_unknown_names_answer_with_the_nearest() -> None:
    from edgeprune.passes.sparsify import Sparsify

    for option, name, message in (
        ("actions", "quarter", r"^unknown actions 'quarter'; did you mean 'quarters'\?$"),
        ("observation", "drivin", r"^unknown observation 'drivin'; did you mean 'driving'\?$"),
    ):
        with pytest.raises(BadOption, match=message):
            Sparsify(**{option: name})
    with pytest.raises(ValueError, match=r"^ratio must lie in \(0, 1\), not 1$"):
        Sparsify(ratio=1.0)
