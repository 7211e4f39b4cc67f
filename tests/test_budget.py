from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget import UNITS, Budget, Check, Limit, calls, exit_code, holds_floor, largest, verdict
from edgeprune.errors import BadOption


@pytest.mark.parametrize(
    ("quantity", "text", "value", "relative"),
    [
        ("latency", "12ms", 12.0, False),
        ("latency", "1.5s", 1500.0, False),
        ("latency", "250us", 0.25, False),
        ("latency", "0.5x", 0.5, True),
        ("size", "4MB", 4e6, False),
        ("size", "4 MiB", 4 * 2**20, False),
        ("size", "900B", 900.0, False),
        ("macs", "30M", 30e6, False),
        ("macs", "1e-1G", 1e8, False),
        ("macs", ".25x", 0.25, True),
        ("parameters", "2M", 2e6, False),
        ("parameters", "1x", 1.0, True),
    ],
)
def test_limits_are_read(quantity: str, text: str, value: float, relative: bool) -> None:
    limit = Limit.parse(quantity, text)
    assert limit.value == pytest.approx(value)
    assert limit.relative is relative


@pytest.mark.parametrize("text", ["", "12", "ms", "-3ms", "12mb", "nan", "inf", "1e", "0.5 xx", "12ms4"])
def test_other_limits_are_refused_with_the_units(text: str) -> None:
    with pytest.raises(BadOption) as caught:
        Limit.parse("latency", text)
    assert "0.5x" in str(caught.value)
    assert "us, ms, s" in str(caught.value)
    assert str(caught.value).startswith(f"--max-latency {text!r} is not understood")


@pytest.mark.parametrize("text", ["0ms", "0x", "1e999ms"])
def test_a_limit_is_above_zero_and_finite(text: str) -> None:
    with pytest.raises(BadOption, match=f"^--max-latency must be above zero, not {text!r}$"):
        Limit.parse("latency", text)


@given(st.sampled_from(sorted(UNITS)), st.text(max_size=12))
def test_any_text_is_a_limit_or_a_bad_option(quantity: str, text: str) -> None:
    try:
        limit = Limit.parse(quantity, text)
    except BadOption:
        return
    assert 0 < limit.value < math.inf


def test_relative_limits_resolve_against_the_original() -> None:
    assert Limit(0.5, relative=True).resolve(8.0) == 4.0
    assert Limit(0.5).resolve(8.0) == 0.5


@pytest.mark.parametrize("drop", [-0.01, 1.0, math.nan])
def test_a_floor_is_a_fraction(drop: float) -> None:
    with pytest.raises(BadOption, match=r"--max-accuracy-drop is a fraction in \[0, 1\)"):
        Budget(drop)


def test_only_the_ceilings_asked_for_are_listed() -> None:
    assert Budget().ceilings() == {}
    size, macs = Limit(4e6), Limit(0.5, True)
    assert Budget(max_size=size, max_macs=macs).ceilings() == {"size": size, "macs": macs}


def check(found: float | None, basis: str = "measured") -> Check:
    return Check("latency", 1.0, found, basis)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("checks", "required", "word"),
    [
        ([check(1.0)], False, "met"),
        ([check(1.01)], False, "not-met"),
        ([check(0.5), check(2.0)], False, "not-met"),
        ([], False, "unchecked"),
        ([check(None)], False, "unchecked"),
        ([check(None)], True, "not-met"),
        ([check(0.5, "estimated")], False, "met"),
        ([check(0.5, "estimated")], True, "not-met"),
        ([check(0.5, "exact")], True, "met"),
        ([check(0.5), check(None)], False, "unchecked"),
        ([check(2.0), check(None)], False, "not-met"),
        ([check(0.5), Check("energy", None, 0.5, "unchecked")], False, "unchecked"),
        ([check(0.5), Check("accuracy-drop", 0.01, None, "unchecked")], False, "met"),
        ([check(0.5), Check("accuracy-drop", 0.01, None, "unchecked")], True, "not-met"),
    ],
)
def test_verdicts(checks: list[Check], required: bool, word: str) -> None:
    assert verdict(checks, required) == word


def test_exit_codes() -> None:
    assert [exit_code(word) for word in ("met", "unchecked", "not-met", "infeasible")] == [0, 0, 3, 3]


def test_the_floor_counts_the_standard_error() -> None:
    assert holds_floor(0.008, 0.002, 0.01)
    assert not holds_floor(0.009, 0.002, 0.01)
    assert holds_floor(0.9, 0.1, None)


@given(st.integers(0, 200), st.data())
def test_bisection_finds_the_end_and_asks_little(top: int, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, top))
    first = data.draw(st.none() | st.integers(-3, top + 3)) if top else None
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k <= end

    stride = data.draw(st.none() | st.integers(1, 9))
    assert largest(top, holds, first, stride) == end
    assert len(set(asked)) == len(asked)
    assert all(1 <= k <= top for k in asked)
    most = calls(top, first) if stride is None else 2 * math.ceil(math.log2(max(top, 1))) + 4
    assert len(asked) <= most


@given(st.integers(1, 60), st.none() | st.integers(1, 60))
def test_the_number_of_calls_is_the_least_that_is_sure(top: int, first: int | None) -> None:
    def asked(end: int) -> int:
        found: list[int] = []
        largest(top, lambda k: found.append(k) or k <= end, first)  # type: ignore[func-returns-value]
        return len(found)

    assert calls(top, first) == max(asked(end) for end in range(top + 1))


@pytest.mark.parametrize(
    ("first", "stride", "end", "asked"),
    [
        (1, 1, 2, [1, 2, 4, 3]), (1, 1, 1, [1, 2]), (5, 1, 5, [5, 6]), (5, 1, 4, [5, 4]),
        (15, 1, 12, [15, 14, 12, 13]), (4, 2, 7, [4, 6, 10, 8, 7]), (None, None, 2, [8, 4, 2, 3]),
        (4, None, 2, [4, 2, 3]),
    ],
)  # fmt: skip
def test_a_good_guess_is_left_in_small_steps(first: int | None, stride: int | None, end: int, asked: list[int]) -> None:
    """A cut far beyond the guess costs as much to try as one beside it, and tells less."""
    found: list[int] = []

    def holds(k: int) -> bool:
        found.append(k)
        return k <= end

    assert largest(16, holds, first, stride) == end
    assert found == asked


@given(st.integers(1, 60), st.sets(st.integers(1, 60)))
def test_bisection_rolls_back_to_a_point_that_held_whatever_the_order(top: int, good: set[int]) -> None:
    found = largest(top, good.__contains__)
    assert found == 0 or found in good
