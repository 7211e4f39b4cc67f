"""CIFAR-10's example: its networks, the script that trains them, and the one that writes the whole data set."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.model import ModelSpec, TorchModel
from edgeprune.tasks.classification import Classification
from edgeprune.tracing import trace

FOLDER = Path(__file__).parents[2] / "examples" / "cifar10"
MODULES = ("thesis", "resnet", "train", "prepare")


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path[:] = [one for one in sys.path if one != str(FOLDER)]
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class is their brightness, so that a little training shows."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 320), ("test", 80)):
        labels = np.arange(count) % 10
        noise = rng.integers(0, 20, (count, 32, 32, 3))
        arrays |= {f"x_{part}": (labels[:, None, None, None] * 23 + noise).astype(np.uint8), f"y_{part}": labels}
    path = tmp_path_factory.mktemp("cifar") / "data.npz"
    np.savez(path, **arrays)
    return path


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("resnet18", 11_173_962, 555.4e6), ("vgg19", 20_035_018, 398.1e6), ("mobilenet", 3_217_226, 46.4e6)],
)
def test_networks_have_the_sizes_that_are_stated_and_free_groups(
    example: Any, name: str, parameters: int, macs: float
) -> None:
    module = getattr(example["thesis"], name)().eval()
    config = module.pretrained_cfg
    model = TorchModel(module, ModelSpec((1, *config["input_size"]), config["mean"], config["std"]),
                       (torch.zeros(1, *config["input_size"]),))  # fmt: skip
    assert model.parameters() == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert counter.get_total_flops() / 4 == pytest.approx(macs, rel=1e-3)
    free = [group for group in trace(model, (1,)).groups if len(group.options()) > 1]
    assert len(free) >= {"resnet18": 8, "vgg19": 15, "mobilenet": 13}[name]


# --- training ---------------------------------------------------------------------------------------------------------


def opened(data: Path) -> Classification:
    return Classification.open(data, ModelSpec((1, 3, 32, 32), (0.5,) * 3, (0.25,) * 3), batch=32)


def test_training_learns_and_looks_at_training_images_alone(example: Any, data: Path, monkeypatch: Any) -> None:
    task = opened(data)
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "score", lambda *a, **k: pytest.fail("looked at the evaluation images"))
        model = example["train"].train(example["resnet"].resnet20(), task, 4)
    spec = task.spec()
    assert task.score(TorchModel(model, spec, (torch.zeros(spec.input_shape),)).predict, "test").value > 0.25


def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    example: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, train = opened(data), example["train"]

    def trained(stop: int | None, kept: Path | None) -> Any:
        torch.manual_seed(0)
        batches = task.train_batches

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(task, name)

            def train_batches(self, epoch: int, seed: int) -> Any:
                if epoch == stop:
                    raise KeyboardInterrupt
                return batches(epoch, seed)

        return train.train(example["resnet"].resnet20(), Watched(), 2, kept=kept).state_dict()

    whole = trained(None, None)
    with pytest.raises(KeyboardInterrupt):
        trained(1, tmp_path / "kept")
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]
    again = trained(None, tmp_path / "kept")
    assert "going on after epoch 1" in capsys.readouterr().out
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for network, epochs in (("resnet20", 3), ("resnet32", 2)):
        with pytest.raises(SystemExit, match=r"kept is of another network, other data or options; remove it to start"):
            train.train(getattr(example["resnet"], network)(), task, epochs, kept=tmp_path / "kept")
    for junk in ((tmp_path / "kept").read_bytes()[:1000], b"", b"not a checkpoint"):
        (tmp_path / "kept").write_bytes(junk)
        with pytest.raises(SystemExit, match=r"kept cannot be read \(\w+\); remove it to start anew$"):
            train.train(example["resnet"].resnet20(), task, 2, kept=tmp_path / "kept")


def test_the_script_writes_weights_that_load(
    example: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "r20.safetensors"
    asked = ["resnet20", "--data", str(data), "--epochs", "1", "--device", "cpu", "--out", str(out)]
    assert example["train"].main(asked) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote {out}: ")
    assert [one.name for one in out.parent.iterdir()] == [out.name]
    example["resnet"].resnet20().load_state_dict(load_file(out))


def test_data_that_cannot_be_read_is_one_sentence(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example["train"].main(["vgg19", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# --- the whole data set -----------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package" / "data"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}.png" for n in range(1, 6)), "test_batch.png"):
        Image.fromarray(rng.integers(0, 256, (4, 1024, 3)).astype(np.uint8)).save(folder / name)
    (folder / "train_lables.json").write_text(json.dumps(list(range(10)) * 2))
    (folder / "test_lables.json").write_text("[1, 2, 3, 4]")
    return tmp_path / "package"


def test_rows_of_the_package_become_images(example: Any, package: Path, tmp_path: Path) -> None:
    assert example["prepare"].prepare(package, tmp_path / "out" / "c.npz") == (20, 4)
    found = np.load(tmp_path / "out" / "c.npz")
    assert found["x_train"].shape == (20, 32, 32, 3) and found["x_train"].dtype == np.uint8
    second = np.asarray(Image.open(package / "data" / "data_batch_2.png"))
    assert np.array_equal(found["x_train"][5].reshape(1024, 3), second[1])
    assert found["y_train"].tolist() == list(range(10)) * 2 and found["y_test"].tolist() == [1, 2, 3, 4]
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["c.npz"]


def test_a_package_that_is_not_one_is_refused(example: Any, package: Path, tmp_path: Path) -> None:
    prepare = example["prepare"].prepare
    (package / "data" / "test_lables.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"has 4 test images and 1 labels$"):
        prepare(package, tmp_path / "c.npz")
    Image.new("RGB", (1000, 2)).save(package / "data" / "data_batch_3.png")
    with pytest.raises(ValueError, match=r"data_batch_3\.png is 1000 pixels wide, not the 1,024 of an image$"):
        prepare(package, tmp_path / "c.npz")
    (package / "data" / "data_batch_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no data_batch_1\.png; give the folder"):
        prepare(package, tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()
