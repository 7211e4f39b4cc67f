"""Boards: every one that ships loads, and a user's own file is answered in one sentence."""

from pathlib import Path

import pytest

from edgeprune.errors import BadOption
from edgeprune.profiles import board

GOOD = """
name = "mine"
description = "a board of my own"
backend = "onnxruntime"
opset = 18
ir_version = 10
precisions = ["fp32"]
[channel_multiples]
fp32 = 8
int8 = 32
"""


@pytest.mark.parametrize("name", board.names())
def test_every_board_that_ships_loads(name: str) -> None:
    found = board.load(name)
    assert found.name == name and found.description
    assert set(found.channel_multiples) <= set(found.precisions)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    found = board.load(str(path))
    assert found.widest_multiple == 32
    assert not found.detected


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("fp32 = 8", "fp32 = 0", "channel_multiples.fp32: Input should be greater than 0"),
        ("opset = 18", "opset = 9", "opset: Input should be greater than or equal to 13"),
        ('["fp32"]', '["fp8"]', "precisions.0: Input should be 'fp32', 'fp16' or 'int8'"),
        ("opset", "op_set", "opset: Field required"),
        ("opset = 18", "opset = 18\ncolour = 1", "colour: Extra inputs are not permitted"),
        ("opset = 18", "opset = 18\ndetected = {}", "'detected' is found out by edgeprune and cannot be set"),
    ],
)
def test_what_a_board_cannot_say(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadOption) as caught:
        board.load(str(path))
    assert str(caught.value) == f"{path}: {sentence}"


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff = 1")
    with pytest.raises(BadOption, match="is not valid TOML"):
        board.load(str(path))


def test_unknown_boards_are_answered_with_the_nearest() -> None:
    with pytest.raises(BadOption, match="unknown target 'host-cpus'; did you mean 'host-cpu'"):
        board.load("host-cpus")
    with pytest.raises(BadOption, match=r"unknown target 'gone\.toml'; no such file"):
        board.load("gone.toml")
