"""What a plan takes on the target, kernel by kernel: the cost algebra beyond MACs and parameters. No torch here.

A *tally* is a list of kernels and what each takes at which width: latency from a measured table, for example. With it
the cost of any plan is a sum of look-ups, and a search aims at what counts instead of at MACs.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeprune.groups import CostModel, Group, Op


@dataclass(frozen=True, eq=False)
class Term:
    """What one kernel adds.

    One that multiplies belongs to the op called ``op``: ``grid[i, j]`` is what it takes at ``outputs[i]`` and
    ``inputs[j]`` channels (of one convolution group), ascending, and never falls along either. Between them it is
    bilinear, beyond them in proportion. Any other takes ``whole`` at full width, in proportion to what it moves:
    ``moved`` gives the share of it that comes out of each op.
    """

    op: str = ""
    outputs: tuple[float, ...] = ()
    inputs: tuple[float, ...] = ()
    grid: NDArray[np.float64] | None = None
    whole: float = 0.0
    moved: Mapping[str, float] = field(default_factory=dict)


class Tally:
    """Terms of one quantity, such as ``latency`` in milliseconds, and what any run takes ``beside`` them.

    ``floating`` is the same of the graph in float, where a plan may choose between the two for each of the ops that are
    ``lowered`` to int8 in this one.
    """

    def __init__(
        self, quantity: str, terms: Sequence[Term], beside: float = 0.0, floating: Tally | None = None,
        lowered: Collection[str] = (),
    ) -> None:
        self.quantity, self.terms, self.beside, self.floating = quantity, tuple(terms), beside, floating
        self.lowered = frozenset(lowered)

    def choosing(self, floating: Tally, lowered: Collection[str]) -> Tally:
        """Return the same, for plans that choose."""
        return Tally(self.quantity, self.terms, self.beside, floating, lowered)

    def __repr__(self) -> str:
        """Name the content: searches by equal tallies are the same search."""
        told = hashlib.sha256(repr((self.quantity, self.beside)).encode())
        for term in self.terms:
            told.update(repr((term.op, term.outputs, term.inputs, term.whole, sorted(term.moved.items()))).encode())
            told.update(b"" if term.grid is None else term.grid.tobytes())
        either = "" if self.floating is None else f", or {self.floating} but for {sorted(self.lowered)}"
        return f"Tally({self.quantity}, {told.hexdigest()[:16]}{either})"


class Tallied(CostModel):
    """The cost algebra of a model with the quantities of tallies beside MACs and parameters."""

    def __init__(self, cost: CostModel, tallies: Sequence[Tally]) -> None:
        self.tallies = tuple(tallies)
        self._index = {op.name: i for i, op in enumerate(cost.ops)}
        self._known: dict[tuple[int, int, float, float], float] = {}
        super().__init__(cost.ops, cost.groups)

    def offering(self, groups: Sequence[Group]) -> Tallied:
        """Return the same costs over the same groups with other ladders."""
        return Tallied(CostModel(self.ops, groups), self.tallies)

    def cost(self, widths: Sequence[int]) -> dict[str, float]:
        """Return MACs, parameters and every tally of the model cut to ``widths`` (one image)."""
        sides = self._kept(widths)
        found = super().cost(widths)
        for at, tally in enumerate(self.tallies):
            found[tally.quantity] = tally.beside + sum(
                self._term(at, number, term, *sides) for number, term in enumerate(tally.terms)
            )
        return found

    def _kept(self, widths: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the outputs and inputs of every op, and the share of its outputs that is kept."""
        outputs, inputs, dead = self._sides(widths)
        kept = outputs / np.maximum(self._outputs, 1.0)
        if dead is not None:
            outputs, kept = np.where(dead, 0.0, outputs), np.where(dead, 0.0, kept)
        return outputs, inputs, kept

    def share_of(self, group: int) -> dict[str, float]:
        """Return the share of the full model's MACs, parameters and tallies in what a group touches (shares overlap).
        """
        touched = {op.name: op for op, is_so in zip(self.ops, self.touched(group), strict=True) if is_so}
        found = super().share_of(group)
        for tally in self.tallies:
            taken = sum(
                (uncut(term, touched[term.op]) if term.op in touched else 0.0)
                + term.whole * sum(share for op, share in term.moved.items() if op in touched)
                for term in tally.terms
            )
            found[tally.quantity] = taken / max(self.full[tally.quantity], 1e-12)
        return found

    def _term(
        self,
        tally: int,
        number: int,
        term: Term,
        outputs: NDArray[np.float64],
        inputs: NDArray[np.float64],
        kept: NDArray[np.float64],
    ) -> float:
        if term.grid is None:
            gone = sum(share * (1.0 - float(kept[self._index[op]])) for op, share in term.moved.items()
                       if op in self._index)  # fmt: skip
            return term.whole * (1.0 - gone)
        at = self._index.get(term.op)
        if at is None:
            return term.whole
        o, i = float(outputs[at]), _inputs(term, self.ops[at], float(inputs[at]))
        key = tally, number, o, i
        if key not in self._known:
            self._known[key] = look_up(term, o, i)
        return self._known[key]


def uncut(term: Term, op: Op) -> float:
    """Return what the kernel of an op takes at full width, which a grid may reach beyond: other kernels share its form.
    """
    if term.grid is None:
        return term.whole
    return look_up(term, float(op.outputs), _inputs(term, op, float(op.inputs or 0)))


def _inputs(term: Term, op: Op, inputs: float) -> float:
    return term.inputs[-1] if op.inputs is None else inputs / op.conv_groups


def look_up(term: Term, outputs: float, inputs: float) -> float:
    """Return what a kernel takes at some widths; 0 for none."""
    assert term.grid is not None
    if outputs <= 0.0 or inputs <= 0.0:
        return 0.0
    o = min(max(outputs, term.outputs[0]), term.outputs[-1])
    i = min(max(inputs, term.inputs[0]), term.inputs[-1])
    (a, b, s), (c, d, t) = _between(term.outputs, o), _between(term.inputs, i)
    low = (1.0 - t) * term.grid[a, c] + t * term.grid[a, d]
    high = (1.0 - t) * term.grid[b, c] + t * term.grid[b, d]
    return float(((1.0 - s) * low + s * high) * (outputs / o) * (inputs / i))


def _between(axis: Sequence[float], value: float) -> tuple[int, int, float]:
    """Return the two places of an ascending axis that a value lies between, and how far it is from the first."""
    high = min(max(bisect_right(axis, value), 1), len(axis) - 1)
    low = max(high - 1, 0)
    if high == low or len(axis) == 1:
        return 0, 0, 0.0
    return low, high, (value - axis[low]) / (axis[high] - axis[low])
