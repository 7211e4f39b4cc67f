from __future__ import annotations

import copy

import pytest
import torch
from contexts import smooth_images
from networks import toy
from torch import Tensor, nn

from edgeprune.recalibration import Sample, controls, first_images, has_batch_norm, recalibrate


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


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("shape", [(50, 5, 9, 11), (50, 5)])
def test_moments_taken_of_a_few_images_at_a_time_are_those_of_all(
    shape: tuple[int, ...], last: bool, kind: torch.dtype
) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(kind)
    if last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    whole = inputs.float()
    space = (2, 3)[: len(shape) - 2]
    found = Sample.of(inputs)
    assert torch.equal(found.means, whole.mean(space) if space else whole)
    assert torch.equal(found.squares, whole.square().mean(space) if space else whole.square())
    torch.testing.assert_close(found.variance, whole.var((0, *space)))


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


def trained(module: nn.Module) -> nn.Module:
    """Give norms statistics that are not those of ``batches``: of more images, and brighter ones."""
    recalibrate(module, [1.5 * batch + 0.3 for batch in batches(200)])
    return module


def statistics(module: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))]


def test_a_model_beside_itself_keeps_its_statistics_and_without_it_loses_them() -> None:
    for name in ("Residual", "OtherDimensions"):
        module = trained(toy(name).module)
        beside, alone = copy.deepcopy(module), copy.deepcopy(module)
        recalibrate(beside, batches(), controls(copy.deepcopy(module), batches()))
        recalibrate(alone, batches())
        for before, same in zip(statistics(module), statistics(beside), strict=True):
            assert torch.allclose(same, before, rtol=1e-3, atol=1e-4)
        pairs = zip(statistics(alone), statistics(module), strict=True)
        assert any(not torch.allclose(moved, before, rtol=0.1) for moved, before in pairs)
        assert not beside.training and all(not part.training for part in beside.modules())


def test_kept_channels_have_the_statistics_of_the_same_channels_of_the_original() -> None:
    module = trained(nn.Sequential(nn.BatchNorm2d(3)))
    told = controls(module, batches())
    cut = nn.Sequential(nn.BatchNorm2d(2))
    recalibrate(cut, [batch[:, [2, 0]] for batch in batches()], told, {"0": ((2, 0), (2, 0))})
    for found, wanted in zip(statistics(cut), statistics(module), strict=True):
        assert torch.allclose(found, wanted[[2, 0]], rtol=1e-4, atol=1e-5)


def test_a_shift_is_taken_off_in_the_measure_of_the_channel_that_is_left() -> None:
    module, cut = trained(nn.Sequential(nn.BatchNorm2d(3))), nn.Sequential(nn.BatchNorm2d(3))
    recalibrate(cut, [0.25 * batch for batch in batches()], controls(module, batches()))
    assert torch.allclose(cut[0].running_mean, 0.25 * module[0].running_mean, rtol=1e-3, atol=1e-4)
    assert torch.allclose(cut[0].running_var, 0.0625 * module[0].running_var, rtol=1e-3, atol=1e-4)


def mixed(share: float, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return 3,000 images of four channels, and such as have so much of each and noise of their own besides."""
    noise = torch.Generator().manual_seed(seed)
    bright = torch.randn(3000, 4, 1, 1, generator=noise)
    images = 1.0 + bright + torch.randn(3000, 4, 5, 5, generator=noise)
    other = torch.randn(3000, 4, 1, 1, generator=noise) + torch.randn(3000, 4, 5, 5, generator=noise)
    return list(images.split(20)), list((share * images + (1 - share) * other).split(20))


@pytest.mark.parametrize(("share", "least", "most"), [(0.8, 0.0, 0.5), (0.5, 0.0, 0.9), (0.0, 0.9, 1.1)])
def test_the_more_a_channel_goes_along_with_the_original_the_nearer_to_the_truth(
    share: float, least: float, most: float
) -> None:
    """The truth is the mean of all 3,000 images; only 20 are seen."""
    errors = []
    for seed in range(12):
        own, cut = mixed(share, seed)
        original, truth = (nn.Sequential(nn.BatchNorm2d(4)) for _ in range(2))
        recalibrate(original, own)
        recalibrate(truth, cut)
        told = controls(original, own[:1])
        beside, alone = (nn.Sequential(nn.BatchNorm2d(4)) for _ in range(2))
        recalibrate(beside, cut[:1], told)
        recalibrate(alone, cut[:1])
        errors.append([(one[0].running_mean - truth[0].running_mean).abs().mean() for one in (beside, alone)])
    with_it, without = torch.tensor(errors).mean(0)
    assert least <= with_it / without <= most


def test_a_norm_of_which_nothing_is_told_has_the_plain_average() -> None:
    class Twice(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return self[1](self[0](self[0](images)))

    module = trained(Twice(nn.BatchNorm2d(3), nn.BatchNorm2d(3)))
    told = controls(module, batches())
    assert list(told) == ["1"], "which of two calls a cut would leave is not known"
    cut, plain = Twice(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), Twice(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    recalibrate(cut, batches(), told)
    recalibrate(plain, batches())
    assert torch.equal(cut[0].running_mean, plain[0].running_mean)
    assert not torch.allclose(cut[1].running_mean, plain[1].running_mean, atol=1e-3)


def test_channels_that_never_move_are_told_nothing() -> None:
    module = trained(nn.Sequential(nn.BatchNorm2d(3)))
    still = [torch.full_like(batch, 0.5) for batch in batches()]
    for images, told in ((still, controls(module, batches())), (list(batches()), controls(module, still))):
        cut, plain = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
        recalibrate(cut, images, told)
        recalibrate(plain, images)
        assert all(map(torch.isfinite, cut[0].running_var)) and torch.isfinite(cut[0].running_mean).all()
        assert torch.allclose(cut[0].running_mean, plain[0].running_mean, atol=1e-6)
        assert torch.allclose(cut[0].running_var, plain[0].running_var, rtol=1e-4)
