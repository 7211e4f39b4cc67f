from __future__ import annotations

import torch

from edgeprune.tasks.base import Batch


def test_a_batch_moves_with_whatever_tensors_its_targets_hold() -> None:
    one = torch.zeros(2)
    batch = Batch(torch.zeros(2, 3), {"labels": one, "boxes": [(one, one), one], "names": ("a", "b"), "n": 2})
    moved = batch.to("meta")
    told = moved.targets
    assert {x.device.type for x in (moved.inputs, told["labels"], *told["boxes"][0], told["boxes"][1])} == {"meta"}
    assert isinstance(told["boxes"][0], tuple) and (told["names"], told["n"]) == (("a", "b"), 2)
    assert Batch(one, one).to("meta").targets.device.type == "meta" and batch.targets["labels"] is one
