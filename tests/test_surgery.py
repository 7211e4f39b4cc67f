from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import context, open_onnx, smooth_images, torch_model
from networks import CUTTABLE, TOYS, random_scores, random_widths, silenced, toy, traced
from torch import nn

from edgeprune import surgery
from edgeprune.errors import BadModel
from edgeprune.groups import DROP, CostModel, Cut, Group, Member, plan_of, uniform
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.export import Export
from edgeprune.tracing import size_of, trace

SEEDS = range(6)

each_toy = pytest.mark.parametrize("name", list(TOYS))
EXPORTED = (
    "Plain", "Flattened", "Residual", "Padded", "Concat", "Depthwise", "Grouped", "SharedBlocks", "Squeezed",
    "Transposed",
)  # fmt: skip

each_cuttable = pytest.mark.parametrize("name", CUTTABLE)


def pruned(name: str, seed: int) -> tuple[TorchModel, CostModel, tuple[int, ...], TorchModel]:
    """A toy, its groups, random widths and the toy cut to them."""
    model, cost = traced(name)
    widths = random_widths(cost, seed)
    plan = plan_of(cost.groups, widths, random_scores(cost, seed))
    return model, cost, widths, surgery.apply(model, cost.groups, plan)


def outputs(model: TorchModel, n: int = 3) -> torch.Tensor:
    return torch.from_numpy(model.predict(smooth_images(n)))


# --- what a cut model computes, costs and exports to ------------------------------------------------------------------


@each_cuttable
def test_kept_channels_compute_what_they_did(name: str) -> None:
    for seed in SEEDS:
        model, cost, widths, cut = pruned(name, seed)
        masked = silenced(model, cost, plan_of(cost.groups, widths, random_scores(cost, seed)))
        wanted = outputs(TorchModel(masked, model.spec, model.inputs))
        assert (outputs(cut) - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max())), widths


@each_toy
def test_the_algebra_counts_what_is_really_there(name: str) -> None:
    for seed in SEEDS:
        _, cost, widths, cut = pruned(name, seed)
        cut.verify()
        assert size_of(cut) == pytest.approx(cost.cost(widths), rel=1e-12), widths
        assert cut.parameters() == pytest.approx(cost.cost(widths)["parameters"], rel=1e-12)


@each_toy
def test_the_cheapest_plan_still_runs(name: str) -> None:
    model, cost = traced(name)
    widths = tuple(group.options()[-1] for group in cost.groups)
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, random_scores(cost, 0)))
    cut.verify()
    assert size_of(cut) == pytest.approx(cost.cost(widths), rel=1e-12)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_cut_model_exports_to_what_it_computes(name: str, tmp_path: Path) -> None:
    *_, cut = pruned(name, seed=1)
    exported = Export().run(cut, context(tmp_path, cut)[0])
    exported.verify()
    wanted = outputs(cut).numpy()
    with open_onnx(exported) as predict:
        assert np.abs(predict(smooth_images(3)) - wanted).max() <= 1e-4 * max(1e-3, wanted.std(), np.abs(wanted).max())


@each_toy
def test_the_original_stays_untouched(name: str) -> None:
    model = toy(name)
    before, plain = copy.deepcopy(model.module.state_dict()), str(model.module)
    inputs = model.inputs[0].clone()
    cost = trace(model)
    scores = random_scores(cost, 0)
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, random_widths(cost, 0), scores))
    surgery.rebuild(model, cut.surgery)
    after = model.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert str(model.module) == plain
    assert not any(part.training for part in model.module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())
    assert torch.equal(model.inputs[0], inputs) and not model.surgery
    own = {t.data_ptr() for t in model.module.state_dict().values() if t.numel()}
    assert not own & {t.data_ptr() for t in cut.module.state_dict().values() if t.numel()}, "and shares no memory"


@each_toy
def test_full_widths_are_the_identity_bit_for_bit(name: str) -> None:
    model, cost = traced(name)
    full = uniform(cost.groups, 1.0)
    assert full == tuple(group.channels for group in cost.groups)
    same = surgery.apply(model, cost.groups, plan_of(cost.groups, full, {}))
    assert not same.surgery
    assert str(same.module) == str(model.module)
    assert torch.equal(outputs(same), outputs(model))
    assert same.module is not model.module


@each_cuttable
def test_only_recorded_indices_are_needed_to_cut_again(name: str) -> None:
    for seed in SEEDS[:3]:
        model, _, _, cut = pruned(name, seed)
        read = Surgery.from_json(json.loads(json.dumps(cut.surgery.to_json())))
        assert read == cut.surgery
        assert torch.equal(outputs(surgery.rebuild(model, read)), outputs(cut))


@each_cuttable
def test_cuts_one_after_another_compose(name: str) -> None:
    for seed in SEEDS:
        model, _, _, cut = pruned(name, seed)
        cost = trace(cut)
        plan = plan_of(cost.groups, random_widths(cost, seed + 100), random_scores(cost, seed))
        twice = surgery.apply(cut, cost.groups, plan)
        at_once = surgery.rebuild(model, twice.surgery)
        assert torch.equal(outputs(at_once), outputs(twice))
        assert str(at_once.module) == str(twice.module)
        assert size_of(at_once) == size_of(twice)


def test_a_convolution_that_a_first_cut_left_depthwise_can_be_cut_again() -> None:
    model, cost = traced("Multiplied")
    halved = surgery.apply(model, cost.groups, plan_of(cost.groups, (8, 8, 8, 5), random_scores(cost, 0)))
    again = trace(halved)
    assert {g.name: g.locked for g in again.groups}["a.0"] == "", "eight outputs of eight inputs may go in pairs"
    widths = tuple(3 if g.name == "a.0" else g.channels for g in again.groups)
    twice = surgery.apply(halved, again.groups, plan_of(again.groups, widths, random_scores(again, 0)))
    assert twice.module.b[0].groups == 3
    assert torch.equal(outputs(surgery.rebuild(model, twice.surgery)), outputs(twice))


def test_larger_batches_are_cut_alike() -> None:
    model = torch_model(toy("Residual").module, (4, 3, 16, 16))
    cost = trace(model)
    assert cost.full == traced("Residual")[1].full, "MACs are of one image"
    widths = random_widths(cost, 3)
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, random_scores(cost, 3)))
    cut.verify()
    assert size_of(cut) == pytest.approx(cost.cost(widths), rel=1e-12)


# --- the parts of it --------------------------------------------------------------------------------------------------


def test_a_dropped_block_becomes_an_identity_and_keeps_its_name() -> None:
    model, cost = traced("Residual")
    widths = tuple(DROP if g.block == "one" else g.channels for g in cost.groups)
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, {}))
    assert isinstance(cut.module.one, nn.Identity)
    assert cut.surgery == Surgery({}, ("one",))
    assert isinstance(cut.module.three, nn.Module) and not isinstance(cut.module.three, nn.Identity)


def test_frozen_parameters_and_their_order_survive_a_cut() -> None:
    model = toy("Plain")
    model.module.a[0].weight.requires_grad_(False)
    cost = trace(model)
    assert {g.name for g in cost.groups if not g.locked} == TOYS["Plain"].free, "freezing locks nothing"
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, uniform(cost.groups, 0.5), random_scores(cost, 0)))
    assert not cut.module.a[0].weight.requires_grad and cut.module.b[0].weight.requires_grad
    assert [n for n, _ in cut.module.named_parameters()] == [n for n, _ in model.module.named_parameters()]
    assert all(p.is_contiguous() for p in cut.module.parameters())


def test_every_attribute_follows_the_weights() -> None:
    model, cost = traced("Grouped")
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, (8, 16, 4, 5), random_scores(cost, 0)))
    conv = cut.module.b[0]
    assert (conv.in_channels, conv.out_channels, conv.groups, tuple(conv.weight.shape)) == (8, 16, 4, (16, 2, 3, 3))
    assert cut.module.b[1].num_features == 16 and cut.module.b[1].running_var.shape == (16,)
    assert (cut.module.head.in_features, cut.module.head.out_features) == (4, 5)
    model, cost = traced("Depthwise")
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, (4, 8, 4, 8, 5), random_scores(cost, 0)))
    conv = cut.module.one[1][0]
    assert (conv.in_channels, conv.out_channels, conv.groups, tuple(conv.weight.shape)) == (8, 8, 8, (8, 1, 3, 3))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 8, 3), (8, 3)),
        (nn.Conv1d(3, 8, 3), (8, 3)),
        (nn.Conv3d(4, 8, 3, groups=2), (8, 4)),
        (nn.ConvTranspose2d(3, 8, 2), (8, 3)),
        (nn.ConvTranspose2d(4, 8, 2, groups=2), None),
        (nn.ConvTranspose1d(3, 8, 2), None),
        (nn.Linear(3, 8), (8, 3)),
        (nn.BatchNorm1d(8), (8, 8)),
        (nn.BatchNorm2d(8, affine=False), (8, 8)),
        (nn.PReLU(8), (8, 8)),
        (nn.PReLU(), None),
        (nn.GroupNorm(2, 8), None),
        (nn.LayerNorm(8), None),
        (nn.Embedding(3, 8), None),
        (nn.ReLU(), None),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_sliced(layer: nn.Module, expected: tuple[int, int] | None) -> None:
    assert surgery.sides(layer) == expected


def test_what_is_depthwise() -> None:
    assert surgery.is_depthwise(nn.Conv2d(8, 8, 3, groups=8))
    assert not surgery.is_depthwise(nn.Conv2d(8, 16, 3, groups=8)), "a multiplier"
    assert not surgery.is_depthwise(nn.Conv2d(1, 1, 3)), "one channel is an ordinary convolution"
    assert not surgery.is_depthwise(nn.Conv2d(8, 8, 3, groups=4))


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (Surgery(), Surgery(), Surgery()),
        (Surgery({"a": ((1, 3, 5), None)}), Surgery({"a": ((0, 2), None)}), Surgery({"a": ((1, 5), None)})),
        (Surgery({"a": ((1, 3), None)}), Surgery({"a": (None, (0,))}), Surgery({"a": ((1, 3), (0,))})),
        (Surgery({"a": ((1,), None)}), Surgery({"b": ((2,), None)}), Surgery({"a": ((1,), None), "b": ((2,), None)})),
        (Surgery({"x.a": ((1,), None)}), Surgery({}, ("x",)), Surgery({}, ("x",))),
        (Surgery({"xy.a": ((1,), None)}), Surgery({}, ("x",)), Surgery({"xy.a": ((1,), None)}, ("x",))),
        (Surgery(floating=("a", "x.b")), Surgery({}, ("x",), floating=("c", "a")),
         Surgery({}, ("x",), floating=("a", "c"))),
        (Surgery({}, ("x",)), Surgery({"a": ((1,), None)}, ("y",)), Surgery({"a": ((1,), None)}, ("x", "y"))),
    ],
)
def test_composition(first: Surgery, second: Surgery, both: Surgery) -> None:
    assert surgery.compose(first, second) == both


def test_an_empty_surgery_is_false() -> None:
    assert not Surgery()
    assert Surgery({"a": ((0,), None)})
    assert Surgery({}, ("block",))
    assert Surgery(floating=("a",))


def test_layers_in_float_come_back_from_a_recipe_and_leave_older_ones_as_they_were() -> None:
    cut = Surgery({"a": ((0,), None)}, floating=("a", "b"))
    assert Surgery.from_json(json.loads(json.dumps(cut.to_json()))) == cut
    assert "floating" not in Surgery({"a": ((0,), None)}).to_json()


# --- indices that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("Plain", Surgery({}, ("gone",)), "the plan drops a block 'gone' that this model does not have"),
        ("Plain", Surgery({}, ("a.x.y",)), "the plan drops a block 'a.x.y' that this model does not have"),
        (
            "Plain",
            Surgery({"gone": ((0,), None)}),
            "the plan cuts 'gone', which this model does not have or which cannot be sliced",
        ),
        (
            "Normed",
            Surgery({"group": ((0,), None)}),
            "the plan cuts 'group', which this model does not have or which cannot be sliced",
        ),
        ("Plain", Surgery({"a.0": ((0, 8), None)}), "the plan's indices do not fit 'a.0': index out of range in self"),
        ("Plain", Surgery({"a.1": ((0, 8), None)}), None),
        (
            "Grouped",
            Surgery({"b.0": ((0, 1, 2, 8), None)}),
            "a grouped convolution must lose equally many channels in each of its groups",
        ),
        (
            "Grouped",
            Surgery({"b.0": (tuple(range(8)), None)}),
            "a convolution group must lose all its outputs with all its inputs",
        ),
        (
            "Grouped",
            Surgery({"b.0": ((0, 8, 16, 24, 99), None)}),
            "the plan's indices do not fit 'b.0': index out of range for 32 channels",
        ),
    ],
)
def test_indices_of_another_model_are_refused(name: str, wrong: Surgery, message: str | None) -> None:
    with pytest.raises(BadModel) as error:
        surgery.rebuild(toy(name), wrong)
    if message is None:
        assert str(error.value).startswith(f"the plan's indices do not fit '{next(iter(wrong.kept))}': ")
    else:
        assert str(error.value) == message


def test_a_layer_that_cannot_be_sliced_is_refused_by_name() -> None:
    every = np.arange(8)
    group = Group("a", 8, (Member("a", "out", every, every), Member("group", "out", every, every)))
    with pytest.raises(BadModel, match=r"^group \(GroupNorm\) cannot be sliced$"):
        surgery.resolve(toy("Normed").module, [group], (Cut("a", 8, (0, 1)),))


@pytest.mark.parametrize("name", CUTTABLE)
def test_what_was_done_since_is_told_in_the_indices_of_what_was_there(name: str) -> None:
    model, _ = traced(name)
    steps = [Surgery()]
    for seed in (1, 2):
        cost = trace(model, (1,))
        plan = plan_of(cost.groups, random_widths(cost, seed), random_scores(cost, seed))
        again = surgery.apply(model, cost.groups, plan)
        done = surgery.since(model.surgery, again.surgery)
        assert surgery.compose(model.surgery, done) == again.surgery
        same = surgery.rebuild(model, done)
        assert torch.equal(same.module(*same.inputs), again.module(*again.inputs))
        model = again
        steps.append(again.surgery)
    assert not surgery.since(steps[2], steps[2])
