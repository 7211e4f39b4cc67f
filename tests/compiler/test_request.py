from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.compiler.request import (
    Request,
    configure,
    data_path,
    default_out,
    parse_settings,
    parse_shape,
    read_config,
)
from edgeprune.errors import BadOption


@dataclass(frozen=True)
class Options:
    name: ClassVar[str] = "finetune"
    epochs: int = 3
    lr: float = 0.1
    nesterov: bool = True
    title: str = "x"
    folder: Path = Path()
    mode: Literal["cosine", "step"] = "cosine"
    patience: int | None = 5
    limit: Optional[float] = 1.0  # noqa: UP045 - both spellings must work
    milestones: tuple[float, ...] = ()
    size: tuple[int, str] = (1, "px")
    table: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError("epochs must not be negative")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("epochs", "12", 12),
        ("lr", "1e-3", 1e-3),
        ("nesterov", "false", False),
        ("nesterov", "True", True),
        ("title", "", ""),
        ("folder", "a/b", Path("a/b")),
        ("mode", "step", "step"),
        ("patience", "none", None),
        ("patience", "7", 7),
        ("limit", "0.5", 0.5),
        ("limit", "none", None),
        ("milestones", "0.5, 0.75", (0.5, 0.75)),
        ("milestones", "", ()),
        ("size", "3,em", (3, "em")),
    ],
)
def test_text_becomes_the_field_s_type(field: str, text: str, value: object) -> None:
    found = getattr(configure(Options, {field: text}), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("epochs", "1.5", "finetune.epochs takes a whole number, not '1.5'"),
        ("lr", "fast", "finetune.lr takes a number, not 'fast'"),
        ("lr", "nan", "finetune.lr takes a number, not 'nan'"),
        ("nesterov", "perhaps", "finetune.nesterov takes true or false, not 'perhaps'"),
        ("mode", "linear", "finetune.mode takes one of cosine, step, not 'linear'"),
        ("patience", "x", "finetune.patience takes a whole number or none, not 'x'"),
        ("milestones", "1,x", "finetune.milestones takes a list with commas between, each a number, not '1,x'"),
        ("size", "3", "finetune.size takes 2 values with commas between, not '3'"),
        ("table", "a", "finetune.table takes a value that can only be given from Python or none, not 'a'"),
        ("epoch", "1", "finetune has no option 'epoch'; did you mean 'epochs'?"),
        (
            "name",
            "x",
            "finetune has no option 'name'; known: epochs, folder, limit, lr, milestones, mode, nesterov, patience, "
            "size, table, title",
        ),
        ("epochs", "-1", "finetune: epochs must not be negative"),
    ],
)
def test_other_text_is_refused(field: str, text: str, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        configure(Options, {field: text})
    assert str(caught.value) == message


def test_an_instance_keeps_its_other_fields() -> None:
    before = Options(epochs=9)
    after = configure(before, {"lr": "0.5"})
    assert (after.epochs, after.lr, before.lr) == (9, 0.5, 0.1)


@given(st.sampled_from([f for f in Options.__dataclass_fields__]), st.text(max_size=20))
def test_any_text_is_a_value_or_a_bad_option(field: str, text: str) -> None:
    try:
        configure(Options, {field: text})
    except BadOption as error:
        assert str(error).startswith("finetune")


def test_shapes() -> None:
    assert parse_shape("1x3x224x224") == (1, 3, 224, 224)
    for text in ("3x224x224", "8x3x32x32", "1x0x3x3", "1x3x-1x3", "axbxcxd", "1x3x32x32x1", "1x3x9999999x3", ""):
        with pytest.raises(BadOption, match="give 1xCxHxW"):
            parse_shape(text)


def test_settings_are_merged_and_the_later_wins() -> None:
    base = {"finetune": {"lr": "0.1", "epochs": "3"}}
    found = parse_settings(["finetune.lr=0.01", "task.mean=0.5,0.5", "agent.title=a=b.c", "finetune.lr=0.02"], base)
    assert found == {
        "finetune": {"lr": "0.02", "epochs": "3"},
        "task": {"mean": "0.5,0.5"},
        "agent": {"title": "a=b.c"},
    }
    assert base["finetune"]["lr"] == "0.1"


@pytest.mark.parametrize(
    ("item", "end"),
    [
        ("lr=0.1", "is not understood; give PASS.FIELD=VALUE, such as finetune.lr=0.01"),
        ("finetune.lr", "is not understood; give PASS.FIELD=VALUE, such as finetune.lr=0.01"),
        ("finetun.lr=1", "unknown pass 'finetun'; did you mean 'finetune'?"),
    ],
)
def test_other_settings_are_refused(item: str, end: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_settings([item], {})
    assert str(caught.value).endswith(end)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edgeprune.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_config_file_is_text_by_option_and_table(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        'compile = {max-size = "4MB", seed = 7, json = true}\nfinetune = {lr = 0.01}\n'
        "task = {mean = [0.5, 0.25], flip = false}",
    )
    options, settings = read_config(path, ["max-size", "seed", "json"])
    assert options == {"max-size": "4MB", "seed": "7", "json": "true"}
    assert settings == {"finetune": {"lr": "0.01"}, "task": {"mean": "0.5,0.25", "flip": "false"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compile]\nmax-siz = '4MB'", "[compile] has no option 'max-siz'; did you mean 'max-size'?"),
        ("[finetun]\nlr = 1", "unknown table [finetun]; did you mean 'finetune'?"),
        ("seed = 1", "'seed' stands outside a table; put it under [compile]"),
        ("[task]\nmean = {a = 1}", "task.mean must be text, a number, true, false or a list of those"),
        ("[task]\nday = 2024-01-01", "task.day must be text, a number, true, false or a list of those"),
        ("[compile", "is not valid TOML"),
    ],
)
def test_other_config_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = config(tmp_path, text)
    with pytest.raises(BadOption) as caught:
        read_config(path, ["max-size", "seed"])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_unreadable_config_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="cannot be read: No such file or directory"):
        read_config(tmp_path / "no.toml", [])
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadOption, match="is not valid TOML"):
        read_config(binary, [])


def test_relative_data_is_looked_up_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "pack"))
    assert data_path(Path("cifar10")) == tmp_path / "pack" / "cifar10"
    assert data_path(Path("nothing")) == Path("nothing")
    (tmp_path / "cifar10").mkdir()
    assert data_path(Path("cifar10")) == Path("cifar10")
    monkeypatch.delenv("EDGEPRUNE_DATA")
    assert data_path(Path("cifar10")) == Path("cifar10")


def test_builds_are_named_after_the_model() -> None:
    assert default_out(Path("a/r20.safetensors"), "net.py:resnet20") == Path("build/r20")
    assert default_out(None, "torchvision:mobilenet_v3_small") == Path("build/mobilenet_v3_small")
    assert default_out(None, "timm:hf/some net") == Path("build/hf-some-net")


def test_the_name_of_a_folder_is_whole_and_a_suffix_follows(tmp_path: Path) -> None:
    (tmp_path / "r18.v2").mkdir()
    assert default_out(tmp_path / "r18.v2", None, "boards/my pi.toml") == Path("build/r18.v2-boards-my-pi.toml")
    assert default_out(Path("a/r20.safetensors"), None, "compared") == Path("build/r20-compared")


def test_a_request_needs_nothing() -> None:
    assert Request() == Request()
    assert Request().budget.max_accuracy_drop == 0.01
