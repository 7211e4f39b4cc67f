from __future__ import annotations

import copy

import pytest
import torch
from contexts import smooth_images
from networks import toy
from torch import Tensor, nn

from edgeprune.recalibration import first_images, has_batch_norm, recalibrate


def batches(n: int = 60, size: int = 20) -> tuple[Tensor, ...]:
    return torch.from_numpy(smooth_images(n)).split(size)


def test_statistics_become_the_plain_average_over_the_batches() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3)).eval()
    given = batches()
    recalibrate(module, given)
    means = torch.stack([b.mean((0, 2, 3)) for b in given])
    variances = torch.stack([b.var((0, 2, 3)) for b in given])  # unbiased, as torch keeps them
    assert torch.allclose(module[0].running_mean, means.mean(0), atol=1e-6)
    assert torch.allclose(module[0].running_var, variances.mean(0), rtol=1e-5)


def test_nothing_of_the_old_statistics_is_left() -> None:
    one, two = toy("Residual").module, toy("Residual").module
    for name, buffer in two.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.mul_(50).add_(1)
    for module in (one, two):
        recalibrate(module, batches())
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_weights_modes_and_momenta_stay_and_dropout_stays_off() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(0.9), nn.BatchNorm2d(8, momentum=0.3)).eval()
    twin = copy.deepcopy(module)
    twin[1] = nn.Identity()
    weights = copy.deepcopy(module[0].state_dict())
    for one in (module, twin):
        recalibrate(one, batches())
    assert torch.equal(module[2].running_var, twin[2].running_var), "nothing was dropped out"
    assert all(torch.equal(module[0].state_dict()[key], weights[key]) for key in weights)
    assert module[2].momentum == 0.3
    assert not any(part.training for part in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_norms_without_statistics_are_left_alone() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3)).eval()
    assert not has_batch_norm(module)
    recalibrate(module, batches())
    assert module[0].running_mean is None


def test_which_modules_have_batch_norms() -> None:
    assert has_batch_norm(toy("Plain").module)
    assert has_batch_norm(toy("OtherDimensions").module), "of one dimension too"
    assert not has_batch_norm(toy("Normed").module)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (5, [5]), (20, [20]), (25, [20, 5]), (60, [20, 20, 20]), (99, [20, 20, 20]), (41, [20, 21]), (1, [1])],
)
def test_first_images_come_in_order_and_never_alone(count: int, sizes: list[int]) -> None:
    taken = first_images(batches(), count)
    assert [len(batch) for batch in taken] == sizes
    if taken:
        assert torch.equal(torch.cat(taken), torch.cat(batches())[:count])


def test_no_more_batches_are_read_than_needed() -> None:
    read = []

    def counted():
        for batch in batches():
            read.append(len(batch))
            yield batch

    first_images(counted(), 20)
    assert len(read) <= 2


def test_a_norm_over_one_value_an_image_survives_an_odd_count() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).eval()
    recalibrate(module, first_images(batches(), 41))
    assert torch.isfinite(module[1].running_var).all()
