import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import UnmetRequirement
from edgeprune.model import ModelSpec, Surgery, TorchModel
from edgeprune.reconstruction import (
    IMAGES,
    ROWS,
    _sampled_inputs,
    _sampled_outputs,
    gathered,
    layers,
    reconstruct,
    record,
)
from edgeprune.surgery import rebuild

IMAGE = (3, 12, 12)


def images(count: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))


def model(module: nn.Module) -> TorchModel:
    return TorchModel(module.eval(), ModelSpec((1, *IMAGE)), (images(1),))


def redundant(*behind: nn.Module, bias: bool = False) -> nn.Sequential:
    """A net whose last channel before layer 1 is a sum of the others, plus a constant, so that nothing is lost by its
    going.
    """
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        first.weight[3] = 2 * first.weight[0] - first.weight[1]
        first.bias[3] = 2 * first.bias[0] - first.bias[1] + 5.0
    return nn.Sequential(first, nn.Conv2d(4, 6, 3, bias=bias), *behind)


CUT = Surgery({"0": ((0, 1, 2), None), "1": (None, (0, 1, 2))})


def restored(net: nn.Module, surgery: Surgery = CUT, given: Tensor | None = None) -> tuple[nn.Module, nn.Module]:
    """The net cut, and the net cut and reconstructed."""
    whole = model(net)
    cut, again = rebuild(whole, surgery), rebuild(whole, surgery)
    given = images() if given is None else given
    reconstruct(again.module, again.surgery, record(net, given), given)
    return cut.module, again.module


def apart(net: nn.Module, other: nn.Module, norms: bool = False) -> float:
    """Distance of the outputs on fresh images, as a share of their spread; by the batch where ``norms``."""
    with torch.no_grad():
        wanted, found = (copy.deepcopy(one).train(norms)(images(seed=2)) for one in (net, other))
    return float((found - wanted).norm() / (wanted - wanted.mean((0, 2, 3), keepdim=True)).norm())


# --- what it promises -------------------------------------------------------------------------------------------------


def test_what_the_others_can_tell_is_made_up_for() -> None:
    net = redundant(bias=True)
    cut, again = restored(net)
    assert apart(net, cut) > 0.5
    assert apart(net, again) < 0.02


def test_a_batch_norm_behind_takes_the_means_out() -> None:
    net = redundant(nn.BatchNorm2d(6))
    cut, again = restored(net)
    assert apart(net, cut, norms=True) > 0.2
    assert apart(net, again, norms=True) < 0.02


def test_without_bias_or_norm_the_weights_answer_for_the_means() -> None:
    net = redundant(nn.ReLU())
    _, again = restored(net)
    alone = redundant(nn.BatchNorm2d(6))
    _, normed = restored(alone)
    assert not torch.allclose(again[1].weight, normed[1].weight, atol=1e-3)
    assert apart(net, again) < 0.8 * apart(net, restored(net)[0])


def test_later_layers_make_up_for_what_earlier_ones_lost() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    kept = (0, 1, 2, 3, 4)
    surgery = Surgery({"0": (kept, None), "2": (kept, kept), "4": (None, kept)})
    cut, again = restored(net, surgery)
    assert apart(net, again) < 0.8 * apart(net, cut)
    only = rebuild(model(net), surgery).module
    only[4].load_state_dict(again[4].state_dict())  # its weights are for what reconstructed layers give
    assert apart(net, only) > apart(net, again)


def test_outputs_that_went_are_not_asked_for() -> None:
    net = redundant(bias=True)
    surgery = Surgery({"0": CUT.kept["0"], "1": ((1, 4), (0, 1, 2))})
    _, again = restored(net, surgery)
    with torch.no_grad():
        assert torch.allclose(again(images()), net(images())[:, [1, 4]], atol=0.1)


def test_a_linear_layer_is_reconstructed_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        net[2].weight[3] = net[2].weight[0] + net[2].weight[1]
    cut, again = restored(net, Surgery({"2": ((0, 1, 2), None), "3": (None, (0, 1, 2))}))
    with torch.no_grad():
        wanted, before, after = (one(images(seed=2)) for one in (net, cut, again))
    assert (after - wanted).norm() < 0.2 * (before - wanted).norm()


# --- what it leaves alone ---------------------------------------------------------------------------------------------


def test_layers_that_lost_no_inputs_keep_their_weights() -> None:
    net = redundant(nn.Conv2d(6, 2, 1), bias=True)
    _, again = restored(net)
    assert torch.equal(again[0].weight, net[0].weight[:3])
    assert torch.equal(again[2].weight, net[2].weight)
    assert set(layers(again, CUT)) == {"1"}


def test_statistics_of_batch_norms_and_modes_stay() -> None:
    net = redundant(nn.BatchNorm2d(6), nn.Dropout())
    cut, again = restored(net)
    for one, other in zip(cut.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other)
    assert not any(part.training for part in again.modules())
    assert again[2].track_running_stats
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in [*net.modules(), *again.modules()])


def test_what_the_images_do_not_tell_stays_as_it_was() -> None:
    net = redundant(bias=True)
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0.0, 0.0  # silent, so that any weight on it would do
    cut, again = restored(net)
    assert torch.allclose(again[1].weight[:, 2], cut[1].weight[:, 2], atol=1e-4)
    assert not torch.allclose(again[1].weight[:, 0], cut[1].weight[:, 0], atol=1e-2)


def test_batch_norms_go_by_the_batch_meanwhile() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))
    net[1].running_mean.fill_(50.0)
    whole = model(net)
    again = rebuild(whole, Surgery({"0": ((0, 1, 2), None), "1": ((0, 1, 2), (0, 1, 2)), "2": (None, (0, 1, 2))}))
    means: list[float] = []
    again.module[1].register_forward_hook(lambda norm, args, output: means.append(float(output.mean().abs())))
    reconstruct(again.module, again.surgery, record(net, images()), images())
    assert len(means) == 1 and means[0] < 1e-4


def test_too_few_samples_leave_a_layer_alone() -> None:
    net = redundant(bias=True)
    cut, again = restored(net, given=images(count=1)[:, :, :6, :6])  # 4 places for 27 unknowns
    assert torch.equal(cut[1].weight, again[1].weight)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.first(x)))


def test_a_layer_that_runs_twice_has_no_one_target() -> None:
    assert set(record(Twice(), images())) == {"first"}


def test_a_failure_leaves_no_hooks_behind() -> None:
    net = redundant()
    with pytest.raises(RuntimeError):
        record(net, torch.zeros(2, 5, 8, 8))
    assert not any(part._forward_hooks for part in net.modules())


def test_there_must_be_images() -> None:
    assert len(gathered([images(100), images(100)])) == IMAGES
    with pytest.raises(UnmetRequirement, match=r"^reconstruction needs training images; give --data$"):
        gathered([])


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (3, 1), "padding": "same", "dilation": 2},
        {"kernel_size": (2, 3), "padding": (0, 2), "padding_mode": "reflect"},
        {"kernel_size": 1, "stride": (1, 3), "bias": False},
        {"kernel_size": 3, "dilation": (1, 2), "padding": 2, "padding_mode": "circular"},
    ],
)
def test_samples_of_inputs_and_outputs_belong_together(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, **options)
    given = images(7)
    with torch.no_grad():
        wanted = _sampled_outputs(layer(given))
        found = _sampled_inputs(layer, given) @ layer.weight.reshape(5, -1).T
    assert torch.allclose(found + (0 if layer.bias is None else layer.bias.detach()), wanted, atol=1e-5)


def test_there_are_no_more_samples_than_asked_for_and_every_image_has_its_share() -> None:
    rows = _sampled_outputs(torch.arange(IMAGES * 64 * 64.0).reshape(IMAGES, 1, 64, 64))
    assert len(rows) == ROWS == len(set(rows[:, 0].tolist()))
    assert {int(row) // 4096 for row in rows[:, 0]} == set(range(IMAGES))
