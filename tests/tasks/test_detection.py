"""Detection: one task from a dataset and the spec of a model, on images of three coloured rectangles."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_detector as tiny
import torch
from numpy.typing import NDArray

from edgeprune.errors import BadData, BadModel, BadOption
from edgeprune.model import ModelSpec
from edgeprune.tasks.boxes.heads import Head
from edgeprune.tasks.detection import Detection

HEAD = {"format": "yolov5", "strides": [8, 16], "anchors": [list(map(list, level)) for level in tiny.ANCHORS[:2]]}
SPEC = ModelSpec((1, 3, 64, 64), (0.0,) * 3, (1.0,) * 3, "letterbox 114", classes=tiny.NAMES, head=HEAD)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 images to train on and 32 to judge by."""
    return tiny.write_data(tmp_path_factory.mktemp("detection"))


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(data.parent, tmp_path / "own")) / "data.yaml"


def task(data: Path, spec: ModelSpec = SPEC, **options: Any) -> Detection:
    return Detection.open(data, spec, **options)


def perfect(task: Detection, split: str, indices: Any = None) -> Any:
    """Return a predictor that answers with the truth, in logits: one place a box, whose anchor and cell fit."""
    head, pictures = Head.of(task.spec()), task._pictures[split]
    answers = iter(range(len(pictures)) if indices is None else indices)

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        raw = np.full((len(images), head.channels(), head.positions()), -20.0, np.float32)
        for number in range(len(images)):
            boxes, classes, _ = pictures.labels(next(answers))
            for (x1, y1, x2, y2), kind in zip(boxes.tolist(), classes.tolist(), strict=True):
                w, h, stride = x2 - x1, y2 - y1, head.strides[0]
                anchors = np.array(head.anchors[0])
                a = int(np.abs(np.log(anchors / (w, h))).max(1).argmin())
                column, row = int((x1 + x2) / 2 // stride), int((y1 + y2) / 2 // stride)
                cell = row * head.grids()[0][1] + column
                place = ((x1 + x2) / 2 / stride - column + 0.5) / 2, ((y1 + y2) / 2 / stride - row + 0.5) / 2
                size = np.sqrt(np.array([w, h]) / anchors[a]) / 2
                p = np.clip(np.array([*place, *size]), 1e-6, 1 - 1e-6)
                start = a * (5 + head.classes)
                raw[number, start : start + 5, cell] = [*np.log(p / (1 - p)), 20.0]
                raw[number, start + 5 + kind, cell] = 20.0
        return raw

    return predict


def empty(task: Detection) -> Any:
    head = Head.of(task.spec())
    return lambda images: np.full((len(images), head.channels(), head.positions()), -20.0, np.float32)


# --- what the data is -------------------------------------------------------------------------------------------------


def test_the_spec_is_the_models_with_the_datas_names(data: Path) -> None:
    found = task(data, dataclasses.replace(SPEC, classes=("a", "b", "c"))).spec()
    assert found == SPEC


def test_halves_of_val_judge_a_model_that_was_trained_elsewhere(data: Path) -> None:
    assert [(s.name, s.n, s.origin) for s in task(data, seed=4).splits()] == [
        ("train", 64, "train"),
        ("search", 16, "one half of val, seed 4; apart from train"),
        ("test", 16, "the other half of val, seed 4; apart from train"),
    ]


def test_a_model_that_is_trained_here_is_judged_by_what_is_held_out_of_train(data: Path) -> None:
    found = task(data, dataclasses.replace(SPEC, classes=("a", "b")), seed=4)
    assert found.foreign
    assert [(s.name, s.n, s.origin) for s in found.splits()] == [
        ("train", 32, "train, without those held out"),
        ("search", 32, "held out of train, by scene, seed 4; apart from train"),
        ("test", 32, "val"),
    ]
    other = task(data, dataclasses.replace(SPEC, classes=("a", "b")), seed=5)
    assert other._splits["search"].files != found._splits["search"].files


def test_a_model_whose_head_was_trained_on_this_data_keeps_the_splits_of_that_training(data: Path) -> None:
    here = task(data, dataclasses.replace(SPEC, classes=("a", "b")), seed=4)
    done = task(data, transfer="done", seed=4)
    assert done.splits() == here.splits() and done.notes() == () and not done.foreign
    assert done._splits["search"].files == here._splits["search"].files


@pytest.mark.parametrize("classes", [tiny.NAMES, ("a", "b")])
def test_three_splits_are_taken_as_they_are(classes: tuple[str, ...], tmp_path: Path) -> None:
    yaml = tiny.write_data(tmp_path / "data", test=True)
    found = task(yaml, dataclasses.replace(SPEC, classes=classes))
    assert [(s.name, s.n, s.origin) for s in found.splits()] == [
        ("train", 64, "train"), ("search", 32, "val"), ("test", 32, "test"),
    ]  # fmt: skip
    files = [set(found._splits[name].files) for name in ("train", "search", "test")]
    assert not files[0] & files[1] and not files[0] & files[2] and not files[1] & files[2]


@pytest.mark.parametrize(
    ("classes", "transfer", "foreign"),
    [
        (("red", "green", "blue"), "auto", False),
        (("RED", "Green", "blue"), "auto", False),
        (("green", "red", "blue"), "auto", True),  # the order is what the head's rows are in
        (("red", "green", "blue", "grey"), "auto", True),
        (("a", "b", "c"), "auto", True),
        (("a", "b", "c"), "never", False),
        (("a", "b", "c"), "done", False),
        (("red", "green", "blue"), "always", True),
    ],
)
def test_a_head_is_foreign_by_its_names(classes: tuple[str, ...], transfer: Any, foreign: bool, data: Path) -> None:
    assert task(data, dataclasses.replace(SPEC, classes=classes), transfer=transfer).foreign is foreign


@pytest.mark.parametrize("transfer", ["never", "done"])
def test_another_count_of_classes_needs_a_transfer(transfer: Any, data: Path) -> None:
    with pytest.raises(BadData) as caught:
        task(data, dataclasses.replace(SPEC, classes=("a", "b")), transfer=transfer)
    assert str(caught.value) == (
        f"{data} has 3 classes but the model 2; leave task.transfer at auto to train a head for them"
    )


def test_notes_say_what_becomes_of_the_model(data: Path) -> None:
    assert task(data).notes() == ()
    assert task(data, dataclasses.replace(SPEC, classes=("Blue", "dog"))).notes() == (
        "the model's 2 classes are not the data's (red, green, blue): its head is trained for them first; it goes on "
        "from the model's own blue",
    )
    assert task(data, dataclasses.replace(SPEC, classes=("cat", "dog"))).notes() == (
        "the model's 2 classes are not the data's (red, green, blue): its head is trained for them first",
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch", 0, "task.batch must be at least 1, not 0"),
        ("calibration", 0, "task.calibration must be at least 1, not 0"),
        ("confidence", 1.5, "task: confidence is a fraction in [0, 1], not 1.5"),
        ("iou", -0.1, "task: iou is a fraction in [0, 1], not -0.1"),
        ("mosaic", 2.0, "augmentation: mosaic must be a number from 0 to 1, not 2.0"),
        ("hue", float("nan"), "augmentation: hue must be a number from 0 to 0.5, not nan"),
        ("transfer", "sometimes", "task.transfer is auto, always, never or done, not 'sometimes'"),
        ("colour", 1, "unknown option task.colour; known: batch, calibration, confidence, flip, hue, iou, mosaic, "
                      "saturation, scale, transfer, translate, value"),
        ("flips", 1, "unknown option task.flips; did you mean 'flip'?"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(option: str, value: Any, message: str, data: Path) -> None:
    with pytest.raises(BadOption) as caught:
        task(data, **{option: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec((1, 3, 64, 64), classes=tiny.NAMES), "its spec names no head"),
        (dataclasses.replace(SPEC, input_shape=(1, 3, 60, 64)), "is not a multiple of the head's stride 16"),
    ],
)
def test_a_model_whose_outputs_cannot_be_read(spec: ModelSpec, message: str, data: Path) -> None:
    with pytest.raises(BadModel, match=message):
        task(data, spec).score(empty(task(data)), "search")


STILL = dict.fromkeys(("mosaic", "scale", "translate", "flip", "hue", "saturation", "value"), 0.0)


# --- training ---------------------------------------------------------------------------------------------------------


def test_batches_hang_on_epoch_and_seed_alone(data: Path) -> None:
    found = task(data, batch=24)
    assert found.train_steps() == 2
    first = list(found.train_batches(3, 1))
    again = list(task(data, batch=24).train_batches(3, 1))
    assert len(first) == 2
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert all(torch.equal(a, b) for a, b in zip(one.targets, two.targets, strict=True))
    for other in (found.train_batches(4, 1), found.train_batches(3, 2)):
        assert not torch.equal(next(iter(other)).inputs, first[0].inputs)


def test_order_and_changes_hang_on_epoch_and_seed_each(data: Path) -> None:
    def first(epoch: int, seed: int, **options: Any) -> torch.Tensor:
        return next(iter(task(data, **options).train_batches(epoch, seed))).inputs

    for other in ((1, 0), (0, 1)):
        assert not torch.equal(first(0, 0, **STILL), first(*other, **STILL)), "the order"
        whole, changed = (first(*which, batch=64).sum((1, 2, 3)).sort().values for which in ((0, 0), other))
        assert not torch.equal(whole, changed), "what is done to each image"


def test_batches_are_what_network_and_loss_take(data: Path) -> None:
    found = task(data, batch=32)
    seen = set()
    for batch in found.train_batches(0, 0):
        assert batch.inputs.shape == (32, 3, 64, 64) and batch.inputs.dtype == torch.float32
        assert batch.inputs.min() >= 0 and batch.inputs.max() <= 1
        objects, regions = batch.targets
        assert objects.dtype == torch.float32 and objects.shape[1:] == (6,) and regions.shape == (0, 5)
        assert set(objects[:, 0].tolist()) <= set(range(32)) and set(objects[:, 1].tolist()) == {0.0, 1.0, 2.0}
        low, high = objects[:, 2:4] - objects[:, 4:] / 2, objects[:, 2:4] + objects[:, 4:] / 2
        assert (low >= -1e-3).all() and (high <= 64 + 1e-3).all() and (objects[:, 4:] > 0).all()
        seen.add(len(objects))
        loss = found.loss(torch.zeros(32, 24, 80, requires_grad=True), batch)
        assert loss.ndim == 0 and loss.isfinite()
    assert min(seen) > 16


def test_without_augmentation_the_targets_lie_on_their_objects(data: Path) -> None:
    """Red boxes must lie on red pixels, whatever the order and the batch."""
    for batch in task(data, batch=16, **STILL).train_batches(0, 0):
        for image, kind, x, y, *_ in batch.targets[0].tolist():
            pixel = batch.inputs[int(image), :, int(y), int(x)] * 255
            assert int(pixel.argmax()) == int(kind) and pixel.max() > 150


def test_fewer_images_than_a_batch_make_one_batch(tmp_path: Path) -> None:
    found = task(tiny.write_data(tmp_path, train=5), batch=16)
    assert found.train_steps() == 1
    assert [len(batch.inputs) for batch in found.train_batches(0, 0)] == [5]


def test_calibration_is_always_the_same_and_of_train(data: Path) -> None:
    found = task(data, calibration=40)
    parts = list(found.calibration_batches())
    assert [len(part) for part in parts] == [32, 8]
    assert all(torch.equal(a, b) for a, b in zip(parts, task(data, calibration=40).calibration_batches(), strict=True))
    other = torch.cat(list(task(data, calibration=40, seed=1).calibration_batches()))
    images = torch.cat(parts)
    assert not torch.equal(images, other)
    stored = np.stack([p for p, _ in tiny.scenes(64, 0)])
    every = torch.from_numpy(stored).permute(0, 3, 1, 2).float() / 255
    assert all((image - every).abs().amax((1, 2, 3)).min() < 1e-6 for image in images), "as evaluation sees them"
    assert len(torch.cat(list(task(data, calibration=10**6).calibration_batches()))) == 64


def test_the_distance_to_the_teacher_is_that_of_heads(data: Path) -> None:
    found = task(data)
    raw = torch.randn(2, 24, 80, generator=torch.Generator().manual_seed(0))
    assert found.distance(raw, raw, 4.0).item() == pytest.approx(0.0, abs=1e-5)
    apart = found.distance(raw + 1, raw, 4.0)
    assert apart > 0.1 and torch.equal(apart, found.distance(raw + 1, raw, 1.0)), "nothing is softened"


# --- scoring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["search", "test"])
def test_who_knows_everything_scores_1_and_who_sees_nothing_0(split: Any, data: Path) -> None:
    found = task(data)
    best = found.score(perfect(found, split), split)
    assert best.value == pytest.approx(1.0, abs=1e-6) and best.n == 16
    assert best.per_item.tolist() == [1.0] * 16
    assert best.replicates is not None and best.replicates.shape == (1000,)
    assert np.nanmin(best.replicates) == pytest.approx(1.0, abs=1e-6)
    nothing = found.score(empty(found), split)
    assert nothing.value == 0.0
    without = np.array([not len(found._pictures[split].labels(i)[1]) for i in range(16)])
    assert without.any(), "an image that shows no object is there"
    assert nothing.per_item.tolist() == without.astype(float).tolist(), "nothing is right where nothing is"
    drop, error = best.drop_to(nothing)
    assert drop == pytest.approx(1.0) and error == pytest.approx(0.0, abs=1e-6)


def test_some_of_the_images(data: Path) -> None:
    found = task(data)
    chosen = [5, 2, 9]
    some = found.score(perfect(found, "search", chosen), "search", chosen)
    assert (some.n, len(some.per_item)) == (3, 3)
    assert some.replicates is not None, "finalists are told apart by what mAP does in resamples"
    assert some.value == pytest.approx(1.0, abs=1e-6)
    wrong = found.score(perfect(found, "search", [1, 2, 3]), "search", chosen)
    assert wrong.value < 0.5


def test_the_wrong_place_and_the_wrong_class_are_found_out(data: Path) -> None:
    found = task(data)
    right = perfect(found, "search")
    value = found.score(lambda images: np.roll(right(images), 1, axis=2), "search").value
    assert value < 0.2
    right = perfect(found, "search")

    def other(images: NDArray[np.float32]) -> NDArray[np.float32]:
        raw = right(images).reshape(len(images), 3, 8, 80)
        raw[:, :, 5:] = np.roll(raw[:, :, 5:], 1, axis=2)
        return raw.reshape(len(images), 24, 80)

    assert found.score(other, "search").value < 0.2


@pytest.mark.parametrize("shape", [(24, 79), (27, 80), (80, 24), (24,)])
def test_outputs_of_another_shape(shape: tuple[int, ...], data: Path) -> None:
    with pytest.raises(BadModel) as caught:
        task(data).score(lambda images: np.zeros((len(images), *shape), np.float32), "search")
    assert str(caught.value) == (
        "a yolov5 head of 3 classes gives outputs of shape (n, 24, 80) for an input of 64x64, but this model gave "
        f"{(16, *shape)}"
    )


def test_a_damaged_image_is_named_when_it_is_decoded(own: Path) -> None:
    found = task(own)
    broken = found._splits["search"].files[3]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadData) as caught:
        found.score(empty(found), "search")
    assert str(caught.value).startswith(f"{broken} ")


# --- the digest -------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_content(data: Path, own: Path) -> None:
    assert task(data).digest() == task(data).digest() == task(own).digest()


OPTIONS = {
    "batch": 16, "calibration": 95, "confidence": 0.01, "iou": 0.5, "mosaic": 0.4, "scale": 0.3, "seed": 1, "flip": 0.0,
    "translate": 0.2, "hue": 0.0, "saturation": 0.1, "value": 0.1, "transfer": "always",
}  # fmt: skip


def test_every_option_is_tried_below() -> None:
    assert set(OPTIONS) == {f.name for f in dataclasses.fields(Detection)} - {"data", "model"}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_digest(option: str, data: Path) -> None:
    assert task(data, **{option: OPTIONS[option]}).digest() != task(data).digest()


def test_the_models_input_changes_the_digest(data: Path) -> None:
    digests = {task(data, spec).digest() for spec in (
        SPEC, dataclasses.replace(SPEC, input_shape=(1, 3, 96, 64)), dataclasses.replace(SPEC, mean=(0.1, 0.0, 0.0)),
        dataclasses.replace(SPEC, resize="letterbox 0"), dataclasses.replace(SPEC, classes=("a", "b", "c")),
    )}  # fmt: skip
    assert len(digests) == 5


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_byte_of_an_image_or_a_label_changes_the_digest(split: str, own: Path) -> None:
    before = task(own).digest()
    label = own.parent / "labels" / split / f"{split}003.txt"
    kept = label.read_text()
    label.write_text(kept.replace(" 0.", " 0.0", 1))
    moved = task(own).digest()
    label.write_text(kept)
    assert task(own).digest() == before != moved
    image = own.parent / "images" / split / f"{split}003.png"
    image.write_bytes(image.read_bytes() + b"\0")  # behind its end: the same pixels
    assert task(own).digest() not in (before, moved)
