"""Roofline: the bound that binds, padding, and what cannot be told."""

from dataclasses import replace

import pytest

from edgeprune.profiles import board as boards
from edgeprune.profiles.roofline import EFFICIENCY, Kernel, estimate_ms, kernel_ms

XAVIER = boards.load("jetson-xavier").model_copy(update={"launch_us": 0.0})
BIG = Kernel("conv", "Conv", "fp32", 10, 10, 10, macs=1e9, outputs=64, inputs=64)


def test_arithmetic_binds_a_layer_that_moves_little() -> None:
    assert kernel_ms(BIG, XAVIER) == pytest.approx(2e9 / (1.4e12 * EFFICIENCY) * 1e3)


def test_traffic_binds_a_layer_that_computes_little() -> None:
    moving = replace(BIG, macs=1.0, read=10**8, written=10**8)
    assert kernel_ms(moving, XAVIER) == pytest.approx(4 * (2 * 10**8 + 10) / (137e9 * EFFICIENCY) * 1e3)
    assert kernel_ms(replace(moving, precision="int8"), XAVIER) == pytest.approx(kernel_ms(moving, XAVIER) / 4)


def test_channels_off_the_multiple_cost_as_much_as_the_next_one() -> None:
    int8 = replace(BIG, precision="int8")
    narrow = replace(int8, outputs=33, macs=1e9 * 33 / 64)
    assert kernel_ms(narrow, XAVIER) == pytest.approx(kernel_ms(int8, XAVIER))
    assert kernel_ms(replace(narrow, outputs=32, macs=0.5e9), XAVIER) == pytest.approx(0.5 * kernel_ms(int8, XAVIER))
    depthwise = replace(int8, inputs=1, conv_groups=64)
    assert kernel_ms(depthwise, XAVIER) == pytest.approx(kernel_ms(int8, XAVIER)), "its one input is not padded"


def test_every_kernel_is_started() -> None:
    board = boards.load("jetson-xavier")
    assert kernel_ms(replace(BIG, macs=0.0, read=0, written=0, weights=0), board) == pytest.approx(
        board.launch_us / 1e3
    )
    assert estimate_ms([BIG, BIG], board) == pytest.approx(2 * kernel_ms(BIG, board))


def test_what_a_board_does_not_tell_is_not_guessed() -> None:
    assert kernel_ms(BIG, boards.load("nvidia-gpu")) is None
    assert estimate_ms([BIG, replace(BIG, precision="bf16")], XAVIER) is None
