from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from contexts import torch_model
from networks import TOYS, random_scores, random_widths, toy, traced
from torch import Tensor, nn
from toy_parts import Block, Toy, unit

from edgeprune import surgery
from edgeprune.groups import Group, ladder, plan_of
from edgeprune.model import TorchModel
from edgeprune.tracing import size_of, trace
from edgeprune.trials import TOLERANCE, _trial_channels, agree

each_toy = pytest.mark.parametrize("name", list(TOYS))


def described(group: Group) -> tuple[object, ...]:
    """All a group says, so that two can be compared."""
    members = [(m.module, m.side, m.local.tolist(), m.root.tolist()) for m in group.members]
    return (group.name, group.channels, group.ladder, group.segments, group.block, group.inside, group.locked, members)


# --- every toy --------------------------------------------------------------------------------------------------------


@each_toy
def test_groups_locks_and_blocks_are_those_declared(name: str) -> None:
    model, cost = traced(name)
    assert isinstance(model.module, Toy)
    model.module.check(cost)


@each_toy
def test_every_group_keeps_the_contract(name: str) -> None:
    model, cost = traced(name)
    parts = dict(model.module.named_modules())
    assert len({group.name for group in cost.groups}) == len(cost.groups)
    for group in cost.groups:
        assert group.ladder == ((group.channels,) if group.locked else ladder(group.channels, (1,), group.segments))
        assert group.block in (None, group.inside), "a block is offered from inside it"
        for member in group.members:
            if group.locked:
                continue
            assert set(member.root.tolist()) == set(range(group.channels))
            assert len(set(member.local.tolist())) == len(member.local)
            size = surgery.sides(parts[member.module])
            assert size is not None and member.local.max() < size[0 if member.side == "out" else 1]
    blocks = [group.block for group in cost.groups if group.block]
    assert len(set(blocks)) == len(blocks), "each block is offered once"


@each_toy
def test_groups_stand_in_forward_order(name: str) -> None:
    model, cost = traced(name)
    seen: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda *_, own=own: seen.append(own))
        for own, part in model.module.named_modules()
    ]
    model.predict(model.inputs[0].numpy())
    for hook in hooks:
        hook.remove()
    at = [seen.index(group.name) for group in cost.groups]
    assert at == sorted(at)


@each_toy
def test_even_a_dead_net_shows_its_structure(name: str) -> None:
    _, cost = traced(name)
    other = toy(name, seed=1)
    with torch.no_grad():
        for key, parameter in other.module.named_parameters():
            if "parametrizations" not in key:  # those divide by their norm
                parameter.zero_()
    again = trace(other)
    assert list(map(described, again.groups)) == list(map(described, cost.groups))
    assert again.full == cost.full


@each_toy
def test_size_needs_no_groups(name: str) -> None:
    model, cost = traced(name)
    assert size_of(model) == cost.full
    assert model.parameters() == cost.full["parameters"]


def test_ladders_follow_the_multiples_asked_for() -> None:
    cost = trace(toy("Grouped"), (16, 8))
    assert {g.name: g.ladder for g in cost.groups} == {
        "a.0": (16, 8), "b.0": (32, 24, 16, 8), "c.0": (8, 7, 6, 5, 4, 3, 2, 1), "head": (5,),
    }  # fmt: skip


# --- single findings --------------------------------------------------------------------------------------------------


def test_macs_worked_by_hand() -> None:
    _, cost = traced("Plain")
    macs = {"a.0": 16 * 16 * 9 * 3 * 8, "b.0": 8 * 8 * 9 * 8 * 16, "c": 6 * 6 * 9 * 16 * 12, "head": 12 * 5}
    assert cost.full["macs"] == sum(macs.values())
    by_op = dict(zip((op.name for op in cost.ops), cost.by_op(tuple(g.channels for g in cost.groups)), strict=True))
    assert {name: count for name, count in by_op.items() if count} == macs
    weights = 27 * 8 + 16 + 72 * 16 + 32 + 144 * 12 + 12 + 60 + 5
    assert cost.full["parameters"] == weights


def test_a_transposed_convolution_counts_its_inputs_positions() -> None:
    _, cost = traced("Transposed")
    by_op = dict(zip((op.name for op in cost.ops), cost.by_op(tuple(g.channels for g in cost.groups)), strict=True))
    assert by_op["up"] == 8 * 8 * 4 * 16 * 8, "every input pixel meets the whole 2 × 2 kernel"


def test_what_runs_twice_counts_twice_and_weighs_once() -> None:
    _, twice = traced("CalledTwice")
    _, once = traced("Asked")  # the same layers, called once
    block = 2 * 16 * 16 * 9 * 8 * 8
    assert twice.full["macs"] - once.full["macs"] == block
    assert twice.full["parameters"] == once.full["parameters"]


def test_shared_parameters_weigh_once() -> None:
    model, cost = traced("SharedFilter")
    alone = model.module.a.bias.numel() + model.module.b.bias.numel() + model.module.a.weight.numel()
    others = [*model.module.stem.parameters(), *model.module.head.parameters()]
    assert cost.full["parameters"] == alone + sum(p.numel() for p in others)


def test_groups_without_members_lie_where_their_names_say() -> None:
    _, cost = traced("Untraceable")
    assert {g.name: (g.block, g.inside) for g in cost.groups if g.block or g.inside} == {
        "one.conv1": ("one", "one"),
        "one.conv2": (None, "one"),
    }


def test_a_block_without_a_group_of_its_own_can_still_be_dropped() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 8)
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(self.norm(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = unit(3, 8), Alone(), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.stem(x)))

    model = torch_model(Net())
    cost = trace(model)
    row = next(g for g in cost.groups if g.block)
    assert (row.name, row.channels, row.ladder, row.options(), row.members) == ("block", 1, (1,), (1, 0), ())
    widths = tuple(0 if g.block else g.channels for g in cost.groups)
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, {}))
    assert size_of(cut) == pytest.approx(cost.cost(widths))


def test_blocks_are_the_innermost_ones() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.stage = unit(3, 8), nn.Sequential(Block(8, 8), Block(8, 8))
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stage(self.stem(x)))

    assert {g.block for g in trace(torch_model(Net())).groups if g.block} == {"stage.0", "stage.1"}


def test_a_model_without_parameters_has_no_groups_and_costs_nothing() -> None:
    model = torch_model(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()))
    assert trace(model).groups == ()
    assert size_of(model) == {"macs": 0.0, "parameters": 0.0}


def test_an_attention_layer_locks_what_it_touches_and_the_rest_stays_free() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = unit(3, 8), unit(8, 8, stride=4)
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.b(self.a(x)).flatten(2).transpose(1, 2)
            return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    locked = {g.name: bool(g.locked) for g in trace(torch_model(Net())).groups}
    assert locked["a.0"] is False
    assert locked["b.0"] is True


@pytest.mark.parametrize(
    ("channels", "second", "segments", "kept"),
    [
        (8, 7, 1, (1, 2, 3, 4, 5, 6, 7)),
        (16, 14, 1, tuple(range(1, 15))),
        (16, 12, 1, tuple(range(3, 15))),  # three at one end and one at the other
        (16, 8, 2, (3, 4, 5, 6, 9, 10, 11, 12)),  # the second run is the first one's mirror image
        (2, 1, 1, (1,)),
    ],
)
def test_a_trial_takes_channels_no_regular_tie_shares(
    channels: int, second: int, segments: int, kept: tuple[int, ...]
) -> None:
    group = Group("a", channels, ladder=(channels, second), segments=segments)
    assert _trial_channels(group) == kept


def test_outputs_agree_within_their_own_spread() -> None:
    wanted = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    step = TOLERANCE * wanted.std(correction=0)
    assert agree(wanted, wanted + 0.9 * step)
    assert not agree(wanted, wanted + 1.1 * step)
    assert agree(1e-6 * wanted, 1e-6 * (wanted + 0.9 * step)), "whatever its scale"
    assert not agree(wanted, wanted * float("nan"))
    assert agree(torch.tensor([[3.0]]), torch.tensor([[3.0 + 2e-4]])), "one logit has no spread: its size counts"
    assert not agree(torch.tensor([[3.0]]), torch.tensor([[3.001]]))


# --- models people really use -----------------------------------------------------------------------------------------


def real(name: str, size: int) -> TorchModel:
    """A randomly initialised model of the zoo, or a skip that says what is missing."""
    library, _, arch = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "timm":
            module = pytest.importorskip("timm").create_model(arch, pretrained=False, num_classes=10)
        else:
            module = pytest.importorskip("torchvision").models.get_model(arch, weights=None, num_classes=10)
    return torch_model(module, (1, 3, size, size))


@pytest.mark.parametrize(
    ("name", "last", "blocks"),
    [
        ("torchvision:resnet18", "fc", 5),
        ("torchvision:mobilenet_v3_small", "classifier.3", 6),
        ("timm:resnet10t", "fc", 1),
        ("torchvision:squeezenet1_0", "classifier.1", 0),
    ],
)
def test_models_people_use(name: str, last: str, blocks: int) -> None:
    model = real(name, 64)
    before = copy.deepcopy(model.module.state_dict())
    cost = trace(model, (8,))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.module.state_dict().items())
    assert [g.name for g in cost.groups if g.locked] == [last]
    assert sum(bool(g.block) for g in cost.groups) == blocks, "every block with an identity skip, and no other"
    for seed in range(2):
        widths = random_widths(cost, seed)
        cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, random_scores(cost, seed)))
        cut.verify()
        assert size_of(cut) == pytest.approx(cost.cost(widths), rel=1e-12)


def test_a_partial_plan_costs_less_than_a_tenth_of_a_millisecond() -> None:
    _, cost = traced("Residual")
    plans = [random_widths(cost, seed) for seed in range(200)]
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        for widths in plans:
            cost.cost(widths)
        rounds.append((time.perf_counter() - started) / len(plans))
    assert np.min(rounds) < 1e-4
