from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.model import ModelSpec, TorchModel
from edgeprune.passes.ways import PLAIN


class Mean(nn.Module):
    """Counts the images of every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return images.mean((2, 3))


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        ((300, 3, 32, 32), [250, 50]),  # small ones: as many as asked for
        ((60, 1, 224, 224), [41, 19]),  # 41 of 50,176 pixels are the most that 2 M hold
        ((2, 1, 1000, 2100), [1, 1]),  # never none, however large
    ],
)
def test_large_images_go_through_a_module_few_at_a_time(shape: tuple[int, ...], counts: list[int]) -> None:
    images = np.random.default_rng(0).random(shape, np.float32)
    model = TorchModel(Mean(), ModelSpec((1, *shape[1:])), (torch.zeros(1, *shape[1:]),))
    found = model.predict(images)
    assert model.module.seen == counts
    np.testing.assert_allclose(found, images.mean((2, 3)), rtol=1e-4)


def test_so_do_those_that_plans_are_ranked_on() -> None:
    model = TorchModel(Mean(), ModelSpec((1, 1, 224, 224)), (torch.zeros(1, 1, 224, 224),))
    assert len(PLAIN.predict(model, np.zeros((60, 1, 224, 224), np.float32))) == 60
    assert model.module.seen == [41, 19]
