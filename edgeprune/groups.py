"""The dependency graph as rows: what must go together, how far it may go, and what that costs. No torch here.

A *group* is a set of channels that can only be removed together (DepGraph, Fang et al., CVPR 2023): the outputs of
one or more layers and the inputs of those that read them. *Widths* are the search's own notation for a plan: one kept
count a group, in group order, with 0 standing for "drop the residual block this group opens".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Widths = tuple[int, ...]
DROP = 0
FLOAT, INT8 = 2, 1
"""The rungs of a group that chooses a precision."""
FRACTIONS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one module that belongs to a group.

    ``local[j]`` is an index on that side of the module, ``root[j]`` the channel of the group it stands for; a channel
    may own several local indices (a linear layer after a flatten).
    """

    module: str
    side: Literal["out", "in"]
    local: NDArray[np.int64]
    root: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Group:
    """Coupled channels, and what may be done with them.

    ``name`` is the qualified name of the first member in forward order: stable across runs and versions. ``ladder``
    holds the kept counts on offer, descending, the first being ``channels``. ``segments`` > 1 where grouped
    convolutions demand that equally many channels go from each of so many equal runs. ``block`` names the residual
    block that choosing DROP here removes; ``inside`` the droppable block this group lives in. A ``locked`` group (the
    text says why) has a ladder of one rung. A group with ``lowers`` has no channels: it is a choice for these modules,
    FLOAT or INT8 (see ``edgeprune.mixed``).
    """

    name: str
    channels: int
    members: tuple[Member, ...] = ()
    ladder: tuple[int, ...] = ()
    segments: int = 1
    block: str | None = None
    inside: str | None = None
    locked: str = ""
    lowers: tuple[str, ...] = ()

    def options(self) -> tuple[int, ...]:
        """Return the widths on offer here: the ladder, then DROP where the group opens a droppable block."""
        return self.ladder + ((DROP,) if self.block else ())


@dataclass(frozen=True)
class Cut:
    """What a plan does to one group. ``kept`` are the channels that stay, ascending; all of them if the block is
    dropped.
    """

    group: str
    channels: int
    kept: tuple[int, ...]
    drop_block: bool = False


Plan = tuple[Cut, ...]


def ladder(channels: int, multiples: Sequence[int] = (1,), segments: int = 1) -> tuple[int, ...]:
    """Return the kept counts on offer for a group: at most one a fraction of FRACTIONS, descending from ``channels``.

    Each fraction is rounded to the largest of ``multiples`` (what the target's precisions like) that lands within a
    sixteenth of the channels, else to the smallest; a group narrower than every multiple goes by ``segments``. All
    rungs are multiples of ``segments``, never zero and never above ``channels``: none can do the reverse of what was
    asked.
    """
    steps = sorted({int(np.lcm(m, segments)) for m in multiples}, reverse=True)
    steps = [s for s in steps if s < channels] or [segments]
    rungs = {channels}
    for wanted in (channels * f for f in FRACTIONS[1:]):
        near = [max(step, step * round(wanted / step)) for step in steps]
        rungs.add(next((r for r in near if abs(r - wanted) <= channels / 16), near[-1]))
    return tuple(sorted((r for r in rungs if r <= channels), reverse=True))


@dataclass(frozen=True)
class Op:
    """A module with parameters, as the cost algebra sees it.

    MACs are ``positions`` (output pixels, summed over calls) × ``kernel`` × out × in / ``conv_groups``; parameters are
    ``kernel`` × out × in / ``conv_groups`` + ``per_channel`` × out + ``fixed``. A depthwise convolution or a norm has
    ``inputs`` None: only its outputs count. ``kernel`` is 0 for a module that does no multiplications worth counting.
    """

    name: str
    outputs: int
    inputs: int | None
    positions: float = 0.0
    kernel: float = 0.0
    conv_groups: int = 1
    per_channel: float = 0.0
    fixed: float = 0.0
    shape: Mapping[str, float] = field(default_factory=dict)


class CostModel:
    """MACs and parameters of any widths by algebra: no model is built, and a call takes tens of microseconds.

    ``ops`` are the modules in forward order and ``groups`` the rows widths refer to. Each group removes, from
    a side of an op, its removed channels times the local indices one channel owns there.
    """

    def __init__(self, ops: Sequence[Op], groups: Sequence[Group]) -> None:
        self.ops = tuple(ops)
        self.groups = tuple(groups)
        index = {op.name: i for i, op in enumerate(ops)}
        shape = (len(ops), len(groups))
        self._out_share, self._in_share = np.zeros(shape), np.zeros(shape)
        self._inside = np.zeros(shape, bool)
        for g, group in enumerate(groups):
            for member in group.members:
                if member.module in index:
                    share = self._out_share if member.side == "out" else self._in_share
                    share[index[member.module], g] += len(member.local) / group.channels
            if group.block:
                prefix = group.block + "."
                self._inside[:, g] = [op.name.startswith(prefix) or op.name == group.block for op in ops]
        self._channels = np.array([g.channels for g in groups], float)
        self._outputs = np.array([op.outputs for op in ops], float)
        self._counts_inputs = np.array([op.inputs is not None for op in ops], bool)
        self._inputs = np.array([1.0 if op.inputs is None else op.inputs for op in ops])
        self._in_share[~self._counts_inputs] = 0.0
        kernel = np.array([op.kernel / (op.conv_groups if op.inputs is not None else 1) for op in ops])
        self._macs_weight = kernel * np.array([op.positions for op in ops])
        self._parameter_weight = kernel
        self._per_channel = np.array([op.per_channel for op in ops])
        self._fixed = np.array([op.fixed for op in ops])
        full = tuple(g.channels for g in groups)
        self.full = self.cost(full)

    def _sides(
        self, widths: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_] | None]:
        kept = np.asarray(widths, float)
        dropping = kept == DROP
        removed = np.where(dropping, 0.0, self._channels - kept)
        dead: NDArray[np.bool_] | None = None
        if dropping.any():
            dead = np.asarray(self._inside[:, dropping].any(axis=1))
        return self._outputs - self._out_share @ removed, self._inputs - self._in_share @ removed, dead

    def cost(self, widths: Sequence[int]) -> dict[str, float]:
        """Return ``{"macs": …, "parameters": …}`` of the model cut to ``widths`` (one image).

        None of them falls as a width grows.
        """
        outputs, inputs, dead = self._sides(widths)
        product = outputs * inputs
        macs = self._macs_weight * product
        parameters = self._parameter_weight * product + self._per_channel * outputs + self._fixed
        if dead is not None:
            macs, parameters = np.where(dead, 0.0, macs), np.where(dead, 0.0, parameters)
        return {"macs": float(macs.sum()), "parameters": float(parameters.sum())}

    def offering(self, groups: Sequence[Group]) -> CostModel:
        """Return the same costs over the same groups with other ladders."""
        return CostModel(self.ops, groups)

    def by_op(self, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the MACs of each op, in the order of ``ops``."""
        outputs, inputs, dead = self._sides(widths)
        macs: NDArray[np.float64] = self._macs_weight * outputs * inputs
        return macs if dead is None else np.where(dead, 0.0, macs)

    def touched(self, group: int) -> NDArray[np.bool_]:
        """Return which ops a group's channels go in or out of, or are dropped with its block; in the order of ``ops``.
        """
        touched = (self._out_share[:, group] > 0) | (self._in_share[:, group] > 0) | self._inside[:, group]
        return np.asarray(touched)

    def share_of(self, group: int) -> dict[str, float]:
        """Return the share of the full model's MACs and parameters in the ops a group touches (shares overlap)."""
        touched = self.touched(group)
        product = self._outputs * self._inputs
        parameters = self._parameter_weight * product + self._per_channel * self._outputs + self._fixed
        macs = self._macs_weight * product
        return {
            "macs": float(macs[touched].sum() / max(macs.sum(), 1.0)),
            "parameters": float(parameters[touched].sum() / max(parameters.sum(), 1.0)),
        }


def aligned(cost: CostModel, multiple: int) -> CostModel:
    """Return the same groups offering only full width, multiples of ``multiple``, and dropping their block.

    For goals on the clock: a width that no kernel of the target likes costs accuracy and gives no time.
    """

    def narrowed(group: Group) -> Group:
        if group.lowers:
            return group
        rungs = ladder(group.channels, (multiple,), group.segments) if len(group.ladder) > 1 else group.ladder
        return replace(group, ladder=tuple(r for r in rungs if r == group.channels or r % multiple == 0))

    return cost.offering([narrowed(group) for group in cost.groups])


def canonical(groups: Sequence[Group], widths: Sequence[int]) -> Widths:
    """Return widths in which groups inside a dropped block stand at full width, so that equal plans are equal keys."""
    dropped = {g.block for g, w in zip(groups, widths, strict=True) if w == DROP}
    if not dropped:
        return tuple(widths)
    return tuple(w if w == DROP or g.inside not in dropped else g.channels for g, w in zip(groups, widths, strict=True))


def plan_of(groups: Sequence[Group], widths: Sequence[int], scores: Mapping[str, NDArray[np.float64]]) -> Plan:
    """Turn widths into a plan: each group keeps its best-scored channels (ties go to the lower index).

    ``scores`` holds one importance a channel for every group, shape (channels,). Where a group has segments, equally
    many are kept from each.
    """
    cuts = []
    for group, width in zip(groups, canonical(groups, widths), strict=True):
        everything = tuple(range(group.channels))
        if width in (DROP, group.channels):
            cuts.append(Cut(group.name, group.channels, everything, drop_block=width == DROP))
            continue
        ranked = np.asarray(scores[group.name]).reshape(group.segments, -1)
        order = np.argsort(-ranked, axis=1, kind="stable")[:, : width // group.segments]
        starts = np.arange(group.segments)[:, None] * ranked.shape[1]
        cuts.append(Cut(group.name, group.channels, tuple(sorted((order + starts).ravel().tolist()))))
    return tuple(cuts)


def widths_of(groups: Sequence[Group], plan: Plan) -> Widths:
    """Return the widths of a plan over the same groups."""
    cuts = {cut.group: cut for cut in plan}
    return tuple(
        g.channels if g.name not in cuts else DROP if cuts[g.name].drop_block else len(cuts[g.name].kept)
        for g in groups
    )


def uniform(groups: Sequence[Group], fraction_kept: float) -> Widths:
    """Return widths in which every free group keeps the rung nearest ``fraction_kept`` of its channels; no block is
    dropped, and whatever can be is in int8.

    Monotone: a smaller fraction never keeps more.
    """
    return tuple(nearest(group, fraction_kept * group.channels) for group in groups)


def nearest(group: Group, kept: float) -> int:
    """Return the rung nearest to so many channels, the narrower of two; a choice of precision takes int8."""
    return INT8 if group.lowers else min(group.ladder, key=lambda rung: (abs(rung - kept), rung))
