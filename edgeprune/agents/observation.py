"""What an agent sees at a step: where the episode stands, what the group is, how the plan lies to its costs. No torch.

    full           all that is known (see SparsityEnv); with a reward by energy, the plan's share of that too
    akperl         score of the episode before, energy so far, mean and variance of the inputs, and the group's index
    driving        the group's index, its sparsity, the last score
    depgraphrl     the group's index, its channels in and out, its energy, and its share of the plan's
    akperl-paper   as AKPERL prints it, which is ``akperl`` without the index: every layer looks the same

All are float32 of a fixed length, in [-1, 1].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.agents.actions import Actions
from edgeprune.errors import BadOption, nearest
from edgeprune.groups import DROP, Op, Widths

_WAVES = 4
_STATIC = 10 + 2 * _WAVES
_DYNAMIC = 12


@dataclass(frozen=True)
class Moment:
    """A step of an episode: its number, the state before it, what was done last and whether that was projected, which
    actions are legal (none after the end), and the last score there was.
    """

    step: int
    state: Widths
    last: int
    projected: bool
    mask: NDArray[np.bool_]
    score: float


class Observation(ABC):
    """Sees moments of episodes played by ``actions``. ``energetic``: the reward goes by energy. ``inputs`` are the mean
    and variance of what the network is given.
    """

    name: ClassVar[str]
    wants_energy: ClassVar[bool] = False
    size: int

    def __init__(self, actions: Actions, energetic: bool, inputs: tuple[float, float]) -> None:
        self.actions, self.space, self.energetic, self.inputs = actions, actions.space, energetic, inputs

    def see(self, moment: Moment) -> NDArray[np.float32]:
        """Return what is seen, shape (size,)."""
        return np.clip(np.array(self.numbers(moment), np.float32), -1.0, 1.0)

    @abstractmethod
    def numbers(self, moment: Moment) -> list[float]:
        """Return what is seen, not clipped yet."""

    def position(self, moment: Moment) -> float:
        """Return where the group stands among the others, from -1 on; 1 after the end."""
        over = moment.step == self.actions.steps
        return 1.0 if over else 2.0 * self.actions.at(moment.step) / len(self.space.free) - 1.0

    def energy(self, moment: Moment) -> float:
        """Return the energy of the plan as it stands, as a share of the original's."""
        cost = self.space.cost
        return self.space.costs(self.actions.plan(moment.state))["energy"] / max(cost.full["energy"], 1e-12)

    def group(self, moment: Moment) -> tuple[int, int]:
        """Return the position of the group that is looked at (the last one after the end) and its width."""
        at = self.actions.at(min(moment.step, self.actions.steps - 1))
        return at, moment.state[at] if at < len(moment.state) else self.space.options[at][0]


class Full(Observation):
    """Everything that is known."""

    name = "full"

    def __init__(self, actions: Actions, energetic: bool, inputs: tuple[float, float]) -> None:
        super().__init__(actions, energetic, inputs)
        self.size = _STATIC + _DYNAMIC + energetic
        self._static = [self._describe(at) for at in range(len(self.space.free))]
        full = [self.space.cost.full[quantity] / limit for quantity, limit in self.space.limits.items()]
        self._budget = 1.0 / max(full, default=1.0)

    def numbers(self, moment: Moment) -> list[float]:
        """Return what the group is, then how the plan lies to the ceilings."""
        step, state, actions = moment.step, moment.state, self.actions
        least = self.space.share(actions.least(state, step))
        most = self.space.share(actions.most(state, step))
        kept = [w / options[0] for w, options in zip(state, self.space.options, strict=False)]
        over = step == actions.steps
        dynamic = [
            2.0 * least - 1.0,
            math.tanh(most - 1.0),
            # How far between all-least and all-full the rest may lie.
            (1.0 - least) / max(most - least, 1e-9) * 2.0 - 1.0,
            2.0 * moment.last / (actions.count - 1) - 1.0,
            1.0 if actions.drops(moment.last) else 0.0,
            1.0 if moment.projected else 0.0,
            2.0 * self._budget - 1.0,
            2.0 * (sum(kept) / len(kept) if kept else 1.0) - 1.0,
            sum(width == DROP for width in state) / max(len(state), 1),
            0.0 if over or len(state) == len(self.space.free) or not self.space.skipped(state) else 1.0,
            2.0 * moment.mask.sum() / actions.count - 1.0,
            0.0 if over else 2.0 * int(moment.mask.argmax()) / (actions.count - 1) - 1.0,
        ]
        static = [1.0] + [0.0] * (_STATIC - 1) if over else self._static[actions.at(step)]
        if len(state) == len(self.space.free) and not over:  # in sweeps, how many are over says more than the waves
            static = [2.0 * step / actions.steps - 1.0, *static[1:]]
        return static + dynamic + ([2.0 * self.energy(moment) - 1.0] if self.energetic else [])

    def _describe(self, at: int) -> list[float]:
        """Return what does not change about a free group: position (line and waves), its first layer's shape, shares.
        """
        space, index = self.space, self.space.free[at]
        group = space.cost.groups[index]
        position = at / len(space.free)
        waves = [wave(2.0**k * math.pi * position) for k in range(_WAVES) for wave in (math.sin, math.cos)]
        ops = {op.name: op for op in space.cost.ops}
        first = next((ops[m.module] for m in group.members if m.side == "out" and m.module in ops), None)
        op = first or Op("", group.channels, None)
        shares = space.cost.share_of(index)
        aim = next((quantity for quantity in ("energy", "latency") if quantity in space.limits), "macs")
        return [
            2.0 * position - 1.0,
            *waves,
            1.0 if group.block else 0.0,
            1.0 if group.inside else 0.0,
            math.log2(group.channels) / 6.0 - 1.0,
            math.log2(max(op.inputs or op.outputs, 1)) / 6.0 - 1.0,
            op.shape.get("kernel", 1.0) / 3.5 - 1.0,
            op.shape.get("stride", 1.0) - 2.0,
            math.log2(max(op.shape.get("height", 1.0) * op.shape.get("width", 1.0), 1.0)) / 8.0 - 1.0,
            2.0 * min(shares["energy" if self.energetic else aim], 1.0) - 1.0,
            2.0 * shares["parameters"] - 1.0,
        ]


class AkperlPaper(Observation):
    """AKPERL's state as printed: the same at every layer, but for what the energy so far gives away."""

    name, wants_energy, size = "akperl-paper", True, 4

    def numbers(self, moment: Moment) -> list[float]:
        """Return score, energy, and the inputs' mean and variance, which are constants of a search."""
        mean, variance = self.inputs
        return [2.0 * moment.score - 1.0, 2.0 * self.energy(moment) - 1.0, math.tanh(mean),
                2.0 * variance / (1.0 + variance) - 1.0]  # fmt: skip


class Akperl(AkperlPaper):
    """AKPERL's state and the index of the layer, without which one policy cannot treat two layers differently."""

    name, size = "akperl", 5

    def numbers(self, moment: Moment) -> list[float]:
        """Return AKPERL's numbers and the group's index."""
        return [*super().numbers(moment), self.position(moment)]


class Driving(Observation):
    """The driving paper's state."""

    name, size = "driving", 3

    def numbers(self, moment: Moment) -> list[float]:
        """Return index, sparsity and score."""
        at, width = self.group(moment)
        return [self.position(moment), 1.0 - 2.0 * width / self.space.options[at][0], 2.0 * moment.score - 1.0]


class DepGraphRl(Observation):
    """DepGraphRL's state of a layer. Energy is that of all the group touches, in proportion to its channels."""

    name, wants_energy, size = "depgraphrl", True, 5

    def __init__(self, actions: Actions, energetic: bool, inputs: tuple[float, float]) -> None:
        super().__init__(actions, energetic, inputs)
        cost = self.space.cost
        ops = {op.name: op for op in cost.ops}
        self._touched = [cost.share_of(i).get("energy", 0.0) for i in self.space.free]
        self._read = [next((ops[m.module].inputs or 1 for m in cost.groups[i].members
                            if m.side == "out" and m.module in ops), 1) for i in self.space.free]  # fmt: skip

    def numbers(self, moment: Moment) -> list[float]:
        """Return index, C_in, C_out, E_k against the original's total, and R_k against the plan's."""
        at, width = self.group(moment)
        energy = self._touched[at] * width / self.space.options[at][0]
        return [
            self.position(moment),
            math.log2(max(self._read[at], 1)) / 6.0 - 1.0,
            math.log2(max(width, 1)) / 6.0 - 1.0,
            2.0 * energy - 1.0,
            2.0 * energy / max(self.energy(moment), 1e-9) - 1.0,
        ]


OBSERVATIONS: dict[str, type[Observation]] = {
    one.name: one for one in (Full, Akperl, Driving, DepGraphRl, AkperlPaper)
}


def require_known(name: str) -> None:
    """Raise BadOption, naming the nearest, unless there is such an observation."""
    if name not in OBSERVATIONS:
        raise BadOption(f"unknown observation {name!r}{nearest(name, OBSERVATIONS)}")
