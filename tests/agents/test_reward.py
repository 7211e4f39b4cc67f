"""Rewards against values worked out by hand, and against what is said to be wrong with the papers' own."""

import math

import pytest
from toy_spaces import played_space, toy_env

from edgeprune import find
from edgeprune.agents.env import Rules
from edgeprune.agents.reward import FORMS, Ended, Reward, rewards
from edgeprune.agents.warm import searches
from edgeprune.errors import BadOption


def ended(score: float = 0.8, energy: float = 0.5, **changes: object) -> Ended:
    shares = {"macs": 0.4, "parameters": 0.3, "energy": energy}
    return Ended(**{"score": score, "original": 0.9, "shares": shares, "removed": (0.5, 0.25), "energy_mj": 33.0,
                    **changes})  # fmt: skip


def value(name: str, at: Ended, **weights: tuple[float, ...]) -> float:
    return Reward(name, tuple(weights.items())).value(at)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("constrained", {}, 0.8),
        ("accuracy-guaranteed", {}, -1.0 - (0.1 - 0.01) / 0.01),
        ("accuracy-guaranteed", {"drop": (0.2,)}, -math.log(0.5)),
        ("akperl", {}, 0.8 / 0.9 - 0.1 * 0.5),
        ("akperl", {"a": (2.0,), "b": (1.0,), "c": (1.0,)}, 2 * 0.8 / 0.9 - 0.5 - 0.375),
        ("akperl", {"a": (1.0, 3.0), "b": (0.0,), "c": (0.0, 1.0)}, 2 * 0.8 / 0.9 - 0.125),
        ("driving", {"l2": (0.5,)}, -0.1 + 0.5 * 0.7),
        ("depgraphrl", {}, -0.2 * (1 + math.log(1.5))),
        ("akperl-paper", {}, 2 * (80.0 - 33.0 - 0.375) - 0.75),
        ("driving-paper", {}, 0.8 + 0.7),
        ("depgraphrl-paper", {}, -0.2 * math.log(0.033)),
    ],
)
def test_values(name: str, weights: dict[str, tuple[float, ...]], expected: float) -> None:
    assert value(name, ended(), **weights) == pytest.approx(expected)


def test_an_allowed_drop_is_paid_by_cost_and_another_by_the_drop() -> None:
    assert value("accuracy-guaranteed", ended(0.895, 0.5)) < value("accuracy-guaranteed", ended(0.895, 0.25))
    assert value("accuracy-guaranteed", ended(0.8, 0.01)) < value("accuracy-guaranteed", ended(0.895, 0.99))
    without = ended(0.9, shares={"macs": 0.4, "parameters": 0.3})
    assert value("accuracy-guaranteed", without) == pytest.approx(-math.log(0.4))


def test_below_one_joule_depgraphrl_as_printed_pays_for_errors_and_repaired_it_does_not() -> None:
    small, large = ({"energy_mj": mj} for mj in (33.0, 5000.0))
    assert value("depgraphrl-paper", ended(0.5, **small)) > value("depgraphrl-paper", ended(0.9, **small)) > 0
    assert value("depgraphrl-paper", ended(0.5, **large)) < value("depgraphrl-paper", ended(0.9, **large)) < 0
    for energy in (0.01, 0.5, 1.0):
        assert value("depgraphrl", ended(0.5, energy)) < value("depgraphrl", ended(0.9, energy)) < 0
    assert value("depgraphrl-paper", ended(1.0, **small)) == value("depgraphrl-paper", ended(1.0, **large)) == 0
    assert value("depgraphrl", ended(1.0, 0.5)) > value("depgraphrl", ended(1.0, 0.9)), "an error of 0 hides no energy"


def test_akperl_as_printed_punishes_pruning_and_hangs_on_units() -> None:
    more, less = ended(removed=(0.5, 0.5)), ended(removed=(0.1, 0.1))
    assert value("akperl-paper", more) < value("akperl-paper", less)
    assert value("akperl", more) == value("akperl", less)
    assert value("akperl-paper", ended(energy_mj=100.0)) < value("akperl-paper", ended(0.3, energy_mj=10.0))


@pytest.mark.parametrize("name", [name for name in FORMS if not name.endswith("-paper")])
def test_more_score_at_the_same_cost_is_never_paid_less(name: str) -> None:
    values = [value(name, ended(score)) for score in (0.3, 0.6, 0.85, 0.899, 0.95)]
    assert values == sorted(values)


def test_options_become_rewards() -> None:
    assert rewards("akperl", "") == (Reward("akperl"),)
    assert rewards("akperl", "a=1, b=0.5") == (Reward("akperl", (("a", (1.0,)), ("b", (0.5,)))),)
    grid = rewards("akperl", "a=2", "b=0.05|0.2,c=0|0/0.1")
    assert [str(one) for one in grid] == [
        "akperl a=2,b=0.05,c=0", "akperl a=2,b=0.05,c=0/0.1", "akperl a=2,b=0.2,c=0", "akperl a=2,b=0.2,c=0/0.1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("akprl", ""), r"^unknown reward 'akprl'; did you mean 'akperl'\?$"),
        (("akperl", "e=1"), r"^reward akperl has no weight 'e'"),
        (("constrained", "a=1"), r"^reward constrained has no weight 'a'; it has none$"),
        (("akperl", "a=x"), r"^sparsify.reward_weights 'a=x' is not understood; give NAME=VALUE, such as a=1,b=0.5$"),
        (("akperl", "a=1|2"), r"^sparsify.reward_weights 'a=1\|2' is not understood"),
        (("akperl", "", "b"), r"^sparsify.reward_grid 'b' is not understood; .* such as b=0.05\|0.1,c=0\|0.1$"),
        (("accuracy-guaranteed", "drop=0"), r"^reward weight drop is the loss allowed, a fraction above 0"),
        (("accuracy-guaranteed", "", "drop=0.01|0"), r"^reward weight drop is the loss allowed, a fraction above 0"),
        (("akperl", "", "b=nan"), r"^sparsify.reward_grid 'b=nan' is not understood"),
        (("driving", "l2=0.1/9/9"), r"^reward weight l2 is one number, not 3$"),
        (("accuracy-guaranteed", "", "k=1|1/7"), r"^reward weight k is one number, not 2$"),
    ],
)
def test_other_options_are_refused(call: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        rewards(*call)


@pytest.mark.parametrize("weight", ["a", "b", "c"])
def test_a_weight_by_layer_needs_one_for_each_and_is_refused_before_anything_is_spent(weight: str) -> None:
    env, scorer = toy_env(played_space("ladder"), rules=Rules(reward=Reward("akperl")))
    good, bad = (Reward("akperl", ((weight, (0.5,) * layers),)) for layers in (8, 3))
    assert env.paying(good).rules.reward == good
    with pytest.raises(BadOption, match=rf"^reward weight {weight} by layer needs 8 values here, not 3$"):
        searches(find.find("agents", "ppo")(), env, 0, [good, bad])
    with pytest.raises(BadOption, match=rf"^reward weight {weight} by layer needs 8 values here, not 3$"):
        toy_env(played_space("ladder"), rules=Rules(reward=bad))
    assert scorer.batches == []
