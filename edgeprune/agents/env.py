"""The one environment every learning agent works in: book-keeping over plans, with no torch in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from edgeprune.agents.base import Account, Evaluator
from edgeprune.agents.space import Space
from edgeprune.groups import DROP, FRACTIONS, Op, Widths

RUNGS = len(FRACTIONS)
ACTIONS = RUNGS + 1
"""One for each of FRACTIONS, then dropping the block: the same for every network, so that a policy can be moved
between them.
"""
_DROP_ACTION = RUNGS
_WAVES = 4
_STATIC = 10 + 2 * _WAVES
OBSERVATIONS = _STATIC + 12
_CLIP = 10.0


def actions_of(options: Widths) -> tuple[int, ...]:
    """Return the action that stands for each of a group's options, strictly increasing.

    Action i < 8 keeps FRACTIONS[i] of the channels (0: all of them), 8 drops the block. A ladder whose rungs coincide
    leaves actions without a meaning at this group: those are never legal.
    """
    rungs = [width for width in options if width != DROP]
    actions = [0]
    for i, width in enumerate(rungs[1:], start=1):
        nearest = min(range(len(FRACTIONS)), key=lambda f: abs(FRACTIONS[f] - width / rungs[0]))
        actions.append(min(max(nearest, actions[-1] + 1), RUNGS - len(rungs) + i))
    return tuple(actions) + ((_DROP_ACTION,) if len(rungs) < len(options) else ())


class SparsityEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One step per free group in topological order; the reward comes at the end, and γ is 1.

    The action wall makes every episode feasible: an illegal action is replaced by the nearest legal one (the wider of
    two), and what was done is in ``info["action"]`` and in the next observation. A group inside a block dropped
    earlier takes a step whose only legal action is 0. Reward: (score − ``reference``) / ``scale``, clipped to ±10;
    ``info`` of the last step carries ``widths`` and ``score``.

    The observation is float32, shape (OBSERVATIONS,), in [-1, 1]: where the episode stands, what the group is
    (channels, kernel, stride, resolution, share of MACs and parameters; of latency or energy instead of MACs where the
    ceiling is on that), and how the plan so far lies to the ceilings.
    """

    def __init__(self, space: Space, evaluator: Evaluator, *, scale: float = 0.1, reference: float = 0.0,
                 account: Account | None = None) -> None:
        self.space, self.evaluator, self.scale, self.reference = space, evaluator, scale, reference
        self.account = account or Account(space, evaluator, "environment", evaluator.limit)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (OBSERVATIONS,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.steps = len(space.free)
        self._actions = [actions_of(options) for options in space.options]
        self._static = [_describe(space, step) for step in range(self.steps)]
        self._floor, self._full = space.minimum(), space.full()
        full = [space.cost.full[quantity] / limit for quantity, limit in space.limits.items()]
        self._budget = 1.0 / max(full, default=1.0)
        self._restart()

    def twin(self, account: Account, reference: float | None = None) -> SparsityEnv:
        """Return another environment over the same space whose evaluations go through ``account``."""
        reference = self.reference if reference is None else reference
        return SparsityEnv(self.space, self.evaluator, scale=self.scale, reference=reference, account=account)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode. The seed changes nothing: given the actions, there is no chance here."""
        super().reset(seed=seed)
        self._restart()
        return self._observe(), {}

    def _restart(self) -> None:
        self._chosen: list[int] = []
        self._last, self._projected = 0, False
        self._look()

    def _look(self) -> None:
        """Work out the mask of the step ahead, from which options and projections follow."""
        self._mask = np.zeros(ACTIONS, bool)
        if len(self._chosen) < self.steps:
            legal = self.space.legal(self._chosen)
            self._mask[[a for a, ok in zip(self._actions[len(self._chosen)], legal, strict=True) if ok]] = True

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal now, shape (ACTIONS,); never empty within an episode."""
        return self._mask.copy()

    def project(self, action: int) -> int:
        """Return the nearest legal action; the wider of two equally near."""
        legal = np.flatnonzero(self._mask)
        return int(legal[np.argmin(np.abs(legal - action))])

    def preview(self, action: int) -> Widths | None:
        """Return the plan that ``action`` would finish, None if the episode goes on after it."""
        if len(self._chosen) + 1 < self.steps:
            return None
        return self._plan([*self._chosen, self._width(self.project(action))])

    def _width(self, action: int) -> int:
        step = len(self._chosen)
        return self.space.options[step][self._actions[step].index(action)]

    def _plan(self, chosen: Sequence[int]) -> Widths:
        return self.space.canonical(self.space.complete(chosen, self._full))

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Choose the next group's width. Raises OutOfEvaluations if the finished plan may not be evaluated."""
        if len(self._chosen) == self.steps:
            raise ResetNeeded("this episode is over; call reset() first")
        done = self.project(int(action))
        self._last, self._projected = done, done != int(action)
        self._chosen.append(self._width(done))
        self._look()
        info: dict[str, Any] = {"action": done}
        if len(self._chosen) < self.steps:
            return self._observe(), 0.0, False, False, info
        widths = self._plan(self._chosen)
        score = self.account.scores([widths])[0]
        info |= {"widths": widths, "score": score}
        reward = min(max((score - self.reference) / self.scale, -_CLIP), _CLIP)
        return self._observe(), reward, True, False, info

    def walk(self, widths: Widths) -> list[int]:
        """Return the actions of an episode that ends in ``widths`` (which must be options of this space)."""
        choices = self.space.choices(self.space.canonical(widths))
        return [actions[options.index(width)]
                for actions, options, width in zip(self._actions, self.space.options, choices, strict=True)]

    def _observe(self) -> NDArray[np.float32]:
        step = len(self._chosen)
        least = self.space.share(self.space.complete(self._chosen, self._floor))
        most = self.space.share(self.space.complete(self._chosen, self._full))
        kept = [w / options[0] for w, options in zip(self._chosen, self.space.options, strict=False)]
        over = step == self.steps
        dynamic = [
            2.0 * least - 1.0,
            math.tanh(most - 1.0),
            # How far between all-least and all-full the rest may lie.
            (1.0 - least) / max(most - least, 1e-9) * 2.0 - 1.0,
            2.0 * self._last / _DROP_ACTION - 1.0,
            1.0 if self._last == _DROP_ACTION else 0.0,
            1.0 if self._projected else 0.0,
            2.0 * self._budget - 1.0,
            2.0 * (sum(kept) / step if step else 1.0) - 1.0,
            sum(width == DROP for width in self._chosen) / max(step, 1),
            0.0 if over or not self.space.skipped(self._chosen) else 1.0,
            2.0 * self._mask.sum() / ACTIONS - 1.0,
            0.0 if over else 2.0 * int(self._mask.argmax()) / _DROP_ACTION - 1.0,
        ]
        static = [1.0] + [0.0] * (_STATIC - 1) if over else self._static[step]
        return np.clip(np.array(static + dynamic, np.float32), -1.0, 1.0)


def _describe(space: Space, step: int) -> list[float]:
    """Return what does not change about a free group: position (line and waves), shape of its first layer, shares."""
    index = space.free[step]
    group = space.cost.groups[index]
    position = step / len(space.free)
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
        2.0 * min(shares[aim], 1.0) - 1.0,
        2.0 * shares["parameters"] - 1.0,
    ]
