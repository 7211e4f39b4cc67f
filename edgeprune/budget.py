"""What a build must keep to: limits, verdicts and the constrained bisection. Pure: no torch, no files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import BadOption

Verdict = Literal["met", "not-met", "infeasible", "unchecked"]
Basis = Literal["measured", "estimated", "exact", "unchecked"]
Cost = Literal["measured", "estimated", "macs"]
"""Who decides what is faster: the clock, the board's figures, or nothing but counts."""
EnergyMethod = Literal["sensor", "two-point", "theoretical", "theoretical-published"]
"""How energy is told: by a power sensor over whole windows, by its readings at both ends of a window, or estimated."""

UNITS: Mapping[str, Mapping[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "energy": {"mJ": 1.0, "J": 1e3},
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "macs": {"k": 1e3, "M": 1e6, "G": 1e9},
    "parameters": {"k": 1e3, "M": 1e6},
}
"""What each ceiling may be written in; the values convert to milliseconds, millijoules, bytes and counts."""


@dataclass(frozen=True)
class Limit:
    """A ceiling, absolute (milliseconds, millijoules, bytes, a count) or relative to the original model."""

    value: float
    relative: bool = False

    @staticmethod
    def parse(quantity: str, text: str) -> Limit:
        """Read ``0.5x`` or a number with a unit of ``UNITS[quantity]``, such as ``12ms`` or ``4MB``.

        Raises BadOption for anything else, for zero and for negative numbers.
        """
        units = UNITS[quantity]
        match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)\s*([A-Za-z]*)\s*", text)
        unit = match.group(2) if match else ""
        if match is None or (unit != "x" and unit not in units):
            absolute = f"12{next(iter(units))}"
            raise BadOption(
                f"--max-{quantity} {text!r} is not understood; give a share of the original such as 0.5x, "
                f"or a number with one of the units {', '.join(units)}, such as {absolute}"
            )
        value = float(match.group(1)) * (1.0 if unit == "x" else units[unit])
        if not (0.0 < value < math.inf):
            raise BadOption(f"--max-{quantity} must be above zero, not {text!r}")
        return Limit(value, unit == "x")

    def resolve(self, original: float) -> float:
        """Return the ceiling in absolute terms, given the original's value of the same quantity."""
        return self.value * original if self.relative else self.value


@dataclass(frozen=True)
class Budget:
    """One accuracy floor for the whole chain and optional ceilings; None means "not asked for".

    ``max_accuracy_drop`` is in absolute score points as a fraction (0.01 is one point of top-1).
    """

    max_accuracy_drop: float | None = 0.01
    max_latency: Limit | None = None
    max_energy: Limit | None = None
    max_size: Limit | None = None
    max_macs: Limit | None = None
    max_parameters: Limit | None = None

    def __post_init__(self) -> None:
        drop = self.max_accuracy_drop
        if drop is not None and not 0.0 <= drop < 1.0:
            raise BadOption(f"--max-accuracy-drop is a fraction in [0, 1), such as 0.01 for one point, not {drop}")

    def ceilings(self) -> dict[str, Limit]:
        """Return the ceilings asked for, by quantity: latency (ms), energy (mJ), size (bytes), macs,
        parameters.
        """
        given = {
            "latency": self.max_latency,
            "energy": self.max_energy,
            "size": self.max_size,
            "macs": self.max_macs,
            "parameters": self.max_parameters,
        }
        return {quantity: limit for quantity, limit in given.items() if limit is not None}


@dataclass(frozen=True)
class Check:
    """One line of a verdict: what was allowed, what was found and on what basis."""

    quantity: str
    limit: float | None
    found: float | None
    basis: Basis

    @property
    def held(self) -> bool | None:
        """Whether the limit was kept; None when it could not be checked: what was found is not known or, of a share,
        what it is a share of.
        """
        return None if self.found is None or self.limit is None else self.found <= self.limit


def verdict(checks: list[Check], require_measured: bool = False) -> Verdict:
    """Fold the checks into one word: ``met`` only if each one held (and was measured, if that is required).

    Without any check that could be made the verdict is ``unchecked``, and where a ceiling could not be checked. The
    floor cannot be without data, which says nothing against the ceilings.
    """
    if any(c.held is False for c in checks):
        return "not-met"
    if require_measured and any(c.basis == "estimated" or c.held is None for c in checks):
        return "not-met"
    unknown = any(c.held is None and c.quantity != "accuracy-drop" for c in checks)
    return "met" if not unknown and any(c.held for c in checks) else "unchecked"


def exit_code(word: Verdict) -> int:
    """Return the exit code of a verdict: 0 for met and unchecked, 3 otherwise."""
    return 0 if word in ("met", "unchecked") else 3


def holds_floor(drop: float, standard_error: float, floor: float | None) -> bool:
    """Judge a candidate inside the build: paired drop plus one standard error must not exceed the floor.

    The standard error makes the build cautious about what a finite search split can tell; the final verdict on
    the test split uses the point estimate alone. No floor holds always.
    """
    return floor is None or drop + standard_error <= floor


def calls(top: int, first: int | None = None) -> int:
    """Return how often ``largest`` asks at most, without a stride."""
    k = (top + 1) // 2 if first is None else min(max(first, 1), top)
    return 1 + math.ceil(math.log2(max(k, top + 1 - k))) if top > 0 else 0


def largest(top: int, holds: Callable[[int], bool], first: int | None = None, stride: int | None = None) -> int:
    """Return the largest k in 0..top for which ``holds(k)``, by bisection.

    ``holds`` is taken to be true at 0 and monotone (true up to some k, false above); 0 is never asked. Where it is not
    monotone the answer still is a k that held when asked (or 0): it always rolls back to a point that held. ``first``
    is the first k to try, for a caller who believes in an end (default: the middle). Who believes it to be near gives a
    ``stride``: it is doubled from step to step until the end is passed, and the rest is bisected (galloping; Bentley
    and Yao, 1976). At most as many calls as ``calls`` says, with a stride 2 (ceil(log2(top)) + 2).
    """
    low, high = 0, top + 1  # holds(low) is true, holds(high) is taken to be false
    k = (low + high) // 2 if first is None else min(max(first, 1), top)
    while high - low > 1:
        if holds(k):
            low = k
        else:
            high = k
        k = (low + high) // 2
        if stride is not None and 0 in (low, top + 1 - high):  # all that were asked held, or none did
            k = max(k, high - stride) if low == 0 else min(k, low + stride)
            stride *= 2
    return low
