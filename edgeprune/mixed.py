"""Width and precision in one plan: behind the groups of channels come as many choices between float and int8.

int8 stops paying on narrow layers, so what a layer had better be computed in hangs on how wide the plan leaves it. An
episode chooses all widths first and then, in a second phase, the precision of each group that makes channels. No torch
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeprune.groups import FLOAT, INT8, CostModel, Group, Widths, canonical
from edgeprune.tally import Tallied, Tally, uncut

MARK = " in int8"
"""What the name of a choice ends in, behind that of its group."""


def tallied(cost: CostModel, tallies: Sequence[Tally]) -> CostModel:
    """Return the cost algebra with tallies, and with choices of precision where one of them tells both."""
    both = next((tally for tally in tallies if tally.floating is not None), None)
    if both is None:
        return Tallied(cost, tallies) if tallies else cost
    return Mixed(cost, both, [tally for tally in tallies if tally is not both])


class Mixed(Tallied):
    """The cost algebra of a model whose plans say what is computed in float and what in int8.

    ``tally`` tells a quantity of the whole graph in int8, its ``floating`` the same in float. A kernel that a plan
    lowers takes the less of the two, for one that int8 slows down will not be emitted so: no cost falls as a plan
    keeps more. Kernels that multiply nothing go from the one to the other by the share of float time that is lowered or
    gone. What changing between the two takes is not known, and not counted. What ``tally`` does not have in int8 stays
    in float, and what no group makes is lowered in every plan.
    """

    def __init__(self, cost: CostModel, tally: Tally, others: Sequence[Tally] = ()) -> None:
        assert tally.floating is not None
        self._low, self._high, self._others = tally, tally.floating, tuple(others)
        known = tally.lowered & {term.op for term in self._high.terms} & {op.name for op in cost.ops}
        given = cost.groups if any(group.lowers for group in cost.groups) else [*cost.groups, *choices(cost, known)]
        ops = {op.name: op for op in cost.ops}
        full = {term.op: uncut(term, ops[term.op]) for term in self._high.terms if term.op in known}
        self._weight = {op: ms / max(sum(full.values()), 1e-12) for op, ms in full.items()}
        self._always = known - {op for group in given for op in group.lowers}
        super().__init__(CostModel(cost.ops, given), [*self._others, self._high])

    def offering(self, groups: Sequence[Group]) -> Mixed:
        """Return the same costs over the same groups with other ladders."""
        return Mixed(CostModel(self.ops, groups), self._low, self._others)

    def touched(self, group: int) -> NDArray[np.bool_]:
        """Return which ops a group is about, in the order of ``ops``."""
        lowers = self.groups[group].lowers
        return np.array([op.name in lowers for op in self.ops]) if lowers else super().touched(group)

    def cost(self, widths: Sequence[int]) -> dict[str, float]:
        """Return MACs, parameters and every tally of the model cut and lowered so (one image)."""
        found = super().cost(widths)
        lowered = self._always | {op for group, width in zip(self.groups, widths, strict=True) if width == INT8
                                  for op in group.lowers}  # fmt: skip
        sides = self._kept(widths)
        # What went with a block counts as lowered whatever its choice says, so that equal plans cost the same.
        lowered |= {op for op in self._weight if sides[0][self._index[op]] == 0.0}
        if lowered:
            last = len(self.tallies) - 1
            (high, above), (low, below) = self._split(last, self._high, sides), self._split(last + 1, self._low, sides)
            share = sum(self._weight[op] for op in lowered)
            saved = sum(max(0.0, high[op] - low[op]) for op in lowered) + share * max(0.0, above - below)
            found[self._low.quantity] -= saved
        return found

    def _split(self, at: int, tally: Tally, sides: tuple[NDArray[np.float64], ...]) -> tuple[dict[str, float], float]:
        """Return what each kernel takes that can be in either precision, and all else together."""
        each: dict[str, float] = {}
        rest = tally.beside
        for number, term in enumerate(tally.terms):
            taken = self._term(at, number, term, *sides)
            if term.op in self._weight:
                each[term.op] = each.get(term.op, 0.0) + taken
            else:
                rest += taken
        return each, rest


def choices(cost: CostModel, known: Collection[str]) -> Iterator[Group]:
    """Yield a choice for every group that makes channels in an op of ``known``; one in a block that may go, goes with
    it. An op whose outputs belong to several groups is the first one's.
    """
    taken: set[str] = set()
    for group in cost.groups:
        made = [member.module for member in group.members if member.side == "out"]
        lowers = tuple(dict.fromkeys(name for name in made if name in known and name not in taken))
        taken.update(lowers)
        if lowers:
            yield Group(group.name + MARK, FLOAT, (), (FLOAT, INT8), inside=group.block or group.inside, lowers=lowers)


def parted(groups: Sequence[Group], widths: Sequence[int]) -> tuple[list[Group], Widths, tuple[str, ...]]:
    """Return the groups of channels, their widths, and the modules that a plan leaves in float; those of dropped blocks
    are not among them.
    """
    dropped = {group.block for group, width in zip(groups, widths, strict=True) if width == 0 and group.block}
    pairs = [*zip(groups, canonical(groups, widths), strict=True)]
    floating = (name for group, width in pairs if width == FLOAT and group.inside not in dropped
                for name in group.lowers)  # fmt: skip
    return (
        [group for group, _ in pairs if not group.lowers],
        tuple(width for group, width in pairs if not group.lowers),
        tuple(floating),
    )
