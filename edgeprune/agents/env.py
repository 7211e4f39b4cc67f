"""The one environment every learning agent works in: book-keeping over plans, with no torch in it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from edgeprune.agents.actions import ACTIONS
from edgeprune.agents.base import Account, Evaluator
from edgeprune.agents.observation import OBSERVATIONS, Moment
from edgeprune.agents.reward import Ended, Reward
from edgeprune.agents.space import Space
from edgeprune.errors import UnmetRequirement
from edgeprune.groups import DROP, Widths

_STRETCH = 10.0
"""Rewards further out grow by their logarithm: no single one drowns the others, and none are made equal."""


@dataclass(frozen=True)
class Rules:
    """How an episode is played: what can be done, what is seen, and what is paid.

    ``original`` is the original's score, and ``inputs`` are the mean and variance of what it is given, for rewards and
    observations that speak of them.
    """

    actions: str = "ladder"
    observation: str = "full"
    reward: Reward = field(default_factory=Reward)
    original: float = 1.0
    inputs: tuple[float, float] = (0.0, 1.0)

    @property
    def energetic(self) -> bool:
        """Whether a tally of energy is needed."""
        return self.reward.form.energy is not None or OBSERVATIONS[self.observation].wants_energy


class SparsityEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Episodes over the free groups of ``space`` by ``rules``; γ is 1, and the reward comes at the end.

    The action wall makes every episode feasible: an illegal action is replaced by the nearest legal one (the wider of
    two), and what was done is in ``info["action"]`` and in the next observation. Reward: x = (value − ``reference``) /
    ``scale``, or ±(10 + ln(|x| / 10)) where that is beyond ±10; the usual value of a plan is its score. A reward as a
    paper prints it is paid as it is, and one that is paid by the step as what each step adds. ``info`` of the last step
    carries ``widths`` and ``score``.

    By the usual rules there is one step a free group in topological order, each choosing a rung; a group inside a block
    dropped earlier takes a step whose only legal action is 0. The observation is float32 in [-1, 1]: where the episode
    stands, what the group is (channels, kernel, stride, resolution, share of MACs and parameters; of latency or energy
    instead of MACs where the ceiling is on that), and how the plan so far lies to the ceilings.

    Raises UnmetRequirement where the rules go by energy and no tally tells it, BadOption for a reward's weights by
    layer of another number of layers.
    """

    def __init__(self, space: Space, evaluator: Evaluator, *, scale: float | None = None, reference: float = 0.0,
                 account: Account | None = None, rules: Rules | None = None) -> None:
        self.space, self.evaluator, self.rules = space, evaluator, rules or Rules()
        self.scale = self.rules.reward.form.scale if scale is None else scale
        self.reference = reference
        self.account = account or Account(space, evaluator, "environment", evaluator.limit)
        if self.rules.energetic and "energy" not in space.cost.full:
            raise UnmetRequirement(
                f"reward {self.rules.reward.name} with observation {self.rules.observation} goes by energy, and no "
                "tally tells it"
            )
        self._require_layers(self.rules.reward)
        self.actions = ACTIONS[self.rules.actions](space)
        energetic = self.rules.reward.form.energy is not None
        self._observation = OBSERVATIONS[self.rules.observation](self.actions, energetic, self.rules.inputs)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (self._observation.size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.actions.count)
        self.steps = self.actions.steps
        self._score: float | None = None
        self._restart()

    def twin(self, account: Account, reference: float | None = None) -> SparsityEnv:
        """Return another environment over the same space whose evaluations go through ``account``."""
        other = copy.copy(self)
        other.account = account
        other.reference = self.reference if reference is None else reference
        other._score = None
        other._restart()
        return other

    def paying(self, reward: Reward) -> SparsityEnv:
        """Return another environment that differs in its reward, which must go by energy as this one's does or not.

        Raises BadOption for weights by layer of another number of layers.
        """
        self._require_layers(reward)
        other = self.twin(self.account)
        other.rules, other.scale = replace(self.rules, reward=reward), reward.form.scale
        return other

    def _require_layers(self, reward: Reward) -> None:
        reward.require_layers(sum(not self.space.cost.groups[at].lowers for at in self.space.free))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode. There is no chance here; a seed makes the environment forget the episodes before."""
        super().reset(seed=seed)
        if seed is not None:
            self._score = self.rules.original
        self._restart()
        return self._observe(), {}

    def _restart(self) -> None:
        self._step, self._state = 0, self.actions.begin()
        self._last, self._projected = 0, False
        self._worth: float | None = None
        self._look()

    def _look(self) -> None:
        """Work out the mask of the step ahead, from which options and projections follow."""
        over = self._step == self.steps
        self._mask = np.zeros(self.actions.count, bool) if over else self.actions.legal(self._state, self._step)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal now, shape (actions,); never empty within an episode."""
        return self._mask.copy()

    def project(self, action: int) -> int:
        """Return the nearest legal action; the wider of two equally near."""
        legal = np.flatnonzero(self._mask)
        return int(legal[np.argmin(np.abs(legal - action))])

    def preview(self, action: int) -> Widths | None:
        """Return the plan that the step of ``action`` would have scored, None if it scores none."""
        if self._step + 1 < self.steps and not self.rules.reward.form.stepwise:
            return None
        return self.actions.plan(self.actions.after(self._state, self._step, self.project(action)))

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Treat the next group. Raises OutOfEvaluations if a plan may not be evaluated that has to be."""
        if self._step == self.steps:
            raise ResetNeeded("this episode is over; call reset() first")
        done = self.project(int(action))
        stepwise = self.rules.reward.form.stepwise
        if stepwise and self._worth is None:
            begun = self.actions.plan(self._state)
            self._worth = self.value(begun, self.account.scores([begun])[0])
        self._last, self._projected = done, done != int(action)
        self._state = self.actions.after(self._state, self._step, done)
        self._step += 1
        self._look()
        info: dict[str, Any] = {"action": done}
        over = self._step == self.steps
        if not over and not stepwise:
            return self._observe(), 0.0, False, False, info
        widths = self.actions.plan(self._state)
        score = self._score = self.account.scores([widths])[0]
        reward = self._paid(self.value(widths, score))
        if over:
            info |= {"widths": widths, "score": score}
        return self._observe(), reward, over, False, info

    def value(self, widths: Widths, score: float) -> float:
        """Return what a plan is worth by the rules' reward, before it is centred and scaled."""
        if self.rules.reward.name == "constrained":
            return score
        costs, full = self.space.costs(widths), self.space.cost.full
        shares = {quantity: cost / max(full[quantity], 1e-12) for quantity, cost in costs.items()}
        groups = self.space.cost.groups
        dropped = {group.block for group, width in zip(groups, widths, strict=True) if width == DROP}
        removed = tuple(1.0 if groups[i].inside in dropped - {None} else 1.0 - widths[i] / groups[i].channels
                        for i in self.space.free if not groups[i].lowers)  # fmt: skip
        energy = {"energy_mj": costs["energy"]} if "energy" in costs else {}
        return self.rules.reward.value(Ended(score, self.rules.original, shares, removed, **energy))

    def _paid(self, value: float) -> float:
        if self.rules.reward.form.stepwise:
            before, self._worth = self._worth, value
            assert before is not None
            return value - before
        if self.rules.reward.form.verbatim:
            return value
        paid = (value - self.reference) / self.scale
        return paid if abs(paid) <= _STRETCH else math.copysign(_STRETCH + math.log(abs(paid) / _STRETCH), paid)

    def walk(self, widths: Widths) -> list[int]:
        """Return the actions of an episode that ends in ``widths`` (options of this space), or near them where the
        action space does not lead there.
        """
        return self.actions.walk(widths)

    def reached(self, widths: Widths) -> Widths:
        """Return the plan that ``walk`` ends in."""
        state = self.actions.begin()
        for step, action in enumerate(self.walk(widths)):
            state = self.actions.after(state, step, action)
        return self.actions.plan(state)

    def _observe(self) -> NDArray[np.float32]:
        score = self._score
        if score is None:
            score = self.evaluator.history[-1][2] if self.evaluator.history else self.rules.original
        return self._observation.see(
            Moment(self._step, self._state, self._last, self._projected, self._mask, score)
        )
