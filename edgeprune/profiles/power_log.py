"""The CSV file that an external meter writes while edgeprune works: read, checked, and laid over windows of work.

    time,power_w                                time,voltage_v,current_a
    1795800000.25,3.02                          2026-11-27T12:00:00.25Z,5.02,0.61
"""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgeprune.errors import BadData
from edgeprune.profiles.energy import Sample

RAIL = "meter"
_POWER: Mapping[tuple[str, ...], Callable[[Sequence[float]], float]] = {
    ("power_w",): lambda values: values[0] * 1e3,
    ("power_mw",): lambda values: values[0],
    ("voltage_v", "current_a"): lambda values: values[0] * values[1] * 1e3,
}
"""Columns that tell power, and the milliwatts that they make."""
_LATEST = 1e11
_WANTED = "give one of power_w, power_mw, or voltage_v with current_a"


def parse_power_log(content: bytes, name: str) -> list[Sample]:
    """Return (Unix seconds, milliwatts of the one rail ``meter``) of every row; empty where there is none yet.

    The first line names the columns: ``time``, in Unix seconds or ISO 8601 with its zone, and ``power_w``,
    ``power_mw``, or ``voltage_v`` with ``current_a``; others are passed over. A last line without its end is left out,
    as its writer may be in the midst of it. Raises BadData, with ``name`` and the line, for anything else.
    """
    whole = content[: content.rfind(b"\n") + 1]
    try:
        reader = csv.reader(io.StringIO(whole.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except UnicodeDecodeError as error:
        line = whole[: error.start].count(b"\n") + 1
        raise BadData(f"{name}:{line}: this is not UTF-8 text; give the CSV that the meter writes") from None
    except csv.Error as error:
        raise BadData(f"{name}:{reader.line_num}: {error}") from None
    if not rows:
        return []
    (line, header), *rows = rows
    time_at, power_at, power = _columns([one.strip().lower() for one in header], f"{name}:{line}")
    samples: list[Sample] = []
    for line, row in rows:
        where = f"{name}:{line}"
        if len(row) != len(header):
            raise BadData(f"{where}: {len(row)} fields, and the header has {len(header)}")
        now = _time(row[time_at].strip(), where)
        if samples and now < samples[-1][0]:
            raise BadData(f"{where}: time goes back by {samples[-1][0] - now:.6g} s")
        samples.append((now, {RAIL: power([_number(row[at].strip(), header[at], where) for at in power_at])}))
    return samples


def between(samples: Sequence[Sample], start: float, end: float) -> list[Sample]:
    """Return the samples from ``start`` to ``end``, at both of which power is that on the line between its neighbours.

    Raises ValueError where they do not reach from before the one to after the other.
    """
    if not samples or samples[0][0] > start or samples[-1][0] < end:
        raise ValueError("the samples do not cover the time")
    inside = [one for one in samples if start < one[0] < end]
    return [(start, _at(samples, start)), *inside, (end, _at(samples, end))]


def written(moment: float) -> str:
    """Write a time in Unix seconds as ISO 8601, in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_power_log(path: Path) -> list[Sample]:
    """Read a file; empty where there is none yet. Raises BadData for one that is not what it should be."""
    try:
        return parse_power_log(path.read_bytes(), str(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from error


def _columns(header: Sequence[str], where: str) -> tuple[int, list[int], Callable[[Sequence[float]], float]]:
    """Return where the time is, where power is, and what makes milliwatts of the latter."""
    told = ", ".join(header)
    if any(_is_number(one) for one in header):
        raise BadData(f"{where}: a header is wanted, and this line holds numbers; name the columns, such as "
                      "time,power_w")  # fmt: skip
    for name in header:
        if name and header.count(name) > 1:
            raise BadData(f"{where}: the column {name} is there more than once")
    if "time" not in header:
        raise BadData(f"{where}: there is no column time (Unix seconds, or ISO 8601 with its zone) among {told}")
    found = [names for names in _POWER if all(name in header for name in names)]
    if not found:
        raise BadData(f"{where}: no column tells power in a unit that is known; {_WANTED}, not {told}")
    if len(found) > 1:
        raise BadData(f"{where}: power is told more than once, by {' and by '.join(map('·'.join, found))}; {_WANTED}")
    return header.index("time"), [header.index(name) for name in found[0]], _POWER[found[0]]


def _time(text: str, where: str) -> float:
    if _is_number(text):
        if not 0 <= float(text) < _LATEST:
            raise BadData(f"{where}: time {text} is not in Unix seconds; is it in milliseconds?")
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadData(f"{where}: time is {text!r}, neither Unix seconds nor ISO 8601") from None
    if moment.tzinfo is None:
        raise BadData(f"{where}: time {text!r} has no zone; write it with Z or +01:00, or in Unix seconds")
    return moment.timestamp()


def _number(text: str, column: str, where: str) -> float:
    if not _is_number(text):
        raise BadData(f"{where}: {column.strip()} is {text!r}, not a number")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _at(samples: Sequence[Sample], moment: float) -> Mapping[str, float]:
    """Return the reading at a moment between the first and the last sample."""
    after = bisect_left(samples, moment, key=lambda one: one[0])
    (late, second), (early, first) = samples[after], samples[max(after - 1, 0)]
    share = (moment - early) / (late - early) if late > early else 1.0
    return {rail: first[rail] + share * (second[rail] - first[rail]) for rail in first}
