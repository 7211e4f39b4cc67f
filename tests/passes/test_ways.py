"""In which arithmetic and layout plans are ranked: only where the outputs do not suffer by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import toy
from torch import Tensor, nn

from edgeprune.model import ModelSpec, TorchModel
from edgeprune.passes.ways import PLAIN, Way, agreed

IMAGES = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)


def model(module: nn.Module) -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(module.eval(), ModelSpec((1, 3, 8, 8)), (torch.zeros(1, 3, 8, 8),))


class Viewing(nn.Module):
    """Flattens by a view, which only plain tensors allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(len(x), -1)


class Cancelling(nn.Module):
    """The difference of two large numbers: nothing of it is left in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + 500.0).float() - self.conv(torch.full_like(x, 500.0)).float()


@pytest.mark.parametrize(
    ("module", "native", "way"),
    [
        (nn.Conv2d(3, 4, 3), True, Way("bf16", True)),
        (nn.Conv2d(3, 4, 3), False, Way("fp32", True)),
        (Viewing(), True, Way("bf16", False)),
        (Viewing(), False, PLAIN),
        (Cancelling(), True, Way("fp32", True)),
    ],
)
def test_the_fastest_way_that_computes_the_same_is_taken(module: nn.Module, native: bool, way: Way) -> None:
    assert agreed(model(module), IMAGES, native=native) == way


def test_asking_for_float32_leaves_bf16_out_and_asking_for_bf16_needs_no_such_processor() -> None:
    one = model(nn.Conv2d(3, 4, 3))
    assert agreed(one, IMAGES, "fp32", native=True).arithmetic == "fp32"
    assert agreed(one, IMAGES, "bf16", native=False).arithmetic == "bf16"


def test_without_images_nothing_can_be_compared() -> None:
    assert agreed(toy("Residual"), IMAGES[:0], native=True) == PLAIN


def test_the_model_that_is_looked_at_stays_as_it_is() -> None:
    one = model(nn.Conv2d(3, 4, 3))
    before = one.module.weight.stride()  # type: ignore[union-attr, operator]
    agreed(one, IMAGES, native=True)
    assert one.module.weight.stride() == before  # type: ignore[union-attr, operator]
    assert one.module.weight.dtype == torch.float32
