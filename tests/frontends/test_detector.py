"""Detectors as layers in order, and a head that can be changed for other classes."""

from __future__ import annotations

import pytest
import tiny_detector as tiny
import torch
from contexts import torch_model
from torch import Tensor, nn

from edgeprune.errors import BadOption
from edgeprune.frontends.checkpoint import Source, load
from edgeprune.frontends.detector import PREVIOUS, Concat, Detector, with_classes
from edgeprune.frontends.yolov5_layers import Detect
from edgeprune.model import TorchModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    """A network of three classes, Red, green and blue, on two levels."""
    path = tiny.save(tmp_path_factory.mktemp("detector") / "m.pt", tiny.seeded(names=["Red", "green", "blue"]))
    return load(Source(path, None), (1, 3, 64, 64)).model


def rows(model: TorchModel) -> list[tuple[Tensor, Tensor]]:
    """Return (weights, biases) of each level, (anchors, 5 + classes, ...)."""
    head = model.module.model[-1]
    return [(c.weight.detach().reshape(head.anchors, -1, c.in_channels), c.bias.detach().reshape(head.anchors, -1))
            for c in head.m]  # fmt: skip


def test_layers_are_fed_by_number() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    class Less(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - y

    net = Detector([Double(), Double(), Less(), Concat()], [(PREVIOUS,), (PREVIOUS,), (PREVIOUS, 0), (0, PREVIOUS, 1)])
    image = torch.ones(1, 1, 1, 1)
    assert net(image).flatten().tolist() == [2, 2, 4]
    assert [name for name, _ in net.named_children()] == ["model"]


def test_like_named_classes_keep_their_rows_and_others_start_rare(model: TorchModel) -> None:
    classes = ("Blue", "lorry", "RED", "tram")
    other = with_classes(model, classes, seed=3)
    assert other.spec.classes == classes
    assert (other.spec.head, other.spec.input_shape) == (model.spec.head, model.spec.input_shape)
    for (weight, bias), (own, own_bias) in zip(rows(other), rows(model), strict=True):
        assert weight.shape[:2] == (3, 5 + 4)
        for values, before in ((weight, own), (bias, own_bias)):
            assert torch.equal(values[:, :5], before[:, :5]), "boxes and objectness stay, bit for bit"
            assert torch.equal(values[:, 5], before[:, 5 + 2]) and torch.equal(values[:, 7], before[:, 5 + 0])
        prior = torch.sigmoid(bias[:, [6, 8]])
        assert torch.allclose(prior, torch.full_like(prior, 0.15), atol=1e-6), "0.6 of one in four objects"
        assert (weight[:, [6, 8]] != 0).all() and weight[:, [6, 8]].abs().max() < 0.1
    trunk = {k: v for k, v in model.module.state_dict().items() if not k.startswith("model.15.")}
    changed = other.module.state_dict()
    assert len(trunk) > 50 and all(torch.equal(changed[k], v) for k, v in trunk.items())
    other.verify()
    assert not other.module.training and all(p.requires_grad for p in other.module.parameters())


def test_the_same_classes_give_the_same_network(model: TorchModel) -> None:
    again = with_classes(model, ["RED", "Green", "blue"], seed=9)
    assert torch.equal(again.module(model.inputs[0]), model.module(model.inputs[0]))


def test_new_rows_come_from_the_seed_and_the_original_is_not_touched(model: TorchModel) -> None:
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    state = torch.get_rng_state()
    one, same, other = (with_classes(model, ["x", "red"], seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], v) for k, v in same.items())
    assert [k for k, v in other.items() if not torch.equal(one[k], v)] == ["model.15.m.0.weight", "model.15.m.1.weight"]
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    assert model.spec.classes == ("Red", "green", "blue")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [1, 2, 80])
def test_any_number_of_classes(count: int, model: TorchModel) -> None:
    other = with_classes(model, [f"kind {i}" for i in range(count)], 0)
    assert other.module(model.inputs[0]).shape == (1, 3 * (5 + count), 64 + 16)
    assert all(bias.isfinite().all() for _, bias in rows(other))
    other.verify()


def test_a_model_without_a_head_we_know_is_refused() -> None:
    with pytest.raises(BadOption) as caught:
        with_classes(torch_model(nn.Conv2d(3, 8, 1)), ["a", "b"], 0)
    assert str(caught.value) == (
        "this model detects 0 classes and the data has 2; edgeprune can change the classes of YOLO checkpoints only: "
        "give a model for the data's classes"
    )


def test_a_head_changes_its_classes_in_place() -> None:
    head = Detect([nn.Conv2d(4, 2 * 6, 1), nn.Conv2d(8, 2 * 6, 1)], anchors=2)
    head.classify([None, 0, None], torch.Generator().manual_seed(0))
    levels = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 1, 1)
    assert head(*levels).shape == (1, 2 * 8, 5)
