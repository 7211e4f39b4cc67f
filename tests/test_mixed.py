"""Plans that choose widths and precisions: what they cost, and what they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tally import cost, tally, term

from edgeprune import find
from edgeprune.agents import warm
from edgeprune.agents.base import Evaluator
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.space import Space
from edgeprune.agents.uniform import even_plan
from edgeprune.groups import DROP, FLOAT, INT8, aligned, canonical, uniform
from edgeprune.mixed import Mixed, choices, parted, tallied
from edgeprune.tally import Tallied, Tally, Term

LOW = {"stem": 0.25, "block.a": 0.5, "block.b": 2.0, "head": 0.5}
"""What a kernel takes in int8 against float: the one is faster by four, another is slower."""


def pair(**changes: Any) -> Tally:
    """The tally of test_tally in float; in int8 what LOW says, and the addition for a quarter."""
    floating = tally()
    terms = [Term(one.op, one.outputs, one.inputs, LOW[one.op] * one.grid) for one in floating.terms if one.op]
    add = Term(whole=7.0 / 4, moved={"stem": 0.5, "block.b": 0.5})
    return Tally("latency", [*terms, add], 100.0, floating=floating, lowered=LOW)


def mixed() -> Mixed:
    found = tallied(cost(), [pair()])
    assert isinstance(found, Mixed)
    return found


def test_behind_the_groups_come_choices_for_all_that_makes_channels() -> None:
    groups = mixed().groups
    assert [(g.name, g.ladder, g.lowers, g.inside) for g in groups[2:]] == [
        ("stem in int8", (FLOAT, INT8), ("stem", "block.b"), None),
        ("block.a in int8", (FLOAT, INT8), ("block.a",), "block"),
    ]
    assert [g.name for g in choices(cost(), {"stem"})] == ["stem in int8"]


def test_in_float_everything_takes_what_float_takes() -> None:
    few = pair().choosing(tally(), {"stem", "block.a", "block.b"})  # the head is no group's, and has no choice
    model = tallied(cost(), [few])
    assert model.full == Tallied(cost(), [tally()]).full
    assert model.cost((8, 4, FLOAT, FLOAT)) == Tallied(cost(), [tally()]).cost((8, 4))


def test_what_is_lowered_takes_the_less_of_the_two_and_a_share_of_the_rest() -> None:
    full = mixed().full["latency"]
    # Of 48 + 128 + 128 ms in the three known kernels, 48 + 128 are the stem's choice; it saves 36, and 0 of block.b.
    share = (48 + 128) / (48 + 128 + 128 + 160)
    stem = mixed().cost((16, 8, INT8, FLOAT))
    assert full - stem["latency"] == pytest.approx(36 + share * 0.75 * 7)
    assert stem["macs"] == mixed().full["macs"]
    assert full - mixed().cost((16, 8, FLOAT, INT8))["latency"] == pytest.approx(64 + 128 / 464 * 0.75 * 7)


def test_what_went_with_a_block_counts_as_lowered_whatever_its_choice_says() -> None:
    one, other = (mixed().cost((16, DROP, INT8, precision))["latency"] for precision in (FLOAT, INT8))
    assert one == other == pytest.approx(100 + 12 + 80 + 3.5 / 4), "nothing is left in float"


@given(st.data())
def test_equal_plans_cost_the_same(data: Any) -> None:
    model = mixed()
    widths = [data.draw(st.sampled_from(group.options())) for group in model.groups]
    assert model.cost(widths) == model.cost(canonical(model.groups, widths))


def test_agents_find_the_only_plan_that_fits() -> None:
    model = mixed()
    least = model.cost((4, DROP, INT8, INT8))["latency"]
    space = Space(model, {"latency": least})
    for name in warm.BASELINES:
        evaluator = Evaluator(lambda plans: iter([0.5] * len(plans)), 20, {})
        trace = find.find("agents", name)().search(SparsityEnv(space, evaluator), 20, 0)
        assert trace.best is not None and trace.best.widths == (4, DROP, INT8, FLOAT), name


def test_lowering_is_no_pruning_to_a_reward() -> None:
    seen: list[Any] = []
    form = SimpleNamespace(energy=None, scale=1.0, stepwise=False, verbatim=False)
    layers: list[int] = []
    reward: Any = SimpleNamespace(
        name="told", form=form, value=lambda ended: seen.append(ended) or 0.0, require_layers=layers.append
    )
    space = Space(mixed(), {"latency": 1e9})
    env = SparsityEnv(space, Evaluator(lambda plans: iter([0.5] * len(plans)), 20, {}), rules=Rules(reward=reward))
    env.value((8, 4, INT8, FLOAT), 0.5)
    assert [one.removed for one in seen] == [(0.5, 0.5)] and layers == [2]


def test_what_no_group_makes_is_lowered_in_every_plan() -> None:
    """The head is no group's output here."""
    assert "head" not in {op for group in mixed().groups for op in group.lowers}
    assert tallied(cost(), [tally()]).full["latency"] - mixed().full["latency"] == pytest.approx(
        80 + 160 / 464 * 0.75 * 7
    )


def test_what_is_not_lowered_by_itself_is_no_choice() -> None:
    few = pair().choosing(tally(), {"block.a"})
    assert [group.lowers for group in tallied(cost(), [few]).groups[2:]] == [("block.a",)]


@given(st.data())
def test_no_cost_falls_as_a_plan_keeps_more(data: Any) -> None:
    model = mixed()
    first = [data.draw(st.sampled_from(group.options())) for group in model.groups]
    second = [data.draw(st.sampled_from([o for o in group.options() if o >= width]))
              for group, width in zip(model.groups, first, strict=True)]  # fmt: skip
    low, high = model.cost(first), model.cost(second)
    assert all(low[quantity] <= high[quantity] + 1e-9 for quantity in low)


def test_other_ladders_leave_the_choices_alone() -> None:
    narrow = aligned(mixed(), 8)
    assert isinstance(narrow, Mixed)
    assert [group.ladder for group in narrow.groups] == [(16, 8), (8,), (FLOAT, INT8), (FLOAT, INT8)]
    assert narrow.cost((8, 8, INT8, INT8)) == mixed().cost((8, 8, INT8, INT8))


def test_a_choice_is_about_what_it_lowers() -> None:
    model = mixed()
    assert model.touched(2).tolist() == [True, False, True, False]
    assert model.share_of(2)["latency"] == pytest.approx((48 + 128 + 7) / model.full["latency"])
    assert model.touched(1).tolist() == cost().touched(1).tolist()


def test_the_plan_everyone_tries_first_is_all_in_int8() -> None:
    assert uniform(mixed().groups, 1.0) == (16, 8, INT8, INT8)
    model = mixed()
    space = Space(model, {"latency": model.cost((16, 8, INT8, INT8))["latency"]})
    assert even_plan(space) == (16, 8, INT8, INT8)


def test_ceilings_count_what_int8_saves() -> None:
    model = mixed()
    least = model.cost((4, DROP, INT8, INT8))["latency"]
    Space(model, {"latency": least})
    assert least < Tallied(cost(), [tally()]).cost((4, DROP))["latency"]


def test_a_plan_parts_into_widths_and_what_stays_in_float() -> None:
    groups = mixed().groups
    channels, widths, floating = parted(groups, (8, 4, FLOAT, INT8))
    assert [g.name for g in channels] == ["stem", "block.a"]
    assert (widths, floating) == ((8, 4), ("stem", "block.b"))
    assert parted(groups, (8, 4, INT8, INT8))[2] == ()
    assert parted(groups, (8, DROP, INT8, FLOAT))[2] == (), "what went is not in float"
    assert [g.name for g in parted(cost().groups, (8, 4))[0]] == ["stem", "block.a"]
    assert parted(cost().groups, (8, 4))[1:] == ((8, 4), ())


def test_without_both_precisions_nothing_changes() -> None:
    assert type(tallied(cost(), [tally()])) is Tallied
    plain = cost()
    assert tallied(plain, []) is plain


def test_searches_by_other_float_times_are_other_searches() -> None:
    slower = pair()
    slower.floating = Tally("latency", [term("stem", (4.0, 16.0), (3.0,), 9.0)], 1.0)
    fewer = pair().choosing(tally(), {"stem"})
    assert len({repr(pair()), repr(slower), repr(fewer), repr(tally())}) == 4
    assert repr(pair()) == repr(pair())


def test_another_tally_beside_them_is_kept() -> None:
    energy = Tally("energy", [Term("stem", (4.0, 16.0), (3.0,), np.outer((4.0, 16.0), (3.0,)))], 5.0)
    model = tallied(cost(), [energy, pair()])
    assert model.full["energy"] == 5.0 + 48.0
    assert model.cost((8, 4, INT8, INT8))["energy"] == 5.0 + 24.0
    assert model.offering(model.groups).full == model.full
