"""The comparison's numbers, against closed forms and scipy's own tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edgeprune.compiler.statistics import (
    Difference,
    anova,
    corrected,
    curve,
    difference,
    improvements,
    line,
    power_law,
    summary,
    to_best,
)

ONE, OTHER = [0.61, 0.64, 0.60, 0.66, 0.63], [0.58, 0.60, 0.59, 0.61, 0.57]


def test_a_mean_has_the_t_interval_of_the_textbook() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0])
    assert (found.n, found.mean) == (4, 2.5)
    assert found.sd == pytest.approx(math.sqrt(5 / 3))
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t(0.975, 3)
    assert found.interval == pytest.approx((2.5 - half, 2.5 + half), rel=1e-6)


def test_one_run_has_no_spread_and_equal_runs_have_none_either() -> None:
    assert (summary([0.3]).sd, summary([0.3]).interval) == (None, None)
    same = summary([0.1, 0.1, 0.1])
    assert (same.mean, same.sd, same.interval) == (0.1, 0.0, (0.1, 0.1)), "to the bit"


def test_a_difference_is_the_paired_t_test() -> None:
    found, theirs = difference(ONE, OTHER), stats.ttest_rel(ONE, OTHER)
    assert found.mean == pytest.approx(0.038)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.p != pytest.approx(stats.ttest_ind(ONE, OTHER).pvalue), "paired"
    assert difference(OTHER, ONE).mean == pytest.approx(-found.mean)


def test_runs_that_cannot_be_paired_are_refused() -> None:
    for one, other in (([0.1], [0.1, 0.2]), ([], [])):
        with pytest.raises(ValueError, match="cannot be paired"):
            difference(one, other)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (ONE, OTHER, "significantly higher"),
        (OTHER, ONE, "significantly lower"),
        ([0.61, 0.58, 0.60], [0.60, 0.60, 0.59], "no significant difference"),
        ([0.6], [0.5], "one seed: no interval, so nothing can be said about chance"),
        ([0.5, 0.5], [0.5, 0.5], "the same at every seed"),
        ([0.75, 0.75], [0.5, 0.5], "differs by the same at every seed: no test"),
        ([0.71, 0.82, 0.93], [0.70, 0.81, 0.92], "differs by the same at every seed: no test"),  # but for rounding
    ],
)
def test_a_verdict_says_no_more_than_the_interval_allows(one: list[float], other: list[float], verdict: str) -> None:
    assert difference(one, other).verdict == verdict


def test_an_interval_that_holds_nought_is_never_significant_and_correction_can_take_it_back() -> None:
    assert Difference(5, 0.01, (-0.001, 0.021), p=0.01).verdict == "no significant difference"
    asked = Difference(5, 0.01, (0.001, 0.019), p=0.04)
    assert asked.verdict == "significantly higher"
    both = corrected({"a": asked, "b": Difference(5, 0.01, (-0.01, 0.03), p=0.3)})
    assert both["a"].holm == pytest.approx(0.08)
    assert both["a"].verdict == "no significant difference once corrected for the number of comparisons"


def test_holm_steps_down_and_never_falls() -> None:
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}  # the example of the literature: 0.03, 0.06, 0.06, 0.02
    found = corrected({name: Difference(5, 1.0, (0.5, 1.5), value) for name, value in p.items()})
    assert {name: round(float(one.holm or 0), 10) for name, one in found.items()} == {
        "a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02,
    }  # fmt: skip
    untested = corrected({"a": Difference(2, 0.0), "b": Difference(5, 1.0, (0.5, 1.5), 0.02)})
    assert (untested["a"].holm, untested["b"].holm) == (None, 0.02), "what was not tested does not count"


def test_the_analysis_of_variance_is_scipy_s() -> None:
    groups = [ONE, OTHER, [0.55, 0.63, 0.60, 0.58, 0.62]]
    found, theirs = anova(groups), stats.f_oneway(*groups)
    assert found is not None
    assert (found.groups, found.n) == (3, 15)
    assert (found.f, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    # F = (η² / (k - 1)) / ((1 - η²) / (n - k))
    assert found.f == pytest.approx(found.eta_squared / 2 / ((1 - found.eta_squared) / 12))


def test_without_spread_within_or_without_groups_there_is_no_analysis() -> None:
    assert anova([[0.5, 0.5], [0.6, 0.6]]) is None
    assert anova([[0.5, 0.6]]) is None
    assert anova([[0.5], [0.6], [0.7, 0.8]]) is None


def test_a_line_is_found_again_with_its_interval() -> None:
    x = [0.1, 0.3, 0.5, 0.7]
    y = [0.9, 0.82, 0.68, 0.61]
    found, theirs = line(x, y), stats.linregress(x, y)
    assert found is not None and found.interval is not None
    assert (found.slope, found.intercept, found.p) == pytest.approx((theirs.slope, theirs.intercept, theirs.pvalue))
    half = 4.302653 * theirs.stderr  # t(0.975, 2)
    assert found.interval == pytest.approx((theirs.slope - half, theirs.slope + half), rel=1e-6)
    exact = line([1.0, 2.0], [3.0, 5.0])
    assert exact is not None and (exact.slope, exact.intercept, exact.p, exact.interval) == (2.0, 1.0, None, None)
    assert line([0.5, 0.5], [0.1, 0.9]) is None
    assert line([0.1, 0.2, 0.4], [0.9, 0.9, 0.9]) is None, "nothing of it would be finite"


def test_a_power_law_is_found_again() -> None:
    sizes = [1e5, 2e5, 5e5, 1e6]
    found = power_law(sizes, [3e-4 * size**0.7 for size in sizes])
    assert found is not None
    assert (found.a, found.b, found.r_squared) == pytest.approx((3e-4, 0.7, 1.0))
    with pytest.raises(ValueError, match="above zero"):
        power_law([1.0, 0.0], [1.0, 2.0])


def test_only_feasible_plans_improve_a_search_but_all_of_them_count() -> None:
    run = improvements([None, 0.3, 0.9, None, 0.2, 0.9, 0.905])
    assert run == ((2, 0.3), (3, 0.9), (7, 0.905))
    assert to_best(run) == 3, "0.9 is within 1 % of 0.905"
    assert to_best(run, 1.0) == 7
    assert to_best(((1, -0.5), (4, -0.4), (9, -0.399))) == 4, "a score may be negative"


def test_a_curve_holds_the_best_of_a_run_that_has_stopped() -> None:
    points = curve([((2, 0.2), (4, 0.6)), ((1, 0.3), (6, 0.5))], 10)
    assert [(p.evaluations, p.low, p.high) for p in points] == [
        (2, 0.2, 0.3), (4, 0.3, 0.6), (6, 0.5, 0.6), (10, 0.5, 0.6),
    ]  # fmt: skip
    assert [p.mean for p in points] == pytest.approx(np.array([0.25, 0.45, 0.55, 0.55]))
