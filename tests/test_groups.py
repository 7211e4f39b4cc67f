from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.groups import (
    DROP,
    FRACTIONS,
    CostModel,
    Cut,
    Group,
    Member,
    Op,
    aligned,
    canonical,
    ladder,
    plan_of,
    uniform,
    widths_of,
)

MULTIPLES = st.lists(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), min_size=1, max_size=3)


@st.composite
def divided(draw: st.DrawFn) -> tuple[int, int]:
    """Channels and a number of segments that divides them."""
    segments = draw(st.integers(1, 64))
    return segments * draw(st.integers(1, 4096 // segments)), segments


def row(name: str, channels: int, reader: str = "", **options: object) -> Group:
    """A group of one producer and, if named, one reader."""
    every = np.arange(channels)
    members = [Member(name, "out", every, every)] + ([Member(reader, "in", every, every)] if reader else [])
    return Group(name, channels, tuple(members), **options)  # type: ignore[arg-type]


# --- the ladder -------------------------------------------------------------------------------------------------------


@given(divided(), MULTIPLES)
def test_a_ladder_starts_full_and_falls_but_never_to_zero(size: tuple[int, int], multiples: list[int]) -> None:
    channels, segments = size
    rungs = ladder(channels, multiples, segments)
    assert rungs[0] == channels
    assert all(a > b > 0 for a, b in itertools.pairwise(rungs))
    assert len(rungs) <= len(FRACTIONS)
    assert all(rung % segments == 0 for rung in rungs)


@given(divided(), MULTIPLES)
def test_every_rung_below_full_is_one_the_target_likes(size: tuple[int, int], multiples: list[int]) -> None:
    channels, segments = size
    liked = [math.lcm(m, segments) for m in multiples if math.lcm(m, segments) < channels]
    for rung in ladder(channels, multiples, segments)[1:]:
        assert any(rung % step == 0 for step in liked or [segments])


@given(divided(), MULTIPLES, st.permutations([0, 1, 2]))
def test_the_order_of_multiples_does_not_matter(size: tuple[int, int], multiples: list[int], order: list[int]) -> None:
    channels, segments = size
    shuffled = [multiples[i] for i in order if i < len(multiples)]
    assert ladder(channels, shuffled, segments) == ladder(channels, multiples, segments)


@pytest.mark.parametrize(
    ("channels", "multiples", "segments", "expected"),
    [
        (64, (1,), 1, (64, 56, 48, 40, 32, 24, 16, 8)),
        (64, (16,), 1, (64, 48, 32, 16)),  # 56 and 40 round to even multiples: 64 and 32
        (64, (16, 4), 1, (64, 56, 48, 40, 32, 24, 16, 8)),
        (16, (16, 4), 1, (16, 12, 8, 4)),
        (8, (16,), 1, (8, 7, 6, 5, 4, 3, 2, 1)),  # narrower than every multiple: the multiple is no use
        (10, (4,), 1, (10, 8, 4)),
        (3, (1,), 1, (3, 2, 1)),
        (1, (1,), 1, (1,)),
        (12, (1,), 4, (12, 8, 4)),
        (24, (16,), 3, (24, 21, 18, 15, 12, 9, 6, 3)),  # lcm(16, 3) = 48 does not fit
        (8, (4,), 8, (8,)),
    ],
)
def test_ladders_worked_by_hand(
    channels: int, multiples: Sequence[int], segments: int, expected: tuple[int, ...]
) -> None:
    assert ladder(channels, multiples, segments) == expected


@given(st.lists(divided(), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_uniform_never_keeps_more_for_less(sizes: list[tuple[int, int]], a: float, b: float) -> None:
    groups = [Group(f"g{i}", c, ladder=ladder(c, (1,), s), segments=s) for i, (c, s) in enumerate(sizes)]
    less, more = (uniform(groups, f) for f in sorted((a, b)))
    assert all(x <= y for x, y in zip(less, more, strict=True))
    assert all(w in g.ladder for w, g in zip(more, groups, strict=True)), "and blocks are never dropped"


def test_uniform_keeps_everything_at_one_and_leaves_the_locked_alone() -> None:
    groups = [Group("a", 16, ladder=(16, 8, 4)), Group("b", 32, ladder=(32,), locked="outputs")]
    assert uniform(groups, 1.0) == (16, 32)
    assert uniform(groups, 0.5) == (8, 32)
    assert uniform(groups, 0.0) == (4, 32)
    assert uniform(groups, 0.75) == (8, 32), "of two rungs equally near, the lower: what was asked for is less"


# --- aligned ----------------------------------------------------------------------------------------------------------


@given(st.lists(divided(), min_size=1, max_size=4), MULTIPLES, st.sampled_from([1, 4, 8, 16]))
def test_aligned_offers_full_width_or_multiples_and_nothing_in_between(
    sizes: list[tuple[int, int]], multiples: list[int], multiple: int
) -> None:
    groups = [
        Group(f"g{i}", c, ladder=ladder(c, multiples, s), segments=s, block=f"g{i}") for i, (c, s) in enumerate(sizes)
    ]
    for before, after in zip(groups, aligned(CostModel([], groups), multiple).groups, strict=True):
        assert after.ladder[0] == before.channels
        assert all(r % multiple == 0 and r % after.segments == 0 and 0 < r < before.channels for r in after.ladder[1:])
        assert after.options()[-1] == DROP, "dropping the block stays on offer"


def test_aligned_keeps_locks_names_and_costs() -> None:
    cost = two_convolutions()
    narrowed = aligned(cost, 4)
    assert [g.ladder for g in narrowed.groups] == [(8, 4), (12, 8, 4)]
    assert narrowed.full == cost.full and narrowed.ops == cost.ops
    assert narrowed.cost((4, 8)) == cost.cost((4, 8))
    locked = CostModel([], [Group("a", 64, ladder=(64,), locked="outputs")])
    assert [(g.ladder, g.locked) for g in aligned(locked, 16).groups] == [((64,), "outputs")]


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_keeps_the_best_channels_and_breaks_ties_to_the_lower_index() -> None:
    groups = [Group("a", 6, ladder=(6, 3)), Group("b", 4, ladder=(4, 2))]
    scores = {"a": np.array([5.0, 1, 3, 3, 9, 3]), "b": np.zeros(4)}
    assert plan_of(groups, (3, 2), scores) == (Cut("a", 6, (0, 2, 4)), Cut("b", 4, (0, 1)))


def test_a_full_width_needs_no_scores_and_keeps_everything() -> None:
    assert plan_of([Group("a", 3, ladder=(3,))], (3,), {}) == (Cut("a", 3, (0, 1, 2)),)


def test_each_segment_keeps_equally_many_of_its_own_best() -> None:
    group = Group("a", 8, ladder=(8, 4), segments=2)
    scores = {"a": np.array([1.0, 2, 3, 4, 50, 60, 70, 80])}
    assert plan_of([group], (4,), scores)[0].kept == (2, 3, 6, 7)


@given(st.data())
def test_plans_say_their_widths_and_hold_the_best(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(divided().filter(lambda size: size[0] <= 256), min_size=1, max_size=4))
    groups = [Group(f"g{i}", c, ladder=ladder(c, (1,), s), segments=s) for i, (c, s) in enumerate(sizes)]
    widths = tuple(data.draw(st.sampled_from(g.ladder)) for g in groups)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scores = {g.name: rng.random(g.channels) for g in groups}
    plan = plan_of(groups, widths, scores)
    assert widths_of(groups, plan) == widths
    for group, cut in zip(groups, plan, strict=True):
        assert list(cut.kept) == sorted(set(cut.kept))
        run = group.channels // group.segments
        for segment in range(group.segments):
            own = set(range(segment * run, (segment + 1) * run))
            kept, gone = own & set(cut.kept), own - set(cut.kept)
            assert len(kept) == len(cut.kept) // group.segments
            assert not gone or min(scores[group.name][list(kept)]) >= max(scores[group.name][list(gone)])


def blocks() -> list[Group]:
    """One block of two groups that the first opens, and a group outside it."""
    return [
        Group("out", 8, ladder=(8, 4)),
        Group("block.a", 8, ladder=(8, 4), block="block", inside="block"),
        Group("block.b", 8, ladder=(8, 4), inside="block"),
    ]


def test_canonical_forgets_widths_inside_a_dropped_block() -> None:
    assert canonical(blocks(), (4, DROP, 4)) == (4, DROP, 8) == canonical(blocks(), (4, DROP, 8))
    assert canonical(blocks(), (4, 4, 4)) == (4, 4, 4)
    assert canonical(blocks(), canonical(blocks(), (4, DROP, 4))) == (4, DROP, 8)


def test_a_plan_that_drops_a_block_cuts_nothing_inside_it() -> None:
    scores = {name: np.arange(8.0) for name in ("out", "block.a", "block.b")}
    everything = tuple(range(8))
    assert plan_of(blocks(), (4, DROP, 4), scores) == (
        Cut("out", 8, (4, 5, 6, 7)),
        Cut("block.a", 8, everything, drop_block=True),
        Cut("block.b", 8, everything),
    )
    assert widths_of(blocks(), plan_of(blocks(), (4, DROP, 4), scores)) == (4, DROP, 8)
    assert widths_of(blocks(), ()) == (8, 8, 8), "what a plan does not name stays whole"


def test_dropping_is_on_offer_only_where_a_block_opens() -> None:
    assert [g.options() for g in blocks()] == [(8, 4), (8, 4, DROP), (8, 4)]


# --- the cost algebra -------------------------------------------------------------------------------------------------


def two_convolutions() -> CostModel:
    """A 3×3 convolution of 3 → 8 and one of 8 → 12, with bias, on 10 × 10 pixels; each is a group of its own."""
    ops = [Op("a", 8, 3, 100, 9, per_channel=1), Op("b", 12, 8, 100, 9, per_channel=1)]
    groups = [row("a", 8, "b", ladder=ladder(8)), row("b", 12, ladder=ladder(12))]
    return CostModel(ops, groups)


def test_macs_and_parameters_worked_by_hand() -> None:
    cost = two_convolutions()
    assert cost.full == {"macs": 100 * 9 * (3 * 8 + 8 * 12), "parameters": 9 * (3 * 8 + 8 * 12) + 8 + 12}
    assert cost.cost((5, 6)) == {"macs": 100 * 9 * (3 * 5 + 5 * 6), "parameters": 9 * (3 * 5 + 5 * 6) + 5 + 6}
    assert cost.by_op((5, 6)).tolist() == [100 * 9 * 15, 100 * 9 * 30]


def test_a_flattened_reader_loses_all_that_a_channel_owns() -> None:
    reader = Member("fc", "in", np.arange(8 * 4), np.repeat(np.arange(8), 4))
    producer = Member("a", "out", np.arange(8), np.arange(8))
    cost = CostModel([Op("a", 8, 3, 16, 9), Op("fc", 5, 32, 1, 1)], [Group("a", 8, (producer, reader), ladder=(8, 2))])
    assert cost.cost((2,)) == {"macs": 16 * 9 * 3 * 2 + 5 * 8, "parameters": 9 * 3 * 2 + 5 * 8}


def test_grouped_and_depthwise_convolutions_cost_what_they_hold() -> None:
    grouped = CostModel([Op("a", 16, 8, 10, 9, conv_groups=4)], [row("a", 16, ladder=(16, 8))])
    assert grouped.cost((8,)) == {"macs": 10 * 9 * 8 * 8 / 4, "parameters": 9 * 8 * 8 / 4}
    depthwise = CostModel([Op("a", 16, None, 10, 9, conv_groups=16)], [row("a", 16, "a", ladder=(16, 8))])
    assert depthwise.cost((8,)) == {"macs": 10 * 9 * 8, "parameters": 9 * 8}


def test_a_dropped_block_costs_nothing_and_the_rest_what_it_did() -> None:
    ops = [Op("out", 8, 3, 10, 1), Op("block.a", 8, 8, 10, 9), Op("block.b", 8, 8, 10, 9), Op("blocked", 5, 8, 1, 1)]
    cost = CostModel(ops, blocks())
    assert cost.cost((8, DROP, 8)) == {"macs": 240 + 40, "parameters": 24 + 40}, "'blocked' only begins like 'block'"
    assert cost.by_op((8, DROP, 8)).tolist() == [240, 0, 0, 40]


def test_fixed_parameters_never_go() -> None:
    cost = CostModel([Op("a", 8, 3, 1, 1, fixed=7)], [row("a", 8, ladder=(8, 1))])
    assert cost.cost((1,))["parameters"] == 3 + 7


@given(st.tuples(st.integers(1, 8), st.integers(1, 12)), st.tuples(st.integers(1, 8), st.integers(1, 12)))
def test_cost_never_falls_when_a_width_grows(a: tuple[int, int], b: tuple[int, int]) -> None:
    cost = two_convolutions()
    less, more = (cost.cost(tuple(f(x, y) for x, y in zip(a, b, strict=True))) for f in (min, max))
    assert all(less[quantity] <= more[quantity] for quantity in ("macs", "parameters"))


def test_shares_are_those_of_the_layers_a_group_touches() -> None:
    cost = two_convolutions()
    assert cost.share_of(0) == {"macs": 1.0, "parameters": 1.0}
    assert cost.share_of(1) == pytest.approx({"macs": 96 / 120, "parameters": (9 * 96 + 12) / (9 * 120 + 20)})
    assert CostModel([], [Group("a", 4)]).share_of(0) == {"macs": 0.0, "parameters": 0.0}
