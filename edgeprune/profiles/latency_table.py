"""What kernels took on a target, by form and width, and what lies between: the cost model of a search by the clock.

A table is one JSON file for one board, runtime, version, processor and number of threads. It is measured by
``benches.tabulate`` and read everywhere. A time is what a kernel adds to a run; a run takes ``run_ms`` besides.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError
from scipy.optimize import isotonic_regression, nnls

from edgeprune.errors import BadInput
from edgeprune.files import write_atomic

FORMAT = 1


class Facts(BaseModel):
    """What a table was measured with. Tables of other facts are never mixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    board: str
    runtime: str
    version: str | None
    processor: str | None
    threads: PositiveInt


class Check(BaseModel):
    """A whole graph that was timed beside the table: what was predicted and what was measured, in milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """By how much the prediction is off, as a share of what was measured."""
        return self.predicted_ms / self.measured_ms - 1.0


class Rows(BaseModel):
    """What was measured of one form: (outputs, inputs, milliseconds). ``scalable`` ones multiply, so cost grows with
    the product of both.
    """

    model_config = ConfigDict(extra="forbid")

    scalable: bool
    points: list[tuple[PositiveInt, PositiveInt, NonNegativeFloat]]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    facts: Facts
    reference_ms: PositiveFloat | None
    reference_own_ms: PositiveFloat | None
    run_ms: NonNegativeFloat
    forms: dict[str, Rows]
    checks: list[Check]


@dataclass
class LatencyTable:
    """Measured times, by form and (outputs, inputs).

    ``reference_ms`` is what the reference graph took when the table was begun, and ``reference_own_ms`` what its
    kernels did: everything later is brought to the pace of that moment.
    """

    facts: Facts
    reference_ms: float | None = None
    reference_own_ms: float | None = None
    run_ms: float = 0.0
    forms: dict[str, Rows] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read a table. Raises BadInput for a file that is none, or of another format."""
        try:
            told = _File.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            raise BadInput(f"{path} is not a latency table ({reason}); give another file to measure one") from error
        if told.format != FORMAT:
            raise BadInput(f"{path} is a latency table of format {told.format}, not {FORMAT}; measure it anew")
        return cls(**{name: getattr(told, name) for name in type(told).model_fields if name != "format"})

    def write(self, path: Path) -> None:
        """Write the table, in one step."""
        told = _File(format=FORMAT, **{**vars(self), "forms": dict(sorted(self.forms.items()))})
        write_atomic(path, json.dumps(told.model_dump(), indent=1) + "\n")

    def digest(self) -> str:
        """Return the sha256 of everything that predictions hang on."""
        forms = sorted((name, rows.model_dump()) for name, rows in self.forms.items())
        told = [FORMAT, self.facts.model_dump(), self.run_ms, forms]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def add(self, form: str, scalable: bool, outputs: int, inputs: int, ms: float) -> None:
        """Put a measured point in, in place of one at the same widths."""
        rows = self.forms.setdefault(form, Rows(scalable=scalable, points=[]))
        rows.points = sorted([p for p in rows.points if p[:2] != (outputs, inputs)] + [(outputs, inputs, ms)])

    def knows(self, form: str, outputs: int, inputs: int) -> bool:
        """Whether a point was measured."""
        return form in self.forms and any(p[:2] == (outputs, inputs) for p in self.forms[form].points)

    def surface(self, form: str) -> Surface | None:
        """Return what lies between the points of a form; None for a form that was never measured."""
        rows = self.forms.get(form)
        return Surface.of(rows) if rows and rows.points else None

    def predict(self, kernels: Iterable[tuple[str, int, int]]) -> float | None:
        """Return the milliseconds of a run of (form, outputs, inputs), one after another; None where one is unknown."""
        total = self.run_ms
        known: dict[str, Surface | None] = {}
        for form, outputs, inputs in kernels:
            if form not in known:
                known[form] = self.surface(form)
            surface = known[form]
            if surface is None:
                return None
            total += surface.ms(outputs, inputs)
        return total


@dataclass(frozen=True, eq=False)
class Surface:
    """Milliseconds of one form over its widths.

    ``grid[i, j]`` belongs to ``outputs[i]`` and ``inputs[j]``, both ascending. Between them it is bilinear, so that it
    lies between its neighbours; beyond them it goes on as its ``law``, milliseconds as a mix of 1, outputs, inputs and
    their product, does.
    """

    outputs: NDArray[np.float64]
    inputs: NDArray[np.float64]
    grid: NDArray[np.float64]
    law: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows) -> Surface:
        """Fit the points of a form: what was not measured of the grid is filled in by the law."""
        points = np.array(rows.points, float)
        law = _law(points, rows.scalable)
        outputs, inputs = np.unique(points[:, 0]), np.unique(points[:, 1])
        grid = _by(law, outputs[:, None], inputs[None, :])
        # The law is off by a factor near each measured point: carry the nearest point's over to what is filled in.
        logs = np.log2(points[:, :2])
        for i, o in enumerate(outputs):
            for j, n in enumerate(inputs):
                near = int(np.argmin(np.abs(logs - np.log2([o, n])).sum(axis=1)))
                at = points[near]
                grid[i, j] *= at[2] / max(float(_by(law, at[0], at[1])), 1e-12)
        return cls(outputs, inputs, grid, law)

    def rising(self) -> Surface:
        """Return the surface that never falls as a width grows, by isotonic regression along both widths: a plan of
        fewer channels must not look dearer to a search than one of more.
        """
        return Surface(self.outputs, self.inputs, monotone(self.grid), self.law)

    def ms(self, outputs: float, inputs: float) -> float:
        """Return the milliseconds at some widths; 0 where there is nothing to compute."""
        if outputs <= 0 or inputs <= 0:
            return 0.0
        o = float(np.clip(outputs, self.outputs[0], self.outputs[-1]))
        n = float(np.clip(inputs, self.inputs[0], self.inputs[-1]))
        columns = [float(np.interp(o, self.outputs, self.grid[:, j])) for j in range(len(self.inputs))]
        inside = float(np.interp(n, self.inputs, columns))
        if (o, n) == (outputs, inputs):
            return inside
        return inside * self._share(outputs, inputs) / max(self._share(o, n), 1e-12)

    def _share(self, outputs: float, inputs: float) -> float:
        return float(_by(self.law, np.float64(outputs), np.float64(inputs)))


def monotone(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the grid made non-decreasing along both axes, by isotonic regression of each in turn until both hold.

    Dykstra's algorithm for the two cones (Dykstra & Robertson, Annals of Statistics 1982), ended by running maxima.
    """
    found = np.array(grid, float)
    rows, columns = np.zeros_like(found), np.zeros_like(found)
    for _ in range(50):
        before = found.copy()
        step = found + rows
        found = np.stack([isotonic_regression(row).x for row in step])
        rows = step - found
        step = found + columns
        found = np.stack([isotonic_regression(column).x for column in step.T]).T
        columns = step - found
        if np.abs(found - before).max() < 1e-9:
            break
    return np.asarray(np.maximum.accumulate(np.maximum.accumulate(found, axis=0), axis=1))


def _law(points: NDArray[np.float64], scalable: bool) -> NDArray[np.float64]:
    """Return the non-negative factors of 1, outputs, inputs and outputs × inputs that fit best, relative errors
    counting.

    What multiplies nothing goes by what it moves, the sum of both; a single point by its product, or by that sum.
    """
    outputs, inputs, ms = points.T
    terms = np.stack([np.ones_like(outputs), outputs, inputs, outputs * inputs], axis=1)
    if not scalable:
        share = float(np.median(ms / (outputs + inputs)))
        return np.array([0.0, share, share, 0.0])
    if len(points) < 4:
        return np.array([0.0, 0.0, 0.0, float(np.median(ms / (outputs * inputs)))])
    weight = 1.0 / np.maximum(ms, 1e-9)
    return np.asarray(nnls(terms * weight[:, None], np.ones(len(ms)))[0])


def _by(
    law: NDArray[np.float64], outputs: NDArray[np.float64] | float, inputs: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    return np.asarray(law[0] + law[1] * outputs + law[2] * inputs + law[3] * outputs * inputs)


def axis(channels: int) -> tuple[int, ...]:
    """Return the widths to measure a side of a form at, descending from what it has.

    Narrow layers at every eighth, as kernels that compute in blocks take steps there; wide ones at about 3/4, 1/2,
    1/4 and 1/8 in multiples of 8.
    """
    if channels <= 4:
        return (channels,)
    if channels <= 32:
        found = {max(1, round(channels * k / 8)) for k in range(1, 9)}
    else:
        found = {max(8, 8 * round(channels * f / 8)) for f in (0.75, 0.5, 0.25, 0.125)}
    return tuple(sorted({c for c in found if c < channels} | {channels}, reverse=True))


def errors(checks: Sequence[Check]) -> Mapping[str, float]:
    """Return the median, the 90th percentile and the largest of the checks' absolute errors; not a number of none."""
    each = [abs(one.error) for one in checks]
    if not each:
        return {"median": math.nan, "p90": math.nan, "worst": math.nan}
    return {"median": float(np.median(each)), "p90": float(np.percentile(each, 90)), "worst": max(each)}
