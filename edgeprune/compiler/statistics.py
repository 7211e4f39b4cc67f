"""Numbers about repeated runs: means with intervals, paired differences, and the analyses the papers use. Pure.

Every function takes plain numbers, one for each seed, and says None where a figure cannot be had: one run has no
spread, and runs that all agree have nothing to test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence of every interval; a test is significant below 1 - LEVEL."""

Improvements = Sequence[tuple[int, float]]
"""One search: (number of true evaluations, best feasible score from then on), both strictly increasing."""


@dataclass(frozen=True)
class Summary:
    """Repeated runs: their mean, standard deviation (n - 1) and the 95 % t-interval of the mean; None for one run."""

    n: int
    mean: float
    sd: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Difference:
    """How much more one method has than another, paired by seed; ``p`` of the paired t-test, two-sided.

    ``holm`` is that p corrected for the others it was asked with (Holm, 1979). Both are None where the differences do
    not vary, or there is but one.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """Say what the interval and the corrected test allow to be said."""
        if self.n < 2:
            return "one seed: no interval, so nothing can be said about chance"
        if self.interval is None or self.p is None:
            return "the same at every seed" if self.mean == 0 else "differs by the same at every seed: no test"
        if self.interval[0] <= 0.0 <= self.interval[1]:
            return "no significant difference"
        if (self.holm if self.holm is not None else self.p) >= 1.0 - LEVEL:
            return "no significant difference once corrected for the number of comparisons"
        return "significantly higher" if self.mean > 0 else "significantly lower"


@dataclass(frozen=True)
class Anova:
    """A one-way analysis of variance: F with its degrees of freedom, p, and η², the share of variance between groups.
    """

    groups: int
    n: int
    f: float
    p: float
    eta_squared: float


@dataclass(frozen=True)
class Line:
    """y = intercept + slope · x by least squares; the slope's p and ``interval`` are None for two points, which always
    lie on a line.
    """

    n: int
    slope: float
    intercept: float
    r_squared: float
    p: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class PowerLaw:
    """t = a · s^b by least squares on the logarithms of both."""

    n: int
    a: float
    b: float
    r_squared: float


@dataclass(frozen=True)
class Point:
    """The best score known after so many true evaluations: mean, lowest and highest of the seeds."""

    evaluations: int
    mean: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    """Return mean, spread and interval of at least one value."""
    found = np.asarray(values, float)
    if len(found) < 2:
        return Summary(len(found), float(found.mean()))
    sd = 0.0 if _same(found) else float(found.std(ddof=1))
    mean = float(found[0]) if _same(found) else float(found.mean())
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(found) - 1)) * sd / math.sqrt(len(found))
    return Summary(len(found), mean, sd, (mean - half, mean + half))


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Return how much more ``one`` has than ``other``; the two are paired in order. Raises ValueError if they cannot
    be.
    """
    if len(one) != len(other) or not len(one):
        raise ValueError(f"{len(one)} and {len(other)} runs cannot be paired")
    apart = np.asarray(one, float) - np.asarray(other, float)
    # Scores are counts over a number of images: equal differences of them differ by how they were rounded.
    rounding = 1e-12 * max(1.0, float(np.abs([one, other]).max()))
    if len(apart) < 2 or float(np.ptp(apart)) <= rounding:
        return Difference(len(apart), float(apart[0]))
    found = summary(apart.tolist())
    return Difference(found.n, found.mean, found.interval, float(stats.ttest_rel(one, other).pvalue))


def corrected(asked: Mapping[str, Difference]) -> dict[str, Difference]:
    """Return the differences with p corrected for all that were asked together, by Holm's step-down procedure."""
    tested = sorted((d.p, name) for name, d in asked.items() if d.p is not None)
    holm: dict[str, float] = {}
    highest = 0.0
    for rank, (p, name) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        holm[name] = highest
    return {name: replace(d, holm=holm.get(name)) for name, d in asked.items()}


def anova(groups: Sequence[Sequence[float]]) -> Anova | None:
    """Return a one-way analysis of variance between methods, or None where there is nothing to hold them against.

    That is fewer than two groups of at least two runs, or no spread within any of them.
    """
    whole = [np.asarray(group, float) for group in groups if len(group) > 1]
    if len(whole) < 2 or all(_same(group) for group in whole):
        return None
    found = stats.f_oneway(*whole)
    every = np.concatenate(whole)
    total = float(((every - every.mean()) ** 2).sum())
    between = sum(len(group) * float(group.mean() - every.mean()) ** 2 for group in whole)
    return Anova(len(whole), len(every), float(found.statistic), float(found.pvalue), between / total)


def line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Return the regression of y on x, or None where either does not vary."""
    if len(x) < 2 or any(_same(np.asarray(values, float)) for values in (x, y)):
        return None
    found = stats.linregress(x, y)
    free = len(x) - 2
    p = interval = None
    if free > 0:
        p = float(found.pvalue)
        half = float(stats.t.ppf(0.5 + LEVEL / 2, free) * found.stderr)
        interval = (float(found.slope) - half, float(found.slope) + half)
    r_squared = float(found.rvalue) ** 2
    return Line(len(x), float(found.slope), float(found.intercept), r_squared, p, interval)


def power_law(sizes: Sequence[float], times: Sequence[float]) -> PowerLaw | None:
    """Return the fit of times to a · size^b, or None where either does not vary. Raises ValueError for what is
    not positive.
    """
    if any(value <= 0 for value in (*sizes, *times)):
        raise ValueError("a power law is for sizes and times above zero")
    fit = line([math.log(size) for size in sizes], [math.log(time) for time in times])
    return None if fit is None else PowerLaw(fit.n, math.exp(fit.intercept), fit.slope, fit.r_squared)


def improvements(scores: Sequence[float | None]) -> tuple[tuple[int, float], ...]:
    """Return where the best score so far rose, evaluations counted from 1; None is a plan above the ceilings."""
    found: list[tuple[int, float]] = []
    for number, score in enumerate(scores, 1):
        if score is not None and (not found or score > found[-1][1]):
            found.append((number, score))
    return tuple(found)


def to_best(run: Improvements, share: float = 0.99) -> int:
    """Return how many true evaluations it took to come within 1 - ``share`` of the run's final best, as a fraction of
    it.
    """
    best = run[-1][1]
    return next(number for number, score in run if score >= best - (1.0 - share) * abs(best))


def curve(runs: Sequence[Improvements], end: int) -> tuple[Point, ...]:
    """Return the best so far over the seeds, from where every run has one up to ``end`` evaluations.

    Only where a run improves, and at the end: between two points nothing changes. A run that stopped keeps its best.
    """
    start = max(run[0][0] for run in runs)
    where = sorted({start, max(end, start), *(number for run in runs for number, _ in run if number > start)})
    points = []
    for at in where:
        known = [max(score for number, score in run if number <= at) for run in runs]
        points.append(Point(at, float(np.mean(known)), min(known), max(known)))
    return tuple(points)


def _same(values: np.ndarray) -> bool:
    """Whether all values are equal to the bit: their rounded mean may not be."""
    return bool(values.max() == values.min())
