"""What a plan takes on the target: terms, look-ups, and the algebra around them."""

import numpy as np
import pytest

from edgeprune.groups import DROP, CostModel, Group, Member, Op, aligned
from edgeprune.tally import Tallied, Tally, Term, look_up

WIDE, NARROW = 16, 8


def member(module: str, side: str, n: int) -> Member:
    return Member(module, side, np.arange(n), np.arange(n))  # type: ignore[arg-type]


def cost() -> CostModel:
    """A stem of 16 channels, a droppable block of two layers around 8, and a head."""
    ops = [
        Op("stem", WIDE, 3, 64.0, 9.0),
        Op("block.a", NARROW, WIDE, 64.0, 9.0),
        Op("block.b", WIDE, NARROW, 64.0, 9.0),
        Op("head", 10, WIDE, 1.0, 1.0),
    ]
    outer = Group("stem", WIDE, (member("stem", "out", WIDE), member("block.a", "in", WIDE),
                                 member("block.b", "out", WIDE), member("head", "in", WIDE)), (16, 8, 4))  # fmt: skip
    inner = Group("block.a", NARROW, (member("block.a", "out", NARROW), member("block.b", "in", NARROW)), (8, 4, 2),
                  block="block")  # fmt: skip
    return CostModel(ops, [outer, inner])


def term(op: str, outputs: tuple[float, ...], inputs: tuple[float, ...], each: float = 1.0) -> Term:
    return Term(op, outputs, inputs, each * np.outer(outputs, inputs))


def tally(**changes: float) -> Tally:
    terms = [term("stem", (4.0, 16.0), (3.0,)), term("block.a", (2.0, 8.0), (4.0, 16.0)),
             term("block.b", (4.0, 16.0), (2.0, 8.0)), term("head", (10.0,), (4.0, 16.0))]  # fmt: skip
    add = Term(whole=7.0, moved={"stem": 0.5, "block.b": 0.5})
    return Tally("latency", [*terms, add], **{"beside": 100.0, **changes})


def test_the_quantity_of_a_plan_is_the_sum_of_its_kernels() -> None:
    tallied = Tallied(cost(), [tally()])
    full = tallied.full
    assert full["latency"] == pytest.approx(100 + 48 + 128 + 128 + 160 + 7)
    assert {name: full[name] for name in ("macs", "parameters")} == cost().full
    half = tallied.cost((8, 4))
    assert half["latency"] == pytest.approx(100 + 24 + 32 + 32 + 80 + 3.5)
    assert half["macs"] == cost().cost((8, 4))["macs"]


def test_a_dropped_block_takes_nothing_and_moves_nothing() -> None:
    assert Tallied(cost(), [tally()]).cost((16, DROP))["latency"] == pytest.approx(100 + 48 + 160 + 3.5)


def test_a_kernel_that_no_op_is_known_for_stays_as_it_is() -> None:
    odd = Tally("latency", [Term("elsewhere", (1.0, 8.0), (1.0, 8.0), np.eye(2), whole=5.0),
                            Term(whole=2.0, moved={"elsewhere": 1.0})])  # fmt: skip
    tallied = Tallied(cost(), [odd])
    assert tallied.cost((8, 4))["latency"] == tallied.full["latency"] == 7.0


def test_groups_of_a_convolution_and_depthwise_ones_are_looked_up_by_their_own_channels() -> None:
    ops = [Op("depthwise", 16, None, 64.0, 9.0, conv_groups=16), Op("grouped", 16, 16, 64.0, 9.0, conv_groups=4)]
    group = Group("depthwise", 16, (member("depthwise", "out", 16), member("grouped", "in", 16)), (16, 8))
    terms = [term("depthwise", (8.0, 16.0), (1.0,)), term("grouped", (8.0, 16.0), (2.0, 4.0))]
    tallied = Tallied(CostModel(ops, [group]), [Tally("latency", terms)])
    assert tallied.full["latency"] == pytest.approx(16 + 64)
    assert tallied.cost((8,))["latency"] == pytest.approx(8 + 32)


def test_the_share_of_a_group_is_that_of_all_it_touches() -> None:
    tallied = Tallied(cost(), [tally(beside=0.0)])
    shares = tallied.share_of(0)
    assert shares["latency"] == pytest.approx((48 + 128 + 128 + 160 + 7) / tallied.full["latency"])
    assert tallied.share_of(1)["latency"] == pytest.approx((128 + 128 + 3.5) / tallied.full["latency"])
    assert shares["macs"] == cost().share_of(0)["macs"]


def test_a_grid_that_reaches_beyond_a_kernel_does_not_make_it_dearer() -> None:
    """A form is measured for all kernels that have it, other models' included."""
    terms = [term(one.op, (*one.outputs, 640.0), (*one.inputs, 640.0)) for one in tally().terms[:-1]]
    wide = Tallied(cost(), [Tally("latency", [*terms, tally().terms[-1]])])
    plain = Tallied(cost(), [tally(beside=0.0)])
    assert [wide.share_of(at)["latency"] for at in (0, 1)] == pytest.approx(
        [plain.share_of(at)["latency"] for at in (0, 1)])  # fmt: skip


def test_other_ladders_keep_the_tallies() -> None:
    narrowed = aligned(Tallied(cost(), [tally()]), 8)
    assert narrowed.groups[0].ladder == (16, 8) and narrowed.groups[1].ladder == (8,)
    assert narrowed.cost((8, 8))["latency"] == Tallied(cost(), [tally()]).cost((8, 8))["latency"]


@pytest.mark.parametrize(
    ("outputs", "inputs", "expected"),
    [(4, 2, 8.0), (10, 2, 20.0), (10, 5, 50.0), (16, 8, 128.0), (32, 8, 256.0), (2, 1, 2.0), (0, 8, 0.0), (8, 0, 0.0)],
)
def test_between_the_points_it_is_bilinear_and_beyond_them_in_proportion(
    outputs: float, inputs: float, expected: float
) -> None:
    assert look_up(term("a", (4.0, 16.0), (2.0, 8.0)), outputs, inputs) == pytest.approx(expected)


def test_a_tally_is_named_by_its_content() -> None:
    assert repr(tally()) == repr(tally())
    others = [tally(beside=1.0), Tally("energy", tally().terms, 100.0), Tally("latency", tally().terms[:-1], 100.0),
              Tally("latency", [*tally().terms[:-1], Term(whole=7.0, moved={"stem": 1.0})], 100.0),
              Tally("latency", [term("stem", (4.0, 16.0), (3.0,), 2.0), *tally().terms[1:]], 100.0)]  # fmt: skip
    assert len({repr(one) for one in (tally(), *others)}) == 6
