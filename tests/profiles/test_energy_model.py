"""Energy from the graph alone: both formulas, by hand."""

import pytest

from edgeprune.profiles.energy_model import FORMULAS, kernel_mj, run_mj
from edgeprune.profiles.roofline import Kernel

CONV = Kernel("a", "Conv", "fp32", read=1000, written=2000, weights=500, macs=1e6, outputs=16, inputs=8)
MOVE = Kernel("b", "Concat", "fp32", read=3000, written=3000)


def test_a_mac_is_a_multiplication_and_an_addition_and_all_that_moves_is_paid_by_the_word() -> None:
    assert kernel_mj(CONV, "theoretical") == pytest.approx((1e6 * 4.6 + 3500 * 640) * 1e-9)
    assert kernel_mj(MOVE, "theoretical") == pytest.approx(6000 * 640e-9)


def test_in_int8_a_word_holds_four_values() -> None:
    narrow = Kernel(**{**vars(CONV), "precision": "int8"})
    assert kernel_mj(narrow, "theoretical") == pytest.approx((1e6 * 0.3 + 3500 / 4 * 640) * 1e-9)


def test_as_published_words_cost_four_times_as_much_and_activations_nothing() -> None:
    assert kernel_mj(CONV, "theoretical-published") == pytest.approx((1e6 * 2.3 + 500 * 4 * 640) * 1e-9)
    assert kernel_mj(MOVE, "theoretical-published") == 0.0


def test_the_published_figure_of_resnet_18_on_cifar_10_comes_out() -> None:
    """The thesis prints 0.033 J for 0.56 G MACs and 11.2 M parameters."""
    whole = Kernel("all", "Conv", "fp32", 0, 0, weights=11_170_000, macs=0.56e9)
    assert kernel_mj(whole, "theoretical-published") / 1e3 == pytest.approx(0.030, abs=0.001)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_run_is_the_sum_of_its_kernels(formula: str) -> None:
    assert run_mj([CONV, MOVE, CONV], formula) == pytest.approx(  # type: ignore[arg-type]
        2 * kernel_mj(CONV, formula) + kernel_mj(MOVE, formula)  # type: ignore[arg-type]
    )
