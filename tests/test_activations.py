from __future__ import annotations

import re

import pytest
import smooth_net
import torch
from torch import nn

from edgeprune import activations
from edgeprune.errors import BadModel


class Twice(nn.Module):
    """One block in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU())
        self.two = self.one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


def test_every_place_is_found_and_nothing_else() -> None:
    assert activations.smooth(smooth_net.net()) == ("act", "block.act", "block.inner", "last")
    assert activations.smooth(nn.Sequential(nn.ReLU(), nn.Hardswish(), nn.Sigmoid(), nn.Conv2d(3, 3, 1))) == ()
    assert activations.smooth(nn.SiLU()) == (), "the model itself has no place it stands in"
    assert activations.smooth(Twice()) == ("one.1", "two.1")


@pytest.mark.parametrize(
    ("kind", "given"),
    [("hardswish", -0.3750), ("relu", 0.0), ("relu6", 0.0), ("leaky_relu", -0.15)],
)
def test_what_is_put_in_computes_what_its_name_says(kind: str, given: float) -> None:
    module = nn.Sequential(nn.SiLU()).eval()
    activations.replace(module, {"0": kind})
    x = torch.tensor([-1.5, 10.0])
    assert module(x).tolist() == pytest.approx([given, 6.0 if kind == "relu6" else 10.0])
    assert not module[0].training
    assert not list(module.parameters())


def test_all_kinds_are_tested() -> None:
    assert set(activations.CHEAPER) == {"hardswish", "relu", "relu6", "leaky_relu"}


def test_one_instance_in_several_places_goes_from_all_of_them() -> None:
    module = smooth_net.net()
    activations.replace(module, dict.fromkeys(activations.smooth(module), "relu"))
    assert [type(module.act), type(module.block.act), type(module.last)] == [nn.ReLU] * 3
    twice = Twice()
    activations.replace(twice, dict.fromkeys(activations.smooth(twice), "relu"))
    assert twice.one is twice.two and isinstance(twice.one[1], nn.ReLU)


def test_only_what_is_named_changes() -> None:
    module = smooth_net.net()
    activations.replace(module, {"block.act": "relu6"})
    assert isinstance(module.act, nn.SiLU) and isinstance(module.block.act, nn.ReLU6)


@pytest.mark.parametrize("name", ["nothing", "stem", "", "block"])
def test_what_is_no_activation_is_refused_and_nothing_is_touched(name: str) -> None:
    module = smooth_net.net()
    sentence = f"the plan replaces {name!r}, which is no SiLU, Mish or GELU of this model"
    with pytest.raises(BadModel, match=f"^{re.escape(sentence)}$"):
        activations.replace(module, {"act": "relu", name: "relu"})
    assert isinstance(module.act, nn.SiLU)


def test_an_unknown_kind_is_refused() -> None:
    sentence = "the plan replaces 'act' by 'swish'; known are hardswish, relu, relu6, leaky_relu"
    with pytest.raises(BadModel, match=f"^{re.escape(sentence)}$"):
        activations.replace(smooth_net.net(), {"act": "swish"})
