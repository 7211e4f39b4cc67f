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
precisions = ["fp32", "int8"]
[channel_multiples]
fp32 = 8
int8 = 32
[int8]
activation = "int8"
[power]
sensor = "ina3221"
rails = ["VDD_IN", "VDD_CPU"]
total = ["VDD_IN"]
"""


@pytest.mark.parametrize("name", board.names())
def test_every_board_that_ships_loads(name: str) -> None:
    found = board.load(name)
    assert found.name == name and found.description
    assert set(found.channel_multiples) == set(found.precisions)
    assert "fp32" in found.precisions and set(found.tera_ops) in (set(), set(found.precisions))


@pytest.mark.parametrize("name", [n for n in board.names() if n.startswith("jetson")])
def test_what_all_jetsons_have(name: str) -> None:
    found = board.load(name)
    assert found.backend == "tensorrt" and found.version and len(found.compute_capabilities) == 1
    assert found.power.sensor == "ina3221" and found.power.total and found.power.modes
    assert found.memory_gib and found.bandwidth_gb_s and found.tera_ops
    capability = float(found.compute_capabilities[0])
    assert ("int8" in found.precisions) == (capability >= 7.0)
    assert ("bf16" in found.precisions) == (capability >= 8.0)
    assert found.opset <= {"8.2.1": 13, "8.5.2": 17, "10.3.0": 20}[found.version]
    if found.int8:
        assert (found.int8.activation, found.int8.bias) == ("int8", "float")


def test_all_the_boards_that_were_promised_are_there() -> None:
    assert set(board.names()) == {
        "host-cpu", "jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-xavier", "jetson-orin-nano",
        "jetson-orin-nx", "jetson-orin", "raspberry-pi-4", "raspberry-pi-5", "nvidia-gpu", "rtx",
    }  # fmt: skip


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
        ('["fp32"', '["fp8"', "precisions.0: Input should be 'fp32', 'fp16', 'bf16' or 'int8'"),
        (', "int8"]', "]", "int8 among the precisions and a table [int8] go together"),
        ('"fp32", ', "", "channel_multiples names fp32, which is not among the precisions"),
        ("[int8]", "[tera_ops]\nfp16 = 1\n[int8]", "tera_ops names fp16, which is not among the precisions"),
        ('total = ["VDD_IN"]', 'total = ["VIN"]', "power: total names 'VIN', which is not among the rails"),
        ('backend = "onnxruntime"', 'backend = "tensorrt"',
         "a TensorRT board says in typing whether its graphs are weakly or strongly typed"),
        ("opset = 18", 'opset = 18\ncompute_capabilities = ["sm_72"]',
         "compute_capabilities.0: String should match pattern '^\\d+\\.\\d$'"),
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


def test_another_of_a_boards_runtimes_can_decide() -> None:
    here = board.load("host-cpu").model_copy(update={"runtimes": ("openvino",)})
    assert here.run_by("openvino").backend == "openvino" and here.run_by("onnxruntime") == here
    with pytest.raises(BadOption, match="host-cpu has no runtime 'openvine'; did you mean 'openvino'"):
        here.run_by("openvine")
    with pytest.raises(BadOption, match="jetson-xavier has no runtime 'openvino'; known: tensorrt"):
        board.load("jetson-xavier").run_by("openvino")
