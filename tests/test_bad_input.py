"""Whatever is wrong with what the user gave: one sentence that says how to mend it, an exit code, and nothing left."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_detector
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from edgeprune.cli import main

MODULES = """
import torch
from torch import nn

class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

class Mapping(Conv):
    def forward(self, x):
        return {"a": self.conv(x)}

class Branching(Conv):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if y.sum() > 0 else -y

class Noisy(Conv):
    def forward(self, x):
        return self.conv(x).mean((2, 3)) + torch.rand(1)

class Dense(Conv):
    def forward(self, x):
        return self.conv(x)

def fails():
    raise RuntimeError("oh")

def three():
    return 3
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_inputs(tmp_path_factory.mktemp("made"))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the inputs."""
    folder = Path(shutil.copytree(made, tmp_path / "here"))
    (folder / "modules.py").write_text(MODULES)
    monkeypatch.chdir(folder)
    tiny.install(tiny.Clock(), monkeypatch.setattr)
    return folder


def refused(*arguments: str, code: int = 2) -> str:
    """Return the sentence of a command that must fail with ``code`` and leave no build behind."""
    before = set(Path.cwd().rglob("*"))
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    left = {p for p in set(Path.cwd().rglob("*")) - before if "__pycache__" not in p.parts}
    assert left == set()
    return " ".join(result.stderr.splitlines()[-1].split())


def compiling(*more: str, model: str = "net.safetensors", arch: str = "net.py:net", data: str = "data.npz") -> str:
    return refused("compile", model, "--arch", arch, "--data", data, "--cost", "macs", "--quiet", *more)


# --- models -----------------------------------------------------------------------------------------------------------


def _poison(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = load_file("net.safetensors")
        state["fc.bias"][1] = value
        save_file(state, path)

    return write


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("nan.safetensors", _poison(float("nan")), "the weights hold NaN or infinity, first in 'fc.bias'; the checkp"),
        ("inf.safetensors", _poison(float("inf")), "the weights hold NaN or infinity, first in 'fc.bias'; the checkp"),
        ("none.pt", lambda p: None, "there is no model file none.pt; check the path"),
        ("folder", lambda p: p.mkdir(), "folder is a folder; name the model file in it"),
        ("empty.pt", _bytes(b""), "empty.pt is empty; copy or download it again"),
        ("text.pt", _bytes(b"hi\n"), "text.pt is a text file, not a model; give a .safetensors or .pt file"),
        ("x.npz", lambda p: np.savez(p, a=1), "x.npz is a NumPy archive (.npz), not a model; give data with --data"),
        (
            "torn.safetensors",
            lambda p: p.write_bytes(Path("net.safetensors").read_bytes()[:-9]),
            "torn.safetensors is truncated or damaged (",
        ),
        (
            "lfs.pt",
            _bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "lfs.pt is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository",
        ),
        ("whole.pt", lambda p: torch.save({"fc.bias": 3}, p), "whole.pt holds no weights that can be found (its keys:"),
    ],
)
def test_model_files(name: str, write: Callable[[Path], Any], sentence: str, here: Path) -> None:
    write(Path(name))
    assert compiling(model=name).startswith(f"error: {sentence}")


def test_a_pickle_that_would_run_code_runs_none(here: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, ("exploded",)

    torch.save({"state_dict": Bomb()}, "bomb.pt")
    sentence = compiling(model="bomb.pt")
    assert "mkdir" in sentence
    assert "--trust-pickle" in sentence
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("arch", "sentence"),
    [
        ("net.py:nett", "net.py has no function 'nett'; did you mean 'net'?"),
        ("none.py:net", "--arch 'none.py:net': there is no file none.py"),
        ("timm:resnett18", "timm has no model 'resnett18'; did you mean 'resnet18'?"),
        ("torchvision:resnett18", "torchvision has no classification model 'resnett18'; did you mean 'resnet18'?"),
        ("tim:x", "--arch 'tim:x': 'tim' is neither timm, torchvision, ultralytics nor a .py file; give timm:NAME, "),
        ("net.py", "--arch 'net.py' is not understood; give timm:NAME, torchvision:NAME, ultralytics:NAME or "),
        ("torchvision:resnet18", "net.safetensors does not fit --arch torchvision:resnet18: it lacks conv1.weight"),
        ("modules.py:fails", "--arch modules.py:fails failed (RuntimeError: oh); it must return a network when called"),
        ("modules.py:three", "--arch modules.py:three returned int, not a torch.nn.Module"),
    ],
)
def test_architectures(arch: str, sentence: str, here: Path) -> None:
    if arch.startswith(("timm", "torchvision")):
        pytest.importorskip(arch.partition(":")[0])
    assert compiling(arch=arch).startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("Mapping", "the model must return one tensor with the batch first, but it returned a mapping with keys ['a']"),
        ("Branching", "torch.export cannot capture this model ("),
        ("Noisy", "the exported graph differs from the module by "),
        ("Dense", "no group of this model can be pruned; `edgeprune inspect` says why for each of them"),
    ],
)
def test_networks_that_cannot_be_compiled(factory: str, sentence: str, here: Path) -> None:
    options = ("--input", "1x3x12x12", "--max-macs", "0.5x", "--cost", "macs", "--quiet")
    assert refused("compile", "--arch", f"modules.py:{factory}", *options).startswith(f"error: {sentence}")


def test_outputs_that_are_no_class_scores(here: Path) -> None:
    sentence = refused("compile", "--arch", "modules.py:Dense", "--data", "data.npz", "--quiet")
    assert sentence.startswith("error: a classifier of this data gives outputs of shape (120, 3 or more) for 120")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_extra_is_named_with_its_install_line(
    package: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"timm": "timm", "torchvision": "vision"}[package]
    assert refused("compile", "--arch", f"{package}:resnet18", "--quiet", code=4) == (
        f"error: --arch {package}:resnet18 needs {package}; install it with: pip install 'edgeprune[{extra}]'"
    )


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "neither data nor architecture tell the input shape; give it with --input, such as 1x3x224x224"),
        (("--input", "1x4x12x12"), "the model does not run on a 1x4x12x12 input (RuntimeError: Given groups=1"),
        (("--input", "1x3x9x9", "--data", "data.npz"), "x_test holds 12x12 images but the model takes 9x9; resize"),
        (("--input", "1x3x12x12", "--agent", "ppo"), "agent 'ppo' needs data to score plans by; give --data, or --ag"),
        (("--input", "1x3x12x12", "--precision", "int8"), "int8 needs images to calibrate on; give them with --data"),
    ],
)
def test_shapes_and_missing_data(arguments: tuple[str, ...], sentence: str, here: Path) -> None:
    found = refused("compile", "net.safetensors", "--arch", "net.py:net", "--quiet", *arguments)
    assert found.startswith(f"error: {sentence}")


# --- data -------------------------------------------------------------------------------------------------------------

X, Y = tiny.images(60, 1)
FOURTH = np.where(Y == 2, 3, Y)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x_test": None}, "d.npz lacks x_test; it holds x_train, y_train, y_test"),
        ({"x_train": X / 255, "y_train": Y}, "d.npz: x_train is float64; give pixels as uint8 in 0..255"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "d.npz: x_train is empty; every split needs images"),
        ({"x_test": X[:0], "y_test": Y[:0]}, "d.npz: x_test is empty; every split needs images"),
        ({"y_train": Y[:5]}, "d.npz: x_train holds 192 images but y_train 5 labels; give as many of each"),
        (
            {"x_train": X, "y_train": FOURTH, "x_test": X, "y_test": FOURTH},
            "d.npz has 4 classes but the model has 3 outputs; give the data the model was trained for, or a model with",
        ),
        ({"x_test": X[:3], "y_test": Y[:3]}, "class 0 has one image in x_test, too few to halve it into a search and"),
        ({"x_train": X[..., :2], "y_train": Y}, "d.npz: x_train has shape (60, 12, 12, 2); give (n, height, width)"),
        ({"x_train": X[:, :8, :8], "y_train": Y}, "the splits hold images of different shapes: 8x8x3 in x_train, 12x"),
        ({"x_train": X, "y_train": -1 - Y}, "d.npz: y_train holds the label -3; labels are class numbers from 0 to"),
        ({"y_test": np.full(240, 5)}, "label 5 occurs in x_test but never in x_train; every class that is evaluated"),
        ({"x_train": np.array([None] * 60), "y_train": Y}, "x_train of d.npz holds Python objects, which are never lo"),
    ],
)
def test_arrays(arrays: dict[str, Any], sentence: str, here: Path) -> None:
    tiny.write_data(Path("d.npz"), **arrays)
    assert compiling(data="d.npz").startswith(f"error: {sentence}")


def _tree(*folders: str, images: int = 2) -> None:
    from PIL import Image

    for folder in folders:
        (Path("tree") / folder).mkdir(parents=True)
        for i in range(images):
            Image.fromarray(X[i]).save(Path("tree") / folder / f"{i}.png")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: None, "there is no tree; check --data, or name the folder of your datasets in EDGEPRUNE_DATA"),
        (lambda: Path("tree").mkdir(), "tree is empty; a dataset is a folder with train/ and val/ (one folder a class"),
        (lambda: Path("tree").write_text("x"), "tree is not a dataset; a dataset is a folder with train/ and val/"),
        (lambda: _tree("train/a", "train/b"), "tree has train/ but no val/ (or test/) to evaluate on; a dataset is"),
        (lambda: _tree("train/a", "val/b"), "class 'b' is in tree/val but not in train/; every class must be in both"),
        (lambda: _tree("train/a", "val/a", images=0), "tree/train/a holds no images (.jpg, .jpeg, .png, "),
        (lambda: _tree("train/a", "val/a"), "the files of an image folder have no common size; give one with --set"),
    ],
)
def test_image_folders(
    make: Callable[[], Any], sentence: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL")
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    make()
    assert compiling(data="tree").startswith(f"error: {sentence}")


def test_an_image_that_is_none(here: Path) -> None:
    pytest.importorskip("PIL")
    _tree("train/a", "train/b", "val/a", "val/b", images=3)
    Path("tree/train/a/0.png").write_bytes(b"\x89PNG, almost")
    sentence = compiling("--set", "task.size=12", data="tree")
    assert sentence == "error: tree/train/a/0.png cannot be decoded as an image; replace or remove it"


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--agent", "pppo"), "unknown agent 'pppo'; did you mean 'ppo'?"),
        (("--task", "detections"), "unknown task 'detections'; known: auto, classification, detection, or file"),
        (("--task", "t.py:T"), "there is no file t.py; give --task the path of a Python file"),
        (("--target", "jetson-xvier"), "unknown target 'jetson-xvier'; did you mean 'jetson-xavier'?"),
        (("--target", "mine.toml"), "unknown target 'mine.toml'; no such file"),
        (("--precision", "fp16"), "host-cpu has no fp16 arithmetic; its precisions are fp32, int8"),
        (("--recipe", "none"), "none holds no recipe.json; give a folder that `edgeprune compile` wrote"),
        (("--set", "task.sead=1"), "task has no option 'sead'; did you mean 'seed'?"),
        (("--set", "task.seed=1"), "task.seed is the build's own; give it with --seed"),
        (("--set", "task.batch=0"), "task.batch must be at least 1, not 0"),
        (("--set", "finetune.lr=nan"), "finetune.lr takes a number, not 'nan'"),
        (("--set", "finetune.momentum=-1"), "finetune: momentum is in [0, 1), not -1.0"),
        (("--set", "finetune.weight_decay=-1"),
         "finetune: weight_decay, warmup, hints and patience must not be negative"),
        (("--set", "agent.gama=1"),
         "ppo has no option 'gama'; known: boldness, changes, clip_range, entropy, episodes, epochs"),
        (("--set", "agent.rounds=0"), "ppo: rounds must be at least 1, not 0"),
        (("--agent", "a2c", "--set", "agent.learning_rate=-1"), "a2c: learning_rate must be at least 0, not -1.0"),
        (("--agent", "dqn", "--set", "agent.batch_size=0"), "dqn: batch_size must be at least 1, not 0"),
        (("--agent", "random", "--set", "agent.draws=0"), "random: draws must be at least 1, not 0"),
        (("--set", "sparsify.criterion=tailor"), "unknown criterion 'tailor'; did you mean 'taylor'?"),
        (("--set", "sparsify.images=0"), "sparsify: images must be at least 1, not 0"),
        (("--set", "prune.criterion=tailor"), "unknown criterion 'tailor'; did you mean 'taylor'?"),
        (("--set", "export.tolerance=0"), "export: tolerance must be above zero, not 0.0"),
        (("--set", "quantize.lowered=stem,zzz"), "quantize.lowered names 'zzz', which is no layer of the graph; know"),
    ],
)
def test_options(arguments: tuple[str, ...], sentence: str, here: Path) -> None:
    if "--agent" not in arguments:
        arguments = (*arguments, "--evaluations", "4")
    found = compiling("--epochs", "0", *arguments)
    assert found.startswith(f"error: {sentence}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(here: Path) -> None:
    assert compiling("--device", "cuda") == (
        "error: --device cuda: torch finds no CUDA device here; use --device cpu or auto"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = 'x", "mine.toml is not valid TOML: "),
        ("name = 'x'", "mine.toml: description: Field required"),
        ("detected = {cpu = 'x'}", "mine.toml: 'detected' is found out by edgeprune and cannot be set"),
    ],
)
def test_targets_of_the_users_own(text: str, sentence: str, here: Path) -> None:
    Path("mine.toml").write_text(text)
    assert compiling("--target", "mine.toml").startswith(f"error: {sentence}")


# --- detectors --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a detector for red, green and blue, and data: ``same`` classes, and ``other`` ones."""
    at = tmp_path_factory.mktemp("detectors")
    tiny_detector.save(at / "detector.pt", tiny_detector.seeded(), opt={"imgsz": 64})
    tiny_detector.write_data(at / "same", train=8, val=8)
    tiny_detector.write_data(at / "other", names=("yellow", "red"), train=8, val=8)
    return at


@pytest.fixture
def there(detectors: Path, here: Path) -> Path:
    """Work in a folder with a classifier and a detector, and data for both."""
    return Path(shutil.copytree(detectors, here, dirs_exist_ok=True))


def detecting(*more: str, data: str = "same/data.yaml", model: str = "detector.pt", code: int = 2) -> str:
    return refused("compile", model, "--data", data, "--cost", "macs", "--quiet", *more, code=code)


class MP(torch.nn.Module):
    """A layer of YOLOv7 alone."""


LAYOUTS = ("a dataset for detection is a data.yaml (keys train, val and names), a folder that holds one, or a folder "
           "with KITTI's image_2/ and label_2/")  # fmt: skip


def test_data_of_the_other_kind(there: Path) -> None:
    assert detecting(data="data.npz") == f"error: data.npz is not a dataset for detection; {LAYOUTS}"
    sentence = "holds boxes, but the model is no detector; give a detector, or other data"
    for data in ("same", "same/data.yaml"):
        assert compiling("--input", "1x3x12x12", data=data) == f"error: {data} {sentence}"
        assert compiling("--input", "1x3x12x12", "--task", "detection", data=data) == f"error: {data} {sentence}"


def test_tasks_that_do_not_fit(there: Path) -> None:
    assert detecting("--task", "classification") == "error: the model is a detector; leave --task away"
    shaped = ("--task", "detection", "--input", "1x3x12x12")
    assert compiling(*shaped) == f"error: data.npz is not a dataset for detection; {LAYOUTS}"
    assert detecting("--task", "detections").startswith("error: unknown task 'detections'; known: auto, classification")


def test_classes_that_do_not_fit(there: Path) -> None:
    assert detecting("--set", "task.transfer=never", data="other/data.yaml") == (
        "error: other/data.yaml has 2 classes but the model 3; leave task.transfer at auto to train a head for them"
    )


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("task.transfer=sometimes", "task.transfer takes one of auto, always, never, done, not 'sometimes'"),
        ("task.batch=0", "task.batch must be at least 1, not 0"),
        ("task.confidence=2", "task: confidence is a fraction in [0, 1], not 2.0"),
        ("task.mosaic=-1", "augmentation: mosaic must be a number from 0 to 1, not -1.0"),
        ("task.anchors=3", "task has no option 'anchors'; known: batch, calibration, confidence, data, flip, hue, iou"),
        ("task.model=x", "task.model is what the model file says of itself; leave it away"),
        ("task.data=x", "task.data is the build's own; give it with --data"),
        ("transfer.epochs=-1", "transfer: epochs must not be negative, not -1"),
        ("transfer.lr=fast", "transfer.lr takes a number, not 'fast'"),
        ("transfer.length=3", "transfer has no option 'length'; known: average, distillation, epochs, hints, lr"),
    ],
)
def test_options_of_detection(option: str, sentence: str, there: Path) -> None:
    assert detecting("--set", option, data="other/data.yaml").startswith(f"error: {sentence}")


@pytest.mark.parametrize("size", ["1x3x72x64", "1x3x64x40"])
def test_an_input_that_is_no_multiple_of_the_stride(size: str, there: Path) -> None:
    assert detecting("--input", size) == (
        f"error: height and width of --input must be multiples of 16 for this detector, not {size[4:]}"
    )


def test_an_architecture_beside_a_detector(there: Path) -> None:
    assert detecting("--arch", "net.py:net") == (
        "error: detector.pt is a YOLOv5 checkpoint and holds its own architecture; leave --arch away"
    )


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-900])


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda root: (root / "labels/train/train000.txt").write_text("3 0.5 0.5 0.1 0.1\n"),
         "labels/train/train000.txt"),
        (lambda root: [shutil.rmtree(root / "labels/train"), (root / "labels/train").mkdir()],
         "no image of train has a label file"),
        (lambda root: [p.unlink() for p in (root / "images/val").iterdir()], "images/val"),
        (lambda root: (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: []\n"), "names"),
    ],
    ids=["a class out of range", "no labels", "no images", "no classes"],
)  # fmt: skip
def test_data_that_is_wrong(harm: Callable[[Path], Any], sentence: str, there: Path) -> None:
    harm(there / "same")
    found = detecting()
    assert found.startswith("error: ") and sentence in found


def test_an_image_that_cannot_be_decoded_is_named(there: Path) -> None:
    _cut(there / "same/images/train/train003.png")
    _cut(there / "same/images/val/val003.png")
    assert "same/images/" in (found := detecting("--set", "task.calibration=8")) and "003.png" in found


def test_a_detector_of_another_family(there: Path) -> None:
    with tiny_detector.pretending(models_common=(MP,)):
        torch.save({"model": torch.nn.Sequential(MP())}, "yolov7.pt")
    assert detecting(model="yolov7.pt") == (
        "error: yolov7.pt is a YOLOv7 checkpoint, which edgeprune cannot read (it names models.common.MP); it reads "
        "checkpoints of YOLOv5 v6 and v7, and of YOLOv8 and YOLO11 with the extra ultralytics"
    )


# --- places to write --------------------------------------------------------------------------------------------------


def test_a_file_where_the_build_should_go(here: Path) -> None:
    assert compiling("--out", "net.py") == "error: net.py is a file, not a folder; choose another --out"
    assert Path("net.py").read_bytes() == Path(tiny.tiny_net.__file__).read_bytes()


@pytest.mark.parametrize(
    ("out", "code", "sentence"),
    [
        ("net.py/out", 4, "cannot write net.py/out/.edgeprune-probe: a part of this path is a file; free some space"),
        ("circle/out", 4, "cannot write circle/out/.edgeprune-probe: its links lead in a circle; free some space"),
        ("o" * 300, 4, f"cannot write {'o' * 300}: the name is too long; free some space or choose another folder"),
    ],
)
def test_a_path_that_cannot_be(out: str, code: int, sentence: str, here: Path) -> None:
    Path("circle").symlink_to("circle")
    found = refused("compile", "net.safetensors", "--arch", "net.py:net", "--quiet", "--out", out, code=code)
    assert found.startswith(f"error: {sentence}")


def test_a_name_that_no_file_can_have(here: Path) -> None:
    assert compiling(data="d" * 300) == f"error: the name '{'d' * 40}'… is too long for a file; give another"


@pytest.mark.parametrize(("code", "why"), [(errno.EROFS, "the file system is read-only"),
                                           (errno.EACCES, "permission is denied"),
                                           (errno.ENOENT, "nothing can be created there")])  # fmt: skip
def test_a_folder_that_cannot_be_written(code: int, why: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    sentence = refused("compile", "net.safetensors", "--arch", "net.py:net", "--quiet", "--out", "o", code=4)
    assert sentence == (
        f"error: cannot write o/.edgeprune-probe: {why}; free some space or choose another folder (--out for the "
        "build, EDGEPRUNE_CACHE for the cache)"
    )


def test_a_cache_that_is_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(here / "net.py"))
    found = refused("compile", "net.safetensors", "--arch", "net.py:net", "--data", "data.npz", "--quiet", code=4)
    assert "a part of this path is a file; free some space or choose another folder" in found


@pytest.mark.parametrize("written", [0, 1, 4, 9, 14])
def test_a_disk_that_fills_up_leaves_no_half_of_a_build(
    written: int, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many files of the build or the store there is no space: the sentence, and no build."""
    fsync, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        count[0] += 1
        if count[0] > written + 1:  # the first is the probe
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", full)
    options = ("--max-macs", "0.5x", "--agent", "uniform", "--epochs", "1", "--cost", "macs", "--set", "task.batch=32")
    found = refused("compile", "net.safetensors", "--arch", "net.py:net", "--data", "data.npz", "--quiet", *options,
                    "--set", "sparsify.recalibration=32", "--set", "task.calibration=32", code=4)  # fmt: skip
    assert "the disk is full; free some space or choose another folder" in found
    for record in (tmp_path / "cache").rglob("done.json"):
        assert record.stat().st_size > 0


# --- other commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("verify", "none"), "none is not a folder; give a folder that `edgeprune compile` wrote"),
        (("verify", "."), ". holds no manifest.json; it is not a finished build; give a folder that `edgeprune"),
        (("profile", "none.onnx"), "there is no file none.onnx; give an ONNX file, or a folder that `edgeprune comp"),
        (("profile", "data.npz"), "data.npz is not a readable ONNX file ("),
        (("profile", "."), "there is no file model.onnx; give an ONNX file, or a folder that `edgep"),
        (("inspect", "none.pt"), "there is no model file none.pt; check the path"),
        (("inspect", "net.safetensors"), "net.safetensors holds the weights of a network but not the network;"),
        (("inspect", "net.safetensors", "--arch", "net.py:net"), "neither data nor architecture tell the input shape"),
    ],
)
def test_other_commands(arguments: tuple[str, ...], sentence: str, here: Path) -> None:
    assert refused(*arguments, "--quiet").startswith(f"error: {sentence}")
