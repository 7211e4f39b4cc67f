"""What can be pruned of a YOLOv5: everything but its heads, along shortcuts and concatenations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_detector as tiny
import torch
from contexts import BOARD, context
from networks import random_scores, random_widths
from toy_parts import OUTPUTS

from edgeprune import surgery
from edgeprune.errors import UnmetRequirement
from edgeprune.frontends.checkpoint import Source, load
from edgeprune.groups import CostModel, plan_of
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.export import Export
from edgeprune.passes.prune import Prune
from edgeprune.tracing import size_of, trace


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, CostModel]:
    path = tiny.save(tmp_path_factory.mktemp("groups") / "m.pt", tiny.seeded(levels=3))
    model = load(Source(path, None), (1, 3, 64, 64)).model
    return model, trace(model)


def heads(model: TorchModel) -> list[str]:
    last = len(model.module.model) - 1
    return [f"model.{last}.m.{level}" for level in range(len(model.spec.head["strides"]))]


def tied(cost: CostModel, module: str) -> set[str]:
    """Return all layers that lose outputs with one of ``module``."""
    return {m.module for g in cost.groups for m in g.members if m.side == "out"
            and any(o.module == module and o.side == "out" for o in g.members)}  # fmt: skip


def test_only_the_heads_are_locked(traced: tuple[TorchModel, CostModel]) -> None:
    model, cost = traced
    assert {g.name: g.locked for g in cost.groups if g.locked} == {heads(model)[0]: OUTPUTS}
    assert tied(cost, heads(model)[0]) == set(heads(model)), "side by side in one tensor, they are one group"
    convolutions = {n for n, p in model.module.named_modules() if isinstance(p, torch.nn.Conv2d)} - set(heads(model))
    free = {m.module for g in cost.groups if len(g.options()) > 1 for m in g.members if m.side == "out"}
    assert convolutions <= free, "every other convolution can lose channels"


def test_shortcuts_tie_and_concatenations_do_not(traced: tuple[TorchModel, CostModel]) -> None:
    _, cost = traced
    assert {"model.2.cv1.conv", "model.2.m.0.cv2.conv", "model.2.m.1.cv2.conv"} <= tied(cost, "model.2.cv1.conv")
    assert "model.2.cv2.conv" not in tied(cost, "model.2.cv1.conv"), "the other half of the block goes its own way"
    laterals = [g for g in cost.groups if g.name == "model.4.cv3.conv"]
    readers = {m.module for m in laterals[0].members if m.side == "in"}
    assert len({r.split(".")[1] for r in readers}) > 1, "the next level and, through a concatenation, the head read it"
    assert {g.block for g in cost.groups if g.block} >= {"model.2.m.0", "model.2.m.1", "model.4.m.0"}


def test_random_cuts_are_what_the_algebra_says(traced: tuple[TorchModel, CostModel]) -> None:
    model, cost = traced
    assert size_of(model) == cost.full
    with torch.no_grad():
        wanted = model.module(*model.inputs).shape
    for seed in range(6):
        widths = random_widths(cost, seed)
        cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, random_scores(cost, seed)))
        cut.verify()
        assert size_of(cut) == pytest.approx(cost.cost(widths), rel=1e-12)
        with torch.no_grad():
            assert cut.module(*cut.inputs).shape == wanted
        rebuilt = surgery.rebuild(model, Surgery.from_json(cut.surgery.to_json()))
        assert np.array_equal(rebuilt.predict(model.inputs[0].numpy()), cut.predict(model.inputs[0].numpy()))


def test_nothing_cut_is_nothing_changed(traced: tuple[TorchModel, CostModel]) -> None:
    model, cost = traced
    whole = tuple(g.channels for g in cost.groups)
    same = surgery.apply(model, cost.groups, plan_of(cost.groups, whole, random_scores(cost, 0)))
    before, after = model.module.state_dict(), same.module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    images = torch.rand(2, 3, 64, 64).numpy()
    assert np.array_equal(same.predict(images), model.predict(images))


def test_what_was_cut_exports_as_it_computes(traced: tuple[TorchModel, CostModel], tmp_path: Path) -> None:
    model, _ = traced
    ctx, facts = context(tmp_path, model)
    cut = Prune(ratio=0.4).run(model.clone(), ctx)
    assert facts["removed_parameters"] > 0.3 * model.parameters() and facts["locked"] == {heads(model)[0]: OUTPUTS}
    written = Export().run(cut, ctx)
    assert facts["difference"] < 1e-4
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    assert np.abs(session.run(None, {"input": images})[0] - cut.predict(images)).max() < 1e-3
    assert written.spec == model.spec


def test_a_model_that_is_all_head_cannot_be_pruned(tmp_path: Path) -> None:
    """Nothing was pruned is an error, never silence."""
    model = tiny.seeded()
    head = model.model[-1]
    alone = tiny.Conv(3, 8, 3, 2)
    alone.i, alone.f, alone.type = 0, -1, "Conv"
    head.f, head.i, head.stride = [-1], 1, torch.tensor([2.0])
    head.m = torch.nn.ModuleList([torch.nn.Conv2d(8, head.no * head.na, 1)])
    head.anchors = head.anchors[:1]
    model.model = torch.nn.Sequential(alone, head)
    found = load(Source(tiny.save(tmp_path / "m.pt", model), None), (1, 3, 16, 16)).model
    ctx, _ = context(tmp_path, found)
    with pytest.raises(UnmetRequirement) as caught:
        Prune(ratio=0.01).run(found.clone(), ctx)
    assert str(caught.value) == (
        "pruning 1% removed nothing: the ratio is smaller than one rung of every group's ladder; `edgeprune inspect` "
        "lists every group"
    )
    stem = found.module.model[0]
    found.module.model[0] = stem.conv.requires_grad_(False)
    locked = TorchModel(found.module.model[1].m[0], found.spec, (torch.zeros(1, 8, 8, 8),))
    with pytest.raises(UnmetRequirement) as caught:
        Prune(ratio=0.5).run(locked.clone(), ctx)
    assert str(caught.value) == (
        f"pruning 50% removed nothing: all 1 groups are locked, the first because {OUTPUTS}; `edgeprune inspect` lists "
        f"every group"
    )


def test_the_official_network_in_a_wide_input(data_pack: Path) -> None:
    model = load(Source(data_pack / "weights" / "yolov5n.pt", None), (1, 3, 96, 320)).model
    cost = trace(model, tuple(BOARD.channel_multiples.values()))
    assert {g.name: g.locked for g in cost.groups if g.locked} == {heads(model)[0]: OUTPUTS}
    assert cost.full["parameters"] == 1_872_157
    assert sum(len(g.options()) > 1 for g in cost.groups) >= 40
    widths = random_widths(cost, 0)
    cut = surgery.apply(model, cost.groups, plan_of(cost.groups, widths, random_scores(cost, 0)))
    assert size_of(cut) == pytest.approx(cost.cost(widths), rel=1e-12)
    cut.verify()
