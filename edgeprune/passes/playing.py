"""What a search's options mean for its episodes, and what the report is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgeprune.agents import actions, observation
from edgeprune.agents.base import Evaluator, Trace
from edgeprune.agents.env import Rules
from edgeprune.agents.reward import Reward
from edgeprune.agents.space import Space
from edgeprune.errors import UnmetRequirement
from edgeprune.passes.base import Context
from edgeprune.recalibration import first_images
from edgeprune.report import GridRow, LearningRow
from edgeprune.tally import Tally

_LOOKED_AT = 64
"""Images whose mean and variance are the inputs'."""


def require_known(names: tuple[str, str], ratio: float) -> None:
    """Raise BadOption for unknown actions or an unknown observation, ValueError for a ratio out of range."""
    actions.require_known(names[0])
    observation.require_known(names[1])
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio must lie in (0, 1), not {ratio:g}")


def require_energy(rules: Rules, tallies: Sequence[Tally], granularity: str) -> None:
    """Raise UnmetRequirement where the rules go by energy and nothing tells it."""
    if rules.energetic and not any(tally.quantity == "energy" for tally in tallies):
        why = "and it is told of channels alone" if granularity != "channel" else "and no tally tells it"
        raise UnmetRequirement(f"reward {rules.reward.name} with observation {rules.observation} goes by energy, {why}")


def informed(rules: Rules, ctx: Context, space: Space, evaluator: Evaluator) -> Rules:
    """Return the rules with what they may speak of: the original's score, and what its inputs look like.

    The usual rules speak of neither. Where the build does not know the original's score, one evaluation tells it.
    """
    if rules.reward.name == "constrained" and rules.observation == "full":
        return rules
    if ctx.baseline is not None:
        original = ctx.baseline.value
    else:
        original = evaluator.scores([space.full()], "original")[0] if evaluator.left > 1 else 1.0
    inputs = rules.inputs
    if ctx.task is not None and ctx.task.name != "synthetic":
        images = first_images(ctx.task.calibration_batches(), _LOOKED_AT)
        if images:
            looked_at = torch.cat(images)
            inputs = float(looked_at.mean()), float(looked_at.var())
    return Rules(rules.actions, rules.observation, rules.reward, original, inputs)


def facts(rules: Rules, warm: bool, rewards: Sequence[Reward], traces: Sequence[Trace], target: float
          ) -> Mapping[str, Any]:  # fmt: skip
    """Return what the report is told: the rules, how learning went, and what each reward of a grid found."""
    grid = [
        GridRow(reward=str(reward), target=target, evaluations=trace.spent,
                best=trace.best.score if trace.best else None)
        for reward, trace in zip(rewards, traces, strict=True)
    ]
    curve = [
        LearningRow(
            searcher=trace.searcher, reward=str(reward), target=target, evaluations=lesson.evaluations,
            episodes=lesson.episodes, mean_reward=lesson.reward, imagined=lesson.imagined, best=lesson.best,
        )
        for reward, trace in zip(rewards, traces, strict=True) for lesson in trace.curve
    ]  # fmt: skip
    told = {"actions": rules.actions, "observation": rules.observation, "reward": str(rewards[0]), "warm": warm}
    return {"rules": told, "curve": curve, "reward_grid": grid if len(rewards) > 1 else []}
