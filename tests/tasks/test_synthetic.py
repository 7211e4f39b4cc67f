import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.errors import UnmetRequirement
from edgeprune.model import ModelSpec, TorchModel
from edgeprune.tasks.base import Batch
from edgeprune.tasks.synthetic import Synthetic, synthetic_images, warm_batchnorm

SPEC = ModelSpec((1, 3, 20, 20))


def network(depth: int = 6) -> TorchModel:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Conv2d(3 if index == 0 else 8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5)).eval()
    return TorchModel(module, SPEC, (torch.zeros(1, 3, 20, 20),))


def spread(model: TorchModel) -> float:
    outputs = model.predict(synthetic_images(SPEC, 32, 0, "search").numpy())
    return float(np.linalg.norm(outputs - outputs.mean(0)) / np.linalg.norm(outputs))


def test_the_original_scores_one_and_the_mean_output_near_zero():
    model = network()
    warm_batchnorm(model)
    task = Synthetic(model)
    same = task.score(model.predict, "test")
    assert same.value == 1.0 and same.n == 64 and same.per_item.dtype == np.float64
    images = synthetic_images(SPEC, 64, 0, "test").numpy()
    mean = model.predict(images).mean(0)
    assert task.score(lambda x: np.tile(mean, (len(x), 1)), "test").value < 0.3
    assert task.score(lambda x: np.full((len(x), 5), np.nan, np.float32), "test").value == 0.0
    assert task.score(lambda x: np.zeros((len(x), 4), np.float32), "test").value == 0.0


def test_a_larger_error_scores_less_and_the_score_is_its_formula():
    model = network()
    task = Synthetic(model)
    outputs = model.predict(synthetic_images(SPEC, 64, 0, "search").numpy()).astype(np.float64)
    unit = np.sqrt(((outputs - outputs.mean(0)) ** 2).sum(1).mean())

    def shifted(by):
        return lambda x: model.predict(x) + np.array([by * unit, 0, 0, 0, 0])

    assert task.score(shifted(0.25), "search").value == pytest.approx(0.75, abs=1e-4)
    assert task.score(shifted(-0.5), "search", [3, 9]).per_item == pytest.approx([0.5, 0.5], abs=1e-4)
    assert task.score(shifted(7), "search").value == 0.0


def test_indices_select_the_same_images():
    model = network()
    task = Synthetic(model)
    noisy = task.score(lambda x: model.predict(x * 1.1), "test").per_item
    assert task.score(lambda x: model.predict(x * 1.1), "test", [4, 2]).per_item == pytest.approx(noisy[[4, 2]])


def test_a_constant_original_counts_equality_only():
    model = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(1200, 2)), SPEC, (torch.zeros(1, 3, 20, 20),))
    nn.init.zeros_(model.module[1].weight)
    task = Synthetic(model)
    assert task.score(model.predict, "test").value == 1.0
    assert task.score(lambda x: model.predict(x) + 1e-3, "test").value == 0.0


def test_images_are_seeded_smooth_and_differ_between_streams():
    first = synthetic_images(SPEC, 4, 0, "search")
    torch.manual_seed(9)
    assert torch.equal(first, synthetic_images(SPEC, 4, 0, "search"))
    assert not torch.equal(first, synthetic_images(SPEC, 4, 0, "test"))
    assert not torch.equal(first, synthetic_images(SPEC, 4, 1, "search"))
    neighbours = (first[..., 1:] - first[..., :-1]).std() / first.std()
    assert neighbours < 0.5  # independent pixels give sqrt(2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    pixels = first * std + mean
    assert pixels.min() >= 0.0 and pixels.max() <= 1.0 and pixels.std() > 0.15


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 3, 50), (1, 2, 28, 28)])
def test_any_input_shape(shape):
    channels = shape[1]
    images = synthetic_images(ModelSpec(shape, (0.5,) * channels, (0.5,) * channels), 3, 0, "test")
    assert images.shape == (3, *shape[1:]) and torch.isfinite(images).all()


def test_warming_an_untrained_network_spreads_its_outputs():
    model = network(depth=12)
    before = spread(model)
    assert warm_batchnorm(model)
    assert spread(model) > 5 * before
    assert not any(m.training for m in model.module.modules())
    assert {m.momentum for m in model.module.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_warming_is_deterministic_and_leaves_a_trained_network_alone():
    one, two = network(), network()
    assert warm_batchnorm(one, 3) and warm_batchnorm(two, 3)
    state = {k: v.clone() for k, v in one.module.state_dict().items()}
    assert all(torch.equal(v, two.module.state_dict()[k]) for k, v in state.items())
    assert not warm_batchnorm(one, 4)
    assert all(torch.equal(v, one.module.state_dict()[k]) for k, v in state.items())


def test_a_network_without_batchnorm_is_left_alone():
    assert not warm_batchnorm(TorchModel(nn.Conv2d(3, 4, 3), SPEC, (torch.zeros(1, 3, 20, 20),)))


def test_there_is_nothing_to_train_on():
    task = Synthetic(network())
    message = "training needs images and labels, and there are none here; give a dataset with --data"
    assert task.train_steps() == 0
    for attempt in (lambda: task.train_batches(0, 0), lambda: task.loss(torch.zeros(1), Batch(torch.zeros(1), None))):
        with pytest.raises(UnmetRequirement) as caught:
            attempt()
        assert str(caught.value) == message


def test_splits_say_what_they_are_worth_and_calibration_holds_neither():
    task = Synthetic(network())
    assert [(s.name, s.n) for s in task.splits()] == [("train", 0), ("search", 64), ("test", 64)]
    assert "nothing about accuracy" in task.splits()[1].origin
    calibration = torch.cat(list(task.calibration_batches()))
    assert len(calibration) == 64
    assert not torch.equal(calibration, synthetic_images(SPEC, 64, 0, "search"))


def test_the_digest_follows_model_and_seed():
    other = network()
    with torch.no_grad():
        other.module[0].weight[0] += 1
    digests = {Synthetic(network(), 0).digest(), Synthetic(network(), 1).digest(), Synthetic(other, 0).digest()}
    assert len(digests) == 3 and Synthetic(network(), 0).digest() in digests
