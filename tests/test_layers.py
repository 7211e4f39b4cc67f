from __future__ import annotations

import numpy as np
import pytest
from contexts import torch_model
from networks import SHAPE, TOYS, toy
from torch import nn

from edgeprune import layers, surgery
from edgeprune.agents.actions import actions_of
from edgeprune.groups import FRACTIONS, uniform
from edgeprune.layers import EIGHTHS
from edgeprune.masks import filter_of
from edgeprune.model import Surgery
from edgeprune.tracing import size_of

SOME = [name for name in TOYS if name in ("Plain", "Residual", "Depthwise", "Grouped", "Transposed", "SharedBlocks")]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("granularity", ["element", "2:4"])
def test_the_algebra_counts_what_is_not_zero(name: str, granularity: layers.Masked) -> None:
    model = toy(name)
    cost = layers.rows(model, granularity)
    assert cost.full == pytest.approx(size_of(model))
    rng = np.random.default_rng(0)
    for _ in range(3):
        widths = [int(rng.choice(g.options())) for g in cost.groups]
        entries = layers.chosen(model.module, cost.groups, widths)
        assert set(entries) == {g.name for g, w in zip(cost.groups, widths, strict=True) if w < EIGHTHS}
        found = layers.nonzero(surgery.rebuild(model, Surgery(masks=entries)))
        if not entries:
            assert found is None
            continue
        assert found is not None
        predicted = cost.cost(widths)
        for quantity in ("macs", "parameters"):  # counts are whole, so what is kept may be less by a weight a layer
            assert found[quantity] <= predicted[quantity] * (1 + 1e-12)
        assert found["parameters"] > predicted["parameters"] - len(entries)
        assert found["macs"] == pytest.approx(predicted["macs"], rel=0.02)
    assert layers.nonzero(model) is None


def test_every_layer_offers_the_eighths() -> None:
    cost = layers.rows(toy("Residual"), "element")
    names = {n for n, p in toy("Residual").module.named_modules() if isinstance(p, nn.Conv2d | nn.Linear)}
    assert {g.name for g in cost.groups} == names, "the first layer and the last among them"
    assert all(g.ladder == tuple(range(8, 0, -1)) and not g.locked for g in cost.groups)
    assert {actions_of(g.options()) for g in cost.groups} == {tuple(range(len(FRACTIONS)))}
    assert uniform(cost.groups, 0.5) == (4,) * len(cost.groups)
    assert cost.cost(uniform(cost.groups, 0.125))["macs"] == pytest.approx(cost.full["macs"] / 8)


def test_two_of_four_is_all_or_half_and_says_where_it_cannot_be() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    )
    cost = layers.rows(torch_model(module, SHAPE), "2:4")
    assert {g.name: (g.ladder, g.locked) for g in cost.groups} == {
        "0": ((8,), "the number of channels that its filters read (3) is no multiple of 4"),
        "1": ((8,), "the number of channels that its filters read (1) is no multiple of 4"),
        "2": ((8,), "2:4 is not defined for a transposed convolution"),
        "3": ((8, 4), ""),
    }
    assert actions_of(cost.groups[3].options()) == (0, 4)
    assert layers.chosen(module, cost.groups, (8, 8, 8, 4)) == {"3": "2:4"}


def test_what_is_shared_or_tiny_or_never_runs_is_left_alone() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.two.weight = self.one.weight
            self.small, self.unused = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 8, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.small(self.two(self.one(x)))

    model = torch_model(Odd())
    cost = layers.rows(model, "element")
    assert {g.name: g.locked for g in cost.groups} == {
        "one": "its weight also serves elsewhere",
        "two": "its weight also serves elsewhere",
        "small": "3 weights are too few to mask",
    }
    assert cost.full == pytest.approx(size_of(model))


def test_counts_are_rounded_down() -> None:
    model = torch_model(nn.Sequential(nn.Conv2d(3, 3, 1)))
    cost = layers.rows(model, "element")
    assert layers.counted(model.module, cost.groups[0], 4) == 4  # of 9
    assert layers.chosen(model.module, cost.groups, (1,)) == {"0": 1}
    assert filter_of(model.module, "0").numel() == 9
