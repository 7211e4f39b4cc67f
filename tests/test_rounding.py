"""Computing as in int8, in float: levels, ranges, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import BOARD, context, smooth_images
from networks import toy
from pruning_task import Answers
from torch import nn

from edgeprune.passes.export import Export
from edgeprune.passes.graph import write
from edgeprune.passes.lowering import calibrate
from edgeprune.rounding import round_off

assert BOARD.int8 is not None
LAYOUT = BOARD.int8.model_copy(update={"reduce_range": True})  # so that no processor's 8-bit products saturate
IMAGES = torch.from_numpy(smooth_images(32))


def named(module: nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


def test_outputs_are_nearer_to_those_of_the_int8_graph_than_float_is(tmp_path: Path) -> None:
    for number, name in enumerate(("Plain", "Residual", "Flattened")):
        model = toy(name)
        folder = tmp_path / str(number)
        folder.mkdir()
        ctx, _ = context(folder, model, task=Answers(model, 32))
        graph = Export().run(model.clone(), ctx)
        lowering = calibrate(graph.path, [image[None] for image in IMAGES.numpy()], LAYOUT, "minmax", 1, False)
        int8 = write(lowering.build(lowering.candidates()), replace(graph, path=folder / "int8.onnx"))
        with ctx.open(int8) as predict:
            wanted = predict(IMAGES.numpy())
        rounded = model.clone()
        round_off(rounded.module, lowering.candidates(), [IMAGES], LAYOUT)
        ours, floating = (np.abs(one.predict(IMAGES.numpy()) - wanted).mean() for one in (rounded, model))
        assert ours < 0.6 * floating, name


def test_a_weight_has_as_many_levels_as_the_target_gives_it() -> None:
    for layout, most in ((BOARD.int8, 127), (LAYOUT, 64)):
        module = toy("Plain").module
        before = module.b[0].weight.detach().clone()
        round_off(module, named(module), [IMAGES], layout)
        after = module.b[0].weight.detach()
        for row, wanted in zip(after, before, strict=True):
            step = wanted.abs().max() / most
            torch.testing.assert_close(row / step, (row / step).round(), atol=1e-3, rtol=0)
            assert (row - wanted).abs().max() <= step / 2 * 1.001


def test_one_scale_for_the_whole_weight_where_the_target_has_no_more() -> None:
    module = toy("Plain").module
    weight = module.b[0].weight.detach().clone()
    round_off(module, named(module), [IMAGES], LAYOUT.model_copy(update={"per_channel": False}))
    levels = module.b[0].weight.detach() / (weight.abs().max() / 64)
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_inputs_have_256_levels_within_their_range(activation: str) -> None:
    layer = nn.Conv2d(3, 4, 3)
    module = nn.Sequential(layer)
    round_off(module, named(module), [IMAGES], LAYOUT.model_copy(update={"activation": activation}))
    seen: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    module(3 * IMAGES)
    low, high = float(IMAGES.min()), float(IMAGES.max())
    assert len(seen[0].unique()) <= 256
    step = (high - low) / 255 if activation == "uint8" else max(-low, high) / 127
    assert float(seen[0].min()) == pytest.approx(low if activation == "uint8" else -128 * step, abs=step)
    assert float(seen[0].max()) == pytest.approx(high, abs=step)


def test_what_stays_in_float_is_not_touched() -> None:
    original, module = toy("Residual").module, toy("Residual").module
    round_off(module, {"stem", "stem.1", "elsewhere"}, [IMAGES], LAYOUT)
    assert torch.equal(module(IMAGES), original(IMAGES)), "none of these is a layer"
    round_off(module, {"head"}, [IMAGES], LAYOUT)
    assert not torch.equal(module.head.weight, original.head.weight)
    assert torch.equal(module.stem[0].weight, original.stem[0].weight)


def test_layers_that_see_nothing_or_only_zeros_compute_on() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3))
    round_off(module, {"0"}, [torch.zeros(2, 3, 8, 8)], LAYOUT)
    assert torch.isfinite(module(torch.zeros(2, 3, 8, 8))).all()
    bare = nn.Sequential(nn.Conv2d(3, 4, 3))
    round_off(bare, {"0"}, [], LAYOUT)
    assert not bare[0]._forward_pre_hooks, "without images inputs stay in float"
