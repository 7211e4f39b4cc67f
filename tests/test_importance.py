from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contexts import Agreement, smooth_images, torch_model
from networks import TOYS, toy, traced
from pruning_task import Answers
from torch import nn

from edgeprune import importance
from edgeprune.errors import BadOption, UnmetRequirement
from edgeprune.groups import Group
from edgeprune.importance import CRITERIA, dead, scores
from edgeprune.model import TorchModel
from edgeprune.tasks.base import Batch
from edgeprune.tracing import trace

each_criterion = pytest.mark.parametrize("criterion", list(CRITERIA))
GRADIENT = ("taylor", "gradient_l1")
INFORMED = [c for c in CRITERIA if c != "random"]


def group_of(model: TorchModel, name: str) -> Group:
    return next(g for g in trace(model).groups if g.name == name)


# --- the contract of a criterion --------------------------------------------------------------------------------------


def test_the_criteria_are_those_promised() -> None:
    assert set(CRITERIA) == {"l1", "l2", "random", "taylor", "gradient_l1", "bn_scale"}


@each_criterion
@pytest.mark.parametrize("name", [n for n in TOYS if n != "Transposed"])
def test_one_finite_score_a_channel(criterion: str, name: str) -> None:
    model, cost = traced(name)
    before = copy.deepcopy(model.module.state_dict())
    found = scores(model, cost.groups, criterion, Answers(model, 16), 0)
    assert list(found) == [g.name for g in cost.groups]
    for group in cost.groups:
        assert found[group.name].shape == (group.channels,)
        assert np.isfinite(found[group.name]).all() and (found[group.name] >= 0).all()
    again = scores(model, cost.groups, criterion, Answers(model, 16), 0)
    assert all(np.array_equal(found[key], again[key]) for key in found), "and the same every time"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters()), "the model carries no gradients away"


@each_criterion
def test_only_chance_needs_no_weights(criterion: str) -> None:
    (one, cost), two = traced("Plain"), toy("Plain", seed=1)
    a, b = (scores(m, cost.groups, criterion, Answers(m, 16), 7)["b.0"] for m in (one, two))
    assert np.array_equal(a, b) == (criterion == "random")


def test_chance_hangs_on_the_seed() -> None:
    model, cost = traced("Plain")
    zero, one = (scores(model, cost.groups, "random", None, seed) for seed in (0, 1))
    assert not np.array_equal(zero["b.0"], one["b.0"])


@pytest.mark.parametrize("criterion", INFORMED)
@pytest.mark.parametrize(
    ("name", "group"),
    [("Plain", "b.0"), ("Residual", "two.conv2"), ("Concat", "left.0"), ("Depthwise", "two.body.0.0"),
     ("Grouped", "a.0"), ("Flattened", "a.0"), ("Squeezed", "block.body.0.0")],
)  # fmt: skip
def test_a_planted_unimportant_channel_comes_last(criterion: str, name: str, group: str) -> None:
    model = toy(name)
    row = group_of(model, group)
    planted = 5
    with torch.no_grad():
        for member in row.members:
            index = torch.from_numpy(member.local[member.root == planted])
            shrink(model.module.get_submodule(member.module), member.side, index)
    found = scores(model, [row], criterion, Answers(model, 32), 0)[group]
    others = np.delete(found, planted)
    assert found[planted] < others[others > 0].min(), "a random net may have channels without any gradient"


def shrink(part: nn.Module, side: str, index: torch.Tensor) -> None:
    """Make the parameters of one side's indices a thousand times smaller."""
    weight = part.get_parameter("weight")
    if weight.ndim == 1 or side == "out":
        weight[index] *= 1e-3
        if part.bias is not None:
            part.bias[index] *= 1e-3
    else:
        size = weight.shape[1]
        rows = weight.shape[0] // getattr(part, "groups", 1)
        for i in index.tolist():
            run = i // size
            weight[run * rows : (run + 1) * rows, i % size] *= 1e-3


def test_magnitudes_worked_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -3.0]).view(2, 1, 1, 1))
        module[2].weight.copy_(torch.tensor([[1.0, 1, 1, 1, -1, -1, -1, 1]]))
    model = torch_model(module, (1, 1, 2, 2))
    row = group_of(model, "0")
    # Each member by its mean, then the mean of members: filters 1 and 3 of 2; readers 4 and 4 of 4.
    assert scores(model, [row], "l1", None, 0)["0"].tolist() == [(0.5 + 1) / 2, (1.5 + 1) / 2]
    # The same of the squares: 1 and 9 of 5; 4 and 4 of 4.
    assert scores(model, [row], "l2", None, 0)["0"].tolist() == pytest.approx(
        [math.sqrt((0.2 + 1) / 2), math.sqrt((1.8 + 1) / 2)]
    )


def test_gradient_criteria_worked_by_hand() -> None:
    class Sum(Agreement):
        """The loss is the plain sum of the outputs, so that a weight's gradient is what it multiplies."""

        def splits(self):
            return ("train",)

        def loss(self, output, batch):
            return output.sum()

    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([2.0, -5.0]).view(2, 1, 1, 1))
        module[2].weight.copy_(torch.tensor([[1.0, 3], [1, 1]]))
    model = torch_model(module, (1, 1, 1, 1))
    task = Sum(model, np.full((1, 1, 1, 1), 10, np.float32))
    row = group_of(model, "0")
    # Gradients: of the filters 10·(1+1) and 10·(3+1); of the readers' columns, 20 and −50 in each of two rows.
    wanted = (np.array([20, 40]) / 30 + np.array([40, 100]) / 70) / 2
    assert scores(model, [row], "gradient_l1", task, 0)["0"].tolist() == pytest.approx(wanted.tolist())
    wanted = (np.array([40, 200]) / 120 + np.array([20 + 20, 150 + 50]) / 120) / 2
    assert scores(model, [row], "taylor", task, 0)["0"].tolist() == pytest.approx(wanted.tolist())


def test_scales_of_batch_norms_and_l2_where_there_are_none() -> None:
    model, cost = traced("Plain")
    found = scores(model, cost.groups, "bn_scale", None, 0)
    assert found["a.0"].tolist() == model.module.a[1].weight.abs().tolist()
    assert found["c"].tolist() == scores(model, cost.groups, "l2", None, 0)["c"].tolist()
    model, cost = traced("Concat")
    own, outer = model.module.right[1].weight.abs(), model.module.bn.weight.abs()[8:]
    found = scores(model, cost.groups, "bn_scale", None, 0)
    assert found["right.0"].tolist() == pytest.approx(((own + outer) / 2).tolist())


def test_gradients_come_from_a_bounded_number_of_batches() -> None:
    model, cost = traced("Plain")
    taken = []

    class Endless(Answers):
        def train_batches(self, epoch, seed):
            while True:
                taken.append((epoch, seed))
                yield next(super().train_batches(epoch, seed))

    scores(model, cost.groups, "taylor", Endless(model, 16), 3)
    assert taken == [(0, 3)] * importance.GRADIENT_BATCHES


@pytest.mark.parametrize("criterion", GRADIENT)
def test_gradients_that_pull_both_ways_do_not_cancel_out(criterion: str) -> None:
    model, cost = traced("Plain")

    class Torn(Answers):
        """The same images twice, and a loss that is turned round for the second half."""

        labels = torch.arange(2).repeat_interleave(importance._PART)

        def train_batches(self, epoch, seed):
            images = torch.from_numpy(smooth_images(importance._PART))
            yield Batch(torch.cat([images, images]), self.labels)

        def loss(self, output, batch):
            return (output * (1 - 2 * batch.targets)[:, None]).mean()

    class Whole(Torn):
        labels = Torn.labels.double()  # no classes: such a batch is not taken apart

    class Once(Torn):
        labels = torch.zeros(2 * importance._PART, dtype=torch.long)

    torn, whole, once = (scores(model, cost.groups, criterion, task(model, 16), 0) for task in (Torn, Whole, Once))
    for group in cost.groups:
        if not group.locked:
            assert torn[group.name] == pytest.approx(once[group.name], rel=1e-4)
            assert whole[group.name] != pytest.approx(once[group.name], rel=1e-2)


@pytest.mark.parametrize("criterion", GRADIENT)
def test_without_data_gradients_cannot_be_had(criterion: str) -> None:
    model, cost = traced("Plain")

    class Synthetic(Answers):
        name = "synthetic"

    message = f"^criterion '{criterion}' needs the gradient of a loss; give --data, or use l1 or l2$"
    for task in (None, Synthetic(model, 8), Agreement(model, smooth_images(2))):  # the last has no splits
        with pytest.raises(UnmetRequirement, match=message):
            scores(model, cost.groups, criterion, task, 0)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("tayler", "; did you mean 'taylor'?"), ("x", "; known: bn_scale, gradient_l1, l1, l2, random, taylor")],
)
def test_unknown_criteria_are_answered_with_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(BadOption) as error:
        scores(toy("Plain"), [], wrong, None, 0)
    assert str(error.value) == f"unknown criterion {wrong!r}{hint}"


# --- dead channels ----------------------------------------------------------------------------------------------------


def still(part: nn.Sequential, channel: int) -> None:
    """Zero the scale and shift of a unit's batch norm in one channel."""
    part[1].weight.data[channel] = 0
    part[1].bias.data[channel] = 0


def kill_filter(m: nn.Module) -> None:
    still(m.b, 3)


def kill_readers(m: nn.Module) -> None:
    m.c.weight.data[:, 7] = 0


def shift_remains(m: nn.Module) -> None:
    m.b[0].weight.data[3] = 0
    m.b[1].weight.data[3] = 0  # but the shift goes on as a constant that c reads


def zero_filter_alone(m: nn.Module) -> None:
    m.b[0].weight.data[3] = 0  # the norm turns it into a constant


@pytest.mark.parametrize(
    ("plant", "group", "found"),
    [
        (kill_filter, "b.0", {3}),
        (kill_readers, "b.0", {7}),
        (lambda m: (kill_filter(m), kill_readers(m)), "b.0", {3, 7}),
        (shift_remains, "b.0", set()),
        (zero_filter_alone, "b.0", set()),
        (lambda m: None, "b.0", set()),
        (lambda m: (m.c.weight.data[2].zero_(), m.c.bias.data[2].zero_()), "c", {2}),
        (lambda m: m.c.weight.data[2].zero_(), "c", set()),  # its bias is left
        (lambda m: m.head.weight.data[:, 4].zero_(), "c", {4}),
    ],
)
def test_dead_channels_of_a_chain(plant: Callable[[nn.Module], object], group: str, found: set[int]) -> None:
    model = toy("Plain")
    plant(model.module)
    assert dead(model.module, group_of(model, group)) == found


def test_a_channel_of_a_stream_is_dead_when_nobody_reads_it_anywhere() -> None:
    model = toy("Residual")
    row = group_of(model, "stem.0")
    with torch.no_grad():
        model.module.one.conv1.weight[:, 2] = 0
        model.module.two.conv1.weight[:, 2] = 0
        assert dead(model.module, row) == set(), "the shortcut still reads it"
        model.module.two.downsample[0].weight[:, 2] = 0
    assert dead(model.module, row) == {2}


def test_all_indices_a_channel_owns_must_be_unread() -> None:
    model = toy("Flattened")
    row = group_of(model, "a.0")
    model.module.fc.weight.data[:, 16:31] = 0
    assert dead(model.module, row) == set()
    model.module.fc.weight.data[:, 31] = 0
    assert dead(model.module, row) == {1}


def test_dead_channels_through_depthwise_grouped_and_parametric_layers() -> None:
    model = toy("Depthwise")
    still(model.module.one[0], 5)
    still(model.module.one[1], 5)
    model.module.one[2].weight.data[:, 6] = 0
    assert dead(model.module, group_of(model, "one.0.0")) == {5, 6}
    model = toy("Grouped")
    model.module.b[0].weight.data[8:16, 1] = 0  # the second group's second input: channel 5
    assert dead(model.module, group_of(model, "a.0")) == {5}
    model = toy("Parametric")
    model.module.b.weight.data[:, 3] = 0
    assert dead(model.module, group_of(model, "a")) == {3}


def test_a_norm_without_scale_leaves_nothing_dead_by_itself() -> None:
    model = toy("Statistical")
    model.module.a.weight.data[2] = 0
    model.module.a.bias.data[2] = 0
    assert dead(model.module, group_of(model, "a")) == set(), "its mean is subtracted from the zeros"
    model.module.b.weight.data[:, 2] = 0
    assert dead(model.module, group_of(model, "a")) == {2}


def test_outputs_are_not_dead_because_the_graph_shows_no_reader() -> None:
    model = toy("Plain")
    assert dead(model.module, group_of(model, "head")) == set()
