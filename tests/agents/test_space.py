"""The action wall: whatever is chosen, the plan fits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_spaces import toy_cost, toy_space

from edgeprune.agents.space import Space
from edgeprune.errors import BadOption, Infeasible, UnmetRequirement
from edgeprune.groups import DROP, CostModel, Group, Op

SPACES = {share: toy_space(share) for share in (0.12, 0.3, 0.5, 0.8, 1.0)}


@given(st.sampled_from(sorted(SPACES)), st.lists(st.integers(0, 8), min_size=8, max_size=8))
@settings(max_examples=200, deadline=None)
def test_every_walk_through_the_wall_fits(share: float, picks: list[int]) -> None:
    space = SPACES[share]
    choices: list[int] = []
    for pick in picks:
        legal = [w for w, ok in zip(space.options[len(choices)], space.legal(choices), strict=True) if ok]
        assert legal
        choices.append(legal[pick % len(legal)])
    assert space.share(space.canonical(space.complete(choices, space.full()))) <= 1.0


@pytest.mark.parametrize("share", SPACES)
def test_the_wall_forbids_nothing_that_can_still_fit(share: float) -> None:
    space = SPACES[share]
    for at, options in enumerate(space.options):
        narrow = space.choices(space.minimum())[:at]
        if space.skipped(narrow):
            continue
        fits = [space.share(space.complete([*narrow, w], space.minimum())) <= 1.0 for w in options]
        assert space.legal(narrow) == tuple(fits)


def test_only_free_groups_take_a_step() -> None:
    space = toy_space()
    assert space.cost.groups[0].locked and space.free == tuple(range(1, 9))
    assert space.full()[0] == space.minimum()[0] == 32


def test_a_dropped_block_leaves_its_groups_nothing_to_decide() -> None:
    space = toy_space(1.0)
    opener = next(at for at, options in enumerate(space.options) if options[-1] == DROP)
    choices = [*space.choices(space.full())[:opener], DROP]
    assert space.skipped(choices)
    assert space.legal(choices) == (True, False, False, False)
    narrow = space.complete([*choices, 8], space.full())
    assert space.canonical(narrow)[space.free[opener + 1]] == 32
    assert space.share(narrow) == space.share(space.canonical(narrow))


def test_share_is_the_worst_of_the_ceilings() -> None:
    cost = toy_cost()
    space = Space(cost, {"macs": cost.full["macs"], "parameters": 0.5 * cost.full["parameters"]})
    assert space.share(space.full()) == pytest.approx(2.0)
    assert space.excess(space.full()) == pytest.approx(1.0)
    assert space.excess(space.minimum()) == 0.0


def test_an_unreachable_ceiling_names_the_reachable_range() -> None:
    cost = toy_cost()
    with pytest.raises(Infeasible) as caught:
        Space(cost, {"macs": 0.01 * cost.full["macs"]})
    smallest = cost.cost(toy_space(1.0).minimum())["macs"] / cost.full["macs"]
    reach = np.ceil(1000 * smallest) / 1000
    assert str(caught.value) == (
        f"the ceiling of {0.01 * cost.full['macs']:.4g} MACs (0.010x of the original's) is out of reach: the smallest "
        f"reachable is {reach:.3f}x of the original's MACs; set --max-macs to {reach:.3f}x or more"
    )
    Space(cost, {"macs": reach * cost.full["macs"]})


def test_nothing_to_prune_is_an_error() -> None:
    cost = CostModel([Op("a", 8, 8, 1.0, 1.0)], [Group("a", 8, ladder=(8,), locked="it is read by the output")])
    message = "^no group of this model can be pruned; `edgeprune inspect` says why for each$"
    with pytest.raises(UnmetRequirement, match=message):
        Space(cost, {"macs": 1.0})


def test_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(BadOption, match=r"^a search cannot limit latency; it can limit macs, parameters$"):
        Space(toy_cost(), {"latency": 1.0})
