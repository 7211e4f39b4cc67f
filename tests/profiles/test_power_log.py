"""The CSV of an external meter: what is read of it, exactly what is wrong with it, and power laid over windows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import BadData, BadInput, Lacking
from edgeprune.profiles.energy import Energy, Protocol, integrate, loop, measure
from edgeprune.profiles.log_meter import LogMeter, PowerLog
from edgeprune.profiles.power_log import between, parse_power_log, written

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
QUICK = Protocol(seconds=1.0, runs=10, warmup=0.1, windows=3, most=6, spread=0.05)
times = st.floats(0, 4e9)
powers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(times, powers), min_size=1, max_size=20), st.sampled_from(["power_w", "power_mw"]))
def test_what_is_written_is_read(rows: list[tuple[float, float]], column: str) -> None:
    rows.sort()
    text = f"time,{column}\n" + "".join(f"{moment!r},{power!r}\n" for moment, power in rows)
    scale = 1e3 if column == "power_w" else 1.0
    assert parse_power_log(text.encode(), "m") == [(moment, {"meter": power * scale}) for moment, power in rows]


@given(st.lists(st.tuples(times, st.floats(0, 60), st.floats(-5, 5)), min_size=1, max_size=9))
def test_voltage_times_current_is_power(rows: list[tuple[float, float, float]]) -> None:
    rows.sort()
    text = "current_a, Voltage_V ,note,time\r\n" + "".join(f"{a!r},{v!r},x,{t!r}\r\n" for t, v, a in rows)
    assert [told["meter"] for _, told in parse_power_log(text.encode(), "m")] == pytest.approx(
        [1e3 * v * a for _, v, a in rows]
    )


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), st.integers(-12, 14))
def test_iso_times_have_a_zone(moment: datetime, hours: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    [(told, _)] = parse_power_log(f"time,power_w\n{zoned.isoformat()},1\n".encode(), "m")
    assert told == pytest.approx(zoned.timestamp(), abs=1e-5)


@given(st.lists(st.tuples(times, powers), min_size=1, max_size=9), st.integers(0, 10_000))
def test_cut_off_anywhere_it_is_still_a_log(rows: list[tuple[float, float]], cut: int) -> None:
    rows.sort()
    content = ("time,power_mw\n" + "".join(f"{t!r},{p!r}\n" for t, p in rows)).encode()
    part = content[: cut % (len(content) + 1)]
    found = parse_power_log(part, "m")
    assert found == parse_power_log(content, "m")[: max(part.count(b"\n") - 1, 0)]


@given(st.binary(max_size=60) | st.text("time,power_w\n0123.-+e\"'Z:T", max_size=60).map(str.encode))
def test_nothing_but_a_log_or_an_answer_comes_of_any_file(content: bytes) -> None:
    try:
        found = parse_power_log(content, "m")
    except BadData as error:
        assert str(error).startswith("m:")
        return
    assert all(math.isfinite(moment) and written(moment) for moment, _ in found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1,2\n3,4\n", "m.csv:1: a header is wanted, and this line holds numbers; name the columns, such as "
         "time,power_w"),
        ("seconds,power_w\n", "m.csv:1: there is no column time (Unix seconds, or ISO 8601 with its zone) among "
         "seconds, power_w"),
        ("time,power_kw\n1,2\n", "m.csv:1: no column tells power in a unit that is known; give one of power_w, "
         "power_mw, or voltage_v with current_a, not time, power_kw"),
        ("time,voltage_v\n1,2\n", "m.csv:1: no column tells power in a unit that is known; give one of power_w, "
         "power_mw, or voltage_v with current_a, not time, voltage_v"),
        ("time,power_w,power_mw\n", "m.csv:1: power is told more than once, by power_w and by power_mw; give one of "
         "power_w, power_mw, or voltage_v with current_a"),
        ("time,power_w,time\n", "m.csv:1: the column time is there more than once"),
        ("time,power_w\n1,2\n\n2,x\n", "m.csv:4: power_w is 'x', not a number"),
        ("time,power_w\n1,nan\n", "m.csv:2: power_w is 'nan', not a number"),
        ("time,power_w\n1,\n", "m.csv:2: power_w is '', not a number"),
        ("time,power_w\n1,2,3\n", "m.csv:2: 3 fields, and the header has 2"),
        ("time,power_w\n2,2\n1.5,2\n", "m.csv:3: time goes back by 0.5 s"),
        ("time,power_w\nnoon,2\n", "m.csv:2: time is 'noon', neither Unix seconds nor ISO 8601"),
        ("time,power_w\n2026-11-27T12:00:00,2\n", "m.csv:2: time '2026-11-27T12:00:00' has no zone; write it with Z or "
         "+01:00, or in Unix seconds"),
        ("time,power_w\n1795800000000,2\n", "m.csv:2: time 1795800000000 is not in Unix seconds; is it in "
         "milliseconds?"),
        ('time,power_w\n1,"2"3\n', "m.csv:2: ',' expected after '\"'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(BadData) as caught:
        parse_power_log(text.encode(), "m.csv")
    assert str(caught.value) == sentence


def test_another_encoding_is_told() -> None:
    with pytest.raises(BadData, match=r"^m.csv:1: this is not UTF-8 text; give the CSV that the meter writes$"):
        parse_power_log("time,power_w\n1,2\n".encode("utf-16"), "m.csv")


@given(st.lists(st.floats(0, 1e4), min_size=3, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_two_parts_of_a_log_add_up(values: list[float], one: float, other: float) -> None:
    samples = [(NOON + i / 10, {"meter": value}) for i, value in enumerate(values)]
    start, end = NOON, samples[-1][0]
    cuts = sorted(start + share * (end - start) for share in (one, other))
    spans = [(start, cuts[0]), (cuts[0], cuts[1]), (cuts[1], end)]
    parts = [integrate(between(samples, *span), "power")["meter"] for span in spans]
    assert math.fsum(parts) == pytest.approx(integrate(samples, "power")["meter"], abs=1e-2)


def test_what_is_not_covered_is_not_made_up() -> None:
    samples = [(1.0, {"meter": 1.0}), (2.0, {"meter": 1.0})]
    for start, end in ((0.9, 1.5), (1.5, 2.1)):
        with pytest.raises(ValueError, match="do not cover"):
            between(samples, start, end)


class Bench:
    """A clock, work of 8 W beside 3 W of rest, and a meter of 20 rows a second, ``late`` or by another clock."""

    def __init__(self, path: Path, off: float = 0.0, late: float = 0.0, rows: float = 20.0) -> None:
        self.path, self.off, self.late, self.rows = path, off, late, rows
        self.now, self.notes, self.lines = NOON, list[str](), list[tuple[float, float]]()
        self.log = PowerLog(path, self.notes.append, 60.0, lambda: self.now, self.sleep)
        self.path.write_text("time,power_w\n")
        self.sleep(0.5)

    def pass_by(self, seconds: float, watts: float) -> None:
        end = self.now + seconds
        while True:
            moment = self.lines[-1][0] + 1 / self.rows if self.lines else self.now
            if moment > end:
                break
            self.lines.append((moment, watts))
        self.now = end
        self.write([line for line in self.lines if line[0] <= self.now - self.late])

    def write(self, lines: list[tuple[float, float]]) -> None:
        self.path.write_text("time,power_w\n" + "".join(f"{t + self.off:.4f},{w}\n" for t, w in lines) + "1795")
        os.utime(self.path, (self.now, self.now))

    def sleep(self, seconds: float) -> None:
        self.pass_by(seconds, 3.0)

    def work(self) -> None:
        self.pass_by(1 / 64, 8.0)

    def measure(self) -> Energy:
        def rest() -> float:
            self.sleep(QUICK.seconds)
            return 0.0

        return measure(loop(self.work, QUICK, lambda: self.now), rest, LogMeter(self.log), QUICK)


def test_a_log_that_is_written_while_we_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "m.csv", late=0.7)
    found = bench.measure()
    assert found.sensor == "csv" and found.source == "measured" and found.method == "sensor"
    assert found.windows == 3 and found.runs == 192
    assert found.total_mj == pytest.approx(125.0, rel=0.01) and found.net_mj == pytest.approx(78.1, rel=0.03)
    assert found.power_mw == pytest.approx(8000.0, rel=0.01) and found.idle_mw == pytest.approx(3000.0, rel=0.03)
    assert found.spread == pytest.approx(0.0, abs=0.01) and found.rails == {"meter": pytest.approx(125.0, rel=0.01)}
    assert bench.notes == [], "what comes within a second is not asked for"


def test_a_meter_that_exports_afterwards_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "m.csv", late=30.0)
    bench.path.unlink()
    write: Callable[..., None] = bench.write
    bench.write = lambda lines: write(bench.lines) if bench.notes else None  # type: ignore[method-assign]
    assert bench.measure().total_mj == pytest.approx(125.0, rel=0.01)
    [note] = bench.notes
    assert note == (
        f"waiting up to 60 s for {bench.path} to hold 2026-11-27T12:00:00.609Z to 2026-11-27T12:00:04.609Z; it is not "
        f"there yet: if the meter exports by hand, export now"
    )


@pytest.mark.parametrize(("off", "told"), [(-3600.0, "3600 s before"), (3600.0, "3600 s after")])
def test_a_clock_that_is_off_is_told(tmp_path: Path, off: float, told: str) -> None:
    bench = Bench(tmp_path / "m.csv", off=off)
    with pytest.raises(Lacking) as caught:
        bench.measure()
    text = str(caught.value)
    hour = "11" if off < 0 else "13"
    assert text.startswith(f"--power-log {bench.path} holds 2026-11-27T{hour}:00:00.000Z to 2026-11-27T{hour}:0")
    assert "2026-11-27T12:00:00.609Z to 2026-11-27T12:00:04.609Z is wanted" in text
    assert f"its last row is {told} the moment the file was written, so the meter's clock may be off" in text


def test_a_log_that_never_comes(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "m.csv")
    bench.path.unlink()
    bench.write = lambda lines: None  # type: ignore[method-assign]
    sentence = r"m\.csv is not there yet, and .* is wanted, which did not come within 60 s; let the meter run from "
    with pytest.raises(Lacking, match=sentence):
        bench.measure()
    assert bench.now < NOON + 70


def test_a_meter_that_was_started_late(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "m.csv")
    write = bench.write
    bench.write = lambda lines: write([one for one in lines if one[0] > NOON + 1.2])  # type: ignore[method-assign]
    with pytest.raises(Lacking, match=r"holds 2026-11-27T12:00:01.* is wanted; let the meter run from before"):
        bench.measure()


def test_too_few_rows_tell_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "m.csv", rows=1.0)
    with pytest.raises(Lacking, match=r"holds 1 rows from .* with a gap of .* s; power cannot be told from that"):
        bench.measure()


def test_a_meter_the_wrong_way_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "m.csv")
    write = bench.write
    bench.write = lambda lines: write([(t, -w) for t, w in lines])  # type: ignore[method-assign]
    with pytest.raises(BadData, match=r"is -8e\+03 mW; is the meter the wrong way round\?"):
        bench.measure()


def test_a_file_that_cannot_become_a_log_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^--power-log .*/none/m\.csv: there is no folder .*/none$"):
        PowerLog(tmp_path / "none" / "m.csv").check()
    PowerLog(tmp_path / "later.csv").check()
    (tmp_path / "bad.csv").write_text("1,2\n")
    with pytest.raises(BadData, match=r"bad\.csv:1: a header is wanted"):
        PowerLog(tmp_path / "bad.csv").check()
    with pytest.raises(BadData, match=r"cannot be read: Is a directory"):
        PowerLog(tmp_path).check()
