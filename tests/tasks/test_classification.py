import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_data

from edgeprune.errors import BadData, BadModel, BadOption
from edgeprune.model import ModelSpec
from edgeprune.tasks.base import Batch
from edgeprune.tasks.classification import Classification


def small(tmp_path: Path, **options):
    return Classification.open(toy_data.write(tmp_path / "d.npz", **toy_data.arrays()), **options)


def test_perfect_and_blind_models_score_one_and_chance(tmp_path):
    task = small(tmp_path)
    assert task.score(toy_data.oracle(task.spec()), "test").value == 1.0
    blind = task.score(lambda x: np.eye(3, dtype=np.float32)[np.zeros(len(x), int)], "search")
    assert blind.value == pytest.approx(1 / 3) and blind.n == 12
    assert blind.per_item.dtype == np.float64 and set(blind.per_item) == {0.0, 1.0}


def test_indices_name_images_of_the_split(tmp_path):
    task = small(tmp_path)

    def model(x):
        return toy_data.oracle(task.spec())(x) * (x[:, 1, 3, 3] > 0)[:, None]

    whole = task.score(model, "test").per_item
    assert 0 < whole.sum() < len(whole)
    np.testing.assert_array_equal(task.score(model, "test", [5, 0, 7]).per_item, whole[[5, 0, 7]])


def test_search_and_test_are_disjoint_stratified_halves_that_the_seed_fixes(tmp_path):
    def seen(task, split):
        pixels = []
        task.score(lambda x: pixels.append(x.copy()) or np.zeros((len(x), 3), np.float32), split)
        return {image.tobytes() for image in np.concatenate(pixels)}

    path = toy_data.write(tmp_path / "d.npz", **toy_data.arrays(per_class=9))
    one, again, other = (Classification.open(path, seed=s) for s in (0, 0, 1))
    assert seen(one, "search") == seen(again, "search") != seen(other, "search")
    assert not seen(one, "search") & seen(one, "test")
    assert sorted(s.n for s in one.splits()[1:]) == [13, 14]


def test_a_third_split_judges_and_the_test_split_stays_whole(tmp_path):
    third = toy_data.arrays(per_class=5)
    path = toy_data.write(tmp_path / "d.npz", **toy_data.arrays(), x_val=third["x_test"], y_val=third["y_test"])
    train, search, test = Classification.open(path).splits()
    assert (train.n, search.n, test.n) == (24, 15, 24)
    assert search.origin.startswith("x_val, whole") and test.origin.startswith("x_test, whole")


def test_not_a_number_is_wrong_even_for_class_zero(tmp_path):
    task = small(tmp_path)
    assert task.score(lambda x: np.full((len(x), 3), np.nan, np.float32), "test").value == 0.0


def test_outputs_of_a_wrong_shape_are_refused(tmp_path):
    task = small(tmp_path)
    with pytest.raises(BadModel, match=r"shape \(12, 3 or more\) for 12 images, but this model gave \(12, 2\)"):
        task.score(lambda x: np.zeros((len(x), 2), np.float32), "test")


def test_train_batches_are_a_pure_function_of_epoch_and_seed(tmp_path):
    task = small(tmp_path, batch=5)
    state = torch.get_rng_state()

    def epoch(number, seed):
        return torch.cat([b.inputs for b in task.train_batches(number, seed)])

    first = epoch(0, 0)
    np.random.seed(3)
    torch.manual_seed(3)
    assert torch.equal(first, epoch(0, 0))
    assert not torch.equal(first, epoch(1, 0)) and not torch.equal(first, epoch(0, 1))
    torch.set_rng_state(state)
    assert len(first) == 5 * task.train_steps() == 20
    batch = next(task.train_batches(0, 0))
    assert batch.inputs.dtype == torch.float32 and batch.inputs.shape == (5, 3, 8, 8)
    assert batch.targets.dtype == torch.int64


def test_one_epoch_without_augmentation_is_the_training_split_with_its_labels(tmp_path):
    task = small(tmp_path, batch=8, augment="none")
    read = toy_data.oracle(task.spec())
    labels = [(read(b.inputs.numpy()).argmax(1), b.targets.numpy()) for b in task.train_batches(4, 2)]
    for found, target in labels:
        np.testing.assert_array_equal(found, target)
    assert np.bincount(np.concatenate([t for _, t in labels])).tolist() == [8, 8, 8]


def test_a_training_split_smaller_than_a_batch_is_one_batch(tmp_path):
    task = small(tmp_path, batch=500)
    assert [len(b.inputs) for b in task.train_batches(0, 0)] == [24] and task.train_steps() == 1


def test_calibration_images_are_stratified_fixed_and_not_augmented(tmp_path):
    task = small(tmp_path, calibration=6)
    first, again = (torch.cat(list(task.calibration_batches())) for _ in range(2))
    assert torch.equal(first, again)
    labels = toy_data.oracle(task.spec())(first.numpy()).argmax(1)
    assert np.bincount(labels).tolist() == [2, 2, 2]
    assert not torch.equal(first, torch.cat(list(small(tmp_path, calibration=6, seed=1).calibration_batches())))


def test_calibration_batches_hold_at_most_128(tmp_path):
    path = toy_data.write(tmp_path / "d.npz", **toy_data.arrays(per_class=60))
    assert [len(b) for b in Classification.open(path, calibration=150).calibration_batches()] == [128, 22]


def test_normalisation_is_that_of_the_model(tmp_path):
    task = small(tmp_path, augment="none", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    batch = next(task.calibration_batches())
    pixels = batch * torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1) + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-3)
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6


def test_options_come_before_the_models_spec_and_that_before_the_defaults(tmp_path):
    spec = ModelSpec((1, 3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert small(tmp_path).spec().mean == (0.485, 0.456, 0.406)
    assert small(tmp_path, spec=spec).spec().mean == (0.5, 0.5, 0.5)
    given = small(tmp_path, spec=spec, mean=(0.0, 0.0, 0.0), std=None).spec()
    assert given.mean == (0.0, 0.0, 0.0) and given.std == (0.25, 0.25, 0.25)
    assert given.input_shape == (1, 3, 8, 8) and given.classes == ("0", "1", "2")


def test_grey_images_are_not_mirrored_unless_asked(tmp_path):
    path = toy_data.write(tmp_path / "g.npz", **toy_data.arrays(channels=1))
    spec = Classification.open(path).spec()
    assert (spec.mean, spec.std, spec.colour) == ((0.5,), (0.5,), "L")

    def mirrored(task):
        plain = Classification.open(path, augment="none").train_batches(0, 0)
        plain = {i.numpy().tobytes() for b in plain for i in b.inputs}
        return any(i.flip(2).numpy().tobytes() in plain for b in task.train_batches(0, 0) for i in b.inputs)

    assert mirrored(Classification.open(path, augment="flip"))
    grey = Classification.open(path)
    assert torch.equal(
        torch.cat([b.inputs for b in grey.train_batches(0, 0)]),
        torch.cat([b.inputs for b in Classification.open(path, augment="crop").train_batches(0, 0)]),
    )


def test_a_model_for_colour_sees_grey_images_three_times(tmp_path):
    path = toy_data.write(tmp_path / "g.npz", **toy_data.arrays(channels=1))
    task = Classification.open(path, ModelSpec((1, 3, 8, 8), (0.5,) * 3, (0.5,) * 3))
    batch = next(task.calibration_batches())
    assert batch.shape[1] == 3 and torch.equal(batch[:, 0], batch[:, 2])


def test_a_spec_for_other_channels_lends_no_normalisation(tmp_path):
    path = toy_data.write(tmp_path / "g.npz", **toy_data.arrays(channels=1))
    assert Classification.open(path, ModelSpec((1, 1, 8, 8))).spec().mean == (0.5,)


def test_loss_is_cross_entropy_with_smoothing(tmp_path):
    output, batch = torch.tensor([[2.0, 0.0, -1.0]]), Batch(torch.zeros(1), torch.tensor([0]))
    plain, smooth = small(tmp_path).loss(output, batch), small(tmp_path, label_smoothing=0.3).loss(output, batch)
    log = output.log_softmax(1)[0]
    assert plain.item() == pytest.approx(-log[0].item())
    assert smooth.item() == pytest.approx(-(0.7 * log[0] + 0.1 * log.sum()).item())


def test_the_digest_follows_content_and_options_but_not_the_path(tmp_path):
    base = small(tmp_path).digest()
    copy = Classification.open(toy_data.write(tmp_path / "copy.npz", **toy_data.arrays())).digest()
    assert base == copy and len(base) == len(hashlib.sha256().hexdigest())
    content = toy_data.arrays()
    content["x_test"][3, 4, 4, 0] ^= 1
    changed = Classification.open(toy_data.write(tmp_path / "changed.npz", **content)).digest()
    others = [small(tmp_path, **o).digest() for o in ({"seed": 1}, {"augment": "none"}, {"mean": (0.0, 0.0, 0.0)})]
    assert len({base, changed, *others}) == 5


def test_a_model_with_too_few_outputs_is_refused(tmp_path):
    task = small(tmp_path)
    task.check_model(3)
    task.check_model(1000)
    with pytest.raises(BadData, match="has 3 classes but the model has 2 outputs; give the data the model was"):
        task.check_model(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "task.batch must be at least 1, not 0"),
        ({"size": 0}, "task.size must be at least 1, not 0"),
        ({"calibration": -1}, "task.calibration must be at least 1, not -1"),
        ({"augment": "crops"}, "unknown task.augment 'crops'; did you mean 'crop'?"),
        ({"resize": "stretch"}, "resize 'stretch' is not understood; give 'none', 'squash bilinear' or "
                                "'crop 0.875 bicubic' (any fraction up to 1, either filter)"),
        ({"label_smoothing": 1.0}, "task.label_smoothing is a fraction in [0, 1), not 1.0"),
        ({"std": (0.5, 0.0, 0.5)}, "task.std must be above zero in every channel, not (0.5, 0.0, 0.5)"),
        ({"channels": 4}, "the model takes 4 channels; classification reads images of 1 or 3"),
        ({"augmnt": "crop"}, "unknown option task.augmnt; did you mean 'augment'?"),
        ({"mean": (0.5,)}, "the images have 3 channels but task.mean has 1 numbers and task.std 3; give one a channel"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(tmp_path, options, message):
    with pytest.raises(BadOption) as caught:
        small(tmp_path, **options).spec()
    assert str(caught.value) == message


def test_arrays_of_another_size_than_the_models(tmp_path):
    spec = ModelSpec((1, 3, 16, 16))
    with pytest.raises(BadData, match=r"x_test holds 8x8 images but the model takes 16x16; resize them with --set"):
        small(tmp_path, spec=spec)
    task = small(tmp_path, spec=spec, resize="squash bilinear")
    assert next(task.calibration_batches()).shape[1:] == (3, 16, 16)


def test_colour_arrays_for_a_grey_model(tmp_path):
    with pytest.raises(BadData, match="holds colour images but the model takes grey ones; convert the images"):
        small(tmp_path, spec=ModelSpec((1, 1, 8, 8), (0.5,), (0.5,)))


def test_an_image_folder_needs_a_size_and_then_trains_and_scores(tmp_path):
    root = toy_data.tree(tmp_path / "t")
    with pytest.raises(BadOption, match=r"no common size; give one with --set task\.size=224"):
        Classification.open(root)
    task = Classification.open(root, size=6, batch=4)
    assert task.spec().classes == ("ant", "bee") and task.spec().resize == "crop 0.875 bicubic"
    assert [s.n for s in task.splits()] == [8, 4, 4]
    bright = task.score(lambda x: np.eye(2, dtype=np.float32)[(x[:, 0, 3, 3] > -1.0).astype(int)], "test")
    assert bright.value == 1.0
    assert [b.inputs.shape for b in task.train_batches(0, 0)] == [(4, 3, 6, 6)] * 2
