from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from contexts import torch_model
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_scores, toy, traced
from torch import nn

from edgeprune import masks, surgery
from edgeprune.errors import BadModel, UnmetRequirement
from edgeprune.groups import plan_of, uniform
from edgeprune.model import Surgery, TorchModel
from edgeprune.tracing import size_of


def kept(values: list[float], entry: int | str) -> list[int]:
    return masks.stays(torch.tensor([values]), entry).int().flatten().tolist()


# --- which weights stay -----------------------------------------------------------------------------------------------


def test_the_largest_stay_and_of_equals_the_first() -> None:
    assert kept([0.1, -3.0, 2.0, 0.0, -2.0], 2) == [0, 1, 1, 0, 0]
    assert kept([1.0, -1.0, 1.0, 2.0, 1.0], 3) == [1, 1, 0, 1, 0]
    assert kept([0.0, 0.0, 0.0, 1.0], 2) == [1, 0, 0, 1]
    assert kept([1.0, 2.0], 0) == [0, 0] and kept([1.0, 2.0], 2) == [1, 1]


def test_two_of_every_four_stay_along_the_inputs_at_each_position() -> None:
    assert kept([1.0, 1.0, 1.0, 1.0, 0.0, -5.0, 4.0, 4.5], "2:4") == [1, 1, 0, 0, 0, 1, 0, 1]
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :, 0, 0], weight[0, :, 0, 1] = torch.tensor([1.0, 2, 3, 4]), torch.tensor([4.0, 3, 2, 1])
    assert masks.stays(weight, "2:4")[0, :, 0].int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_weight_and_count(data: Any) -> None:
    shape = data.draw(st.sampled_from([(3, 4), (2, 8, 3, 3), (5, 1, 2, 2), (1, 4)]))
    values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0])
    size = torch.Size(shape).numel()
    weight = torch.tensor(data.draw(st.lists(values, min_size=size, max_size=size))).reshape(shape)
    count = data.draw(st.integers(0, size))
    chosen = masks.stays(weight, count)
    assert int(chosen.sum()) == count and chosen.shape == weight.shape
    order = weight.abs().flatten().argsort(descending=True, stable=True)[:count]
    assert torch.equal(chosen.flatten().nonzero().flatten(), order.sort().values)
    if shape[1] % 4 == 0:
        fours = masks.stays(weight, "2:4").movedim(1, -1).reshape(-1, 4)
        assert set(fours.sum(1).tolist()) == {2}


@pytest.mark.parametrize("entry", [-1, 13, "1:4", "2:4"])
def test_an_entry_that_does_not_fit_is_refused(entry: int | str) -> None:
    weight = torch.zeros(4, 3)
    with pytest.raises(BadModel, match=rf"^a mask of {re.escape(repr(entry))} does not fit a weight of shape \(4, 3\)"):
        masks.stays(weight, entry)
    with pytest.raises(BadModel, match=r"^the plan's mask does not fit '0': a mask of "):
        masks.put_on(nn.Sequential(nn.Linear(3, 4)), {"0": entry})


@pytest.mark.parametrize("name", ["", "1", "nothing"])
def test_what_has_no_filter_is_refused(name: str) -> None:
    sentence = f"the plan masks {name!r}, which is no layer with a filter of its own in this model"
    with pytest.raises(BadModel, match=f"^{re.escape(sentence)}$"):
        masks.put_on(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), {name: 2})


# --- in a surgery -----------------------------------------------------------------------------------------------------


def zeros(model: TorchModel, name: str) -> int:
    weight = model.module.get_parameter(f"{name}.weight")
    return weight.numel() - int(weight.count_nonzero())


def layers(model: TorchModel) -> list[str]:
    return [n for n, p in model.module.named_modules() if masks.has_filter(p)]


def masked(model: TorchModel, share: float = 0.5) -> TorchModel:
    entries = {n: int(share * masks.filter_of(model.module, n).numel()) for n in layers(model)}
    return surgery.rebuild(model, Surgery(masks=entries))


def test_a_mask_is_put_on_and_read_again() -> None:
    model = toy("Residual")
    found = masked(model)
    assert found.surgery and Surgery.from_json(found.surgery.to_json()) == found.surgery
    for name in layers(model):
        count = masks.filter_of(model.module, name).numel()
        assert zeros(found, name) == count - int(0.5 * count) and zeros(model, name) == 0
    assert size_of(found) == size_of(model)
    found.verify()


def test_masked_before_or_after_the_cut_the_recipe_is_one() -> None:
    model, cost = traced("Residual")
    whole = masked(model)
    plan = plan_of(cost.groups, uniform(cost.groups, 0.5), random_scores(cost, 0))
    cut = surgery.apply(whole, cost.groups, plan)
    for name, entry in cut.surgery.masks.items():
        assert masks.filter_of(cut.module, name).count_nonzero() == entry
    assert cut.surgery.masks != whole.surgery.masks
    again = surgery.rebuild(model, cut.surgery)
    assert again.digest() == cut.digest() and again.surgery == cut.surgery


def test_a_dropped_block_takes_its_masks_along() -> None:
    both = surgery.compose(Surgery(masks={"a.conv": 3, "ab": 2}), Surgery(dropped=("a",), masks={"c": "2:4"}))
    assert both == Surgery(dropped=("a",), masks={"ab": 2, "c": "2:4"})


def test_no_cut_goes_through_fours() -> None:
    model = torch_model(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)))
    found = surgery.rebuild(model, Surgery(masks={"1": "2:4"}))
    fewer = surgery.rebuild(found, Surgery({"1": ((0, 1), None)}))
    assert fewer.surgery.masks == {"1": "2:4"} and zeros(fewer, "1") == 8
    with pytest.raises(UnmetRequirement, match=r"^1 has a 2:4 mask over its input channels; remove channels before"):
        surgery.rebuild(found, Surgery({"0": ((0, 1), None), "1": (None, (0, 1))}))


# --- in training ------------------------------------------------------------------------------------------------------


def test_what_is_held_never_moves_and_the_rest_does() -> None:
    model = torch_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 3)))
    found = surgery.rebuild(model, Surgery(masks={"0": 40, "2": 1000}))
    module = found.clone().module
    masks.hold(module, found)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(found.inputs[0]).square().sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        for name in ("0", "2"):
            weight = masks.filter_of(module, name)
            assert torch.equal(weight == 0, masks.filter_of(found.module, name) == 0)
            assert not weight[weight == 0].signbit().any(), "one zero, so that it compresses"
    assert all(not torch.equal(p, before[n]) for n, p in module.named_parameters())
