"""A training run between two epochs: its average of the weights, and what comes back from the disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from contexts import context
from networks import toy
from pruning_task import Answers
from torch import nn

from edgeprune.passes.base import Context
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.training import Training, ahead, layout


def started(ctx: Context, average: float = 0.9) -> Training:
    return Training.start(toy("Plain"), 0.9, 5e-4, average, ctx)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    model = toy("Plain")
    return context(tmp_path, model, task=Answers(model))[0]


def pushed(run: Training, by: float) -> None:
    """Take a step in which every weight moves by so much; the optimizer has nothing to add."""
    with torch.no_grad():
        for parameter in run.module.parameters():
            parameter += by
            parameter.grad = torch.zeros_like(parameter)
    for settings in run.optimizer.param_groups:
        settings["lr"] = 0.0
    run.step()


@pytest.mark.parametrize("most", [0.25, 0.9])
def test_the_average_follows_by_a_decay_that_rises_to_the_one_asked_for(most: float, ctx: Context) -> None:
    run = started(ctx, most)
    name = next(iter(dict(run.module.named_parameters())))
    now = wanted = run.module.state_dict()[name].clone()
    for step in range(1, 5):
        pushed(run, 1.0)
        now = now + 1.0
        decay = min(most, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * now
        torch.testing.assert_close(run.averaged.state_dict()[name], wanted)


@pytest.mark.parametrize(
    ("conv", "device", "wanted"),
    [
        (nn.Conv2d(5, 16, 1, 2), "cpu", torch.contiguous_format),
        (nn.Conv2d(32, 16, 1, (1, 2), groups=4), "cpu", torch.contiguous_format),
        (nn.Conv2d(5, 16, 1, 2), "cuda", torch.channels_last),
        (nn.Conv2d(16, 16, 1, 2), "cpu", torch.channels_last),
        (nn.Conv2d(5, 16, 1), "cpu", torch.channels_last),
        (nn.Conv2d(5, 16, 3, 2), "cpu", torch.channels_last),
        (nn.ReLU(), "cpu", torch.channels_last),
    ],
)
def test_channels_lie_last_except_where_that_kills_the_process(
    conv: nn.Module, device: str, wanted: torch.memory_format
) -> None:
    assert layout(nn.Sequential(nn.Conv2d(3, 32, 3), conv), device) == wanted


def test_weights_and_images_lie_as_they_must(tmp_path: Path) -> None:
    seen: list[bool] = []
    for narrow in (False, True):
        model = toy("Residual")  # its shortcut is a strided 1x1 convolution of 8 inputs
        if not narrow:
            model.module.two.downsample[0].stride = model.module.two.conv1.stride = (1, 1)
        folder = tmp_path / str(narrow)
        folder.mkdir()
        ctx, _ = context(folder, model, task=Answers(model))
        run = Training.start(model, 0.9, 5e-4, 0.0, ctx)
        run.module.stem[0].register_forward_pre_hook(
            lambda part, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
        )
        Finetune()._loss(run, ctx.task, next(ctx.task.train_batches(0, 0)), ctx)
        assert run.module.stem[0].weight.is_contiguous() == narrow
    assert seen == [True, False]


def test_without_an_average_the_module_itself_is_scored(ctx: Context) -> None:
    run = started(ctx, 0.0)
    assert run.averaged is run.module


def test_all_of_a_run_comes_back(ctx: Context) -> None:
    run = started(ctx)
    for by in (1.0, -0.5, 0.25):
        pushed(run, by)
    run.finish(0, 3.5, ctx)
    again = started(ctx)
    for one, other in ((run.module, again.module), (run.averaged, again.averaged)):
        found = other.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in one.state_dict().items())
    assert not torch.equal(*(next(part.parameters()) for part in (again.module, again.averaged)))
    kept = ("epoch", "steps", "best_score", "best_epoch", "log", "unscored")
    assert [getattr(again, name) for name in kept] == [getattr(run, name) for name in kept]
    assert (again.epoch, again.steps, again.log[-1]["loss"]) == (1, 3, 3.5)  # type: ignore[index]
    assert all(torch.equal(again.best[name], tensor) for name, tensor in run.best.items())


def test_batches_come_in_order_and_what_fails_fails_here(ctx: Context) -> None:
    assert ctx.task is not None
    plain = [batch.inputs for batch in ctx.task.train_batches(0, 0)]
    early = [batch.inputs for batch in ahead(ctx.task.train_batches(0, 0))]
    assert len(plain) == len(early) > 1 and all(map(torch.equal, plain, early))
    stopped = dataclasses.replace(ctx, task=Answers(toy("Plain"), stop_in=0))
    with pytest.raises(KeyboardInterrupt):
        list(ahead(stopped.task.train_batches(0, 0)))  # type: ignore[union-attr]
