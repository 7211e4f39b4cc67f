"""What `edgeprune inspect` says of a target."""

import pytest

from edgeprune.compiler.board_facts import BoardFacts, facts_of
from edgeprune.profiles import board as boards


@pytest.mark.parametrize("name", boards.names())
def test_every_board_has_a_runtime_precisions_power_and_a_dialect(name: str) -> None:
    found = facts_of(name)
    told = dict(found.lines())
    assert told["target"].startswith(f"{name}: ") and told["precisions"].startswith("fp32")
    assert found.board.backend in told["runtime"] and "opset up to" in told["dialect"] and told["power"]
    assert next(iter(found.versions)) == found.board.backend
    assert found.to_json()["versions"] == dict(found.versions)


def test_a_version_is_of_what_is_installed_or_of_the_boards_file() -> None:
    here, there = boards.load("host-cpu"), boards.load("jetson-xavier")
    assert dict(BoardFacts(here, {"onnxruntime": "1.2", "openvino": None}).lines())["runtime"] == (
        "onnxruntime 1.2, openvino (not installed)"
    )
    assert dict(BoardFacts(there, {"tensorrt": "8.5.2"}).lines())["runtime"] == "tensorrt 8.5.2 there"
    assert dict(facts_of("raspberry-pi-4").lines())["runtime"] == "onnxruntime", "no version is known"


def test_rails_modes_and_peaks_are_told() -> None:
    told = dict(facts_of("jetson-xavier").lines())
    assert "the whole is GPU + CPU + SOC + CV + VDDRQ + SYS5V; modes MAXN, " in told["power"]
    assert told["peaks"] == "1.4 TOPS in fp32, 11.3 TOPS in fp16, 22.6 TOPS in int8"
    assert told["channels"].endswith("multiples of 32 for int8") and told["memory"] == "32 GiB, 137 GB/s"
    assert told["dialect"].endswith("typing weak, int8 activations and int8 weights by channel, float bias")
    modes = dict(facts_of("raspberry-pi-4").lines())["power"]
    assert modes == "no sensor: an external meter is wanted; modes performance, ondemand, powersave"


def test_saturating_int8_is_told() -> None:
    board = boards.load("host-cpu")
    assert board.int8 is not None
    careful = board.model_copy(update={"int8": board.int8.model_copy(update={"reduce_range": True})})
    assert "uint8 activations and 7-bit int8 weights" in dict(BoardFacts(careful, {}).lines())["dialect"]
