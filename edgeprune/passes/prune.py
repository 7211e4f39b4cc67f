"""prune: DepGraph structural pruning by a fixed ratio, or, as the default pipeline uses it, of dead channels only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from edgeprune import importance, surgery
from edgeprune.errors import UnmetRequirement
from edgeprune.groups import CostModel, Group, Plan, Widths, plan_of, uniform
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.recalibration import follow
from edgeprune.tracing import trace
from edgeprune.trials import agree


@dataclass(frozen=True)
class Prune(Pass[TorchModel, TorchModel]):
    """Remove channels by importance: the same share of every group, or the least important ones of the whole model.

    ``ratio`` is the fraction of channels *removed*, in [0, 1); 0 removes only what is dead (filters that are exactly
    zero, or that nobody reads). ``scope`` ``uniform`` takes it from every group, ``global`` compares scores across
    groups. ``steps`` > 1 goes there iteratively, scoring again after each. Kept counts come from the target's ladder.
    Where more than dead channels go, batch norms are re-estimated on the first ``recalibration`` of the task's
    calibration images, so that who looks at them next is not misled by what they were. A ratio that removes nothing is
    an error; finding nothing dead is a result.
    """

    name = "prune"
    takes = TorchModel
    gives = TorchModel

    ratio: float = 0.0
    scope: Literal["uniform", "global"] = "uniform"
    criterion: str = "l2"
    steps: int = 1
    recalibration: int = 1024

    def __post_init__(self) -> None:
        importance.require_known(self.criterion)
        if not 0.0 <= self.ratio < 1.0:
            raise ValueError(f"ratio is the fraction of channels removed, in [0, 1), not {self.ratio}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.recalibration < 0:
            raise ValueError(f"recalibration must not be negative, not {self.recalibration}")

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        """Return the smaller model."""
        multiples = tuple(ctx.board.channel_multiples.values())
        before = trace(model, multiples)
        if self.ratio == 0.0:
            result, removed = _without_dead(model, before)
        else:
            result = model
            for step in range(1, self.steps + 1):
                result = self._step(result, ctx, 1.0 - self.ratio * step / self.steps, before)
            removed = model.parameters() - result.parameters()
            if removed == 0:
                raise UnmetRequirement(
                    f"pruning {self.ratio:.0%} removed nothing: {_why_nothing(before)}; "
                    f"`edgeprune inspect` lists every group"
                )
            if ctx.task is not None and ctx.task.name != "synthetic":
                kept = surgery.since(model.surgery, result.surgery).kept
                follow(result.module, model.module, kept, ctx.task.calibration_batches(), self.recalibration)
        ctx.record("removed_parameters", removed)
        ctx.record("locked", {g.name: g.locked for g in before.groups if g.locked})
        return result

    def _step(self, model: TorchModel, ctx: Context, keep: float, original: CostModel) -> TorchModel:
        """Cut to ``keep`` of the *original's* channels, wherever an earlier step has already got to."""
        cost = trace(model, tuple(ctx.board.channel_multiples.values()))
        first = {g.name: g.channels for g in original.groups}
        scores = importance.scores(model, cost.groups, self.criterion, ctx.task, ctx.seed)
        if self.scope == "global":
            widths = _global(cost.groups, scores, keep, sum(g.channels for g in original.groups if len(g.ladder) > 1))
        else:
            widths = tuple(uniform([g], keep * first.get(g.name, g.channels) / g.channels)[0] for g in cost.groups)
        return surgery.apply(model, cost.groups, plan_of(cost.groups, widths, scores))


def _global(groups: Sequence[Group], scores: importance.Scores, keep: float, total: int) -> Widths:
    """Return widths that keep the best ``keep`` of ``total`` channels by score, each rounded up to a rung.

    Of equal scores the earlier group's stay: a threshold would keep them all, and nothing goes from a net whose
    batch norms all start at 1.
    """
    free = [g for g in groups if len(g.ladder) > 1]
    owner = np.repeat(np.arange(len(free)), [g.channels for g in free])
    pooled = np.concatenate([np.zeros(0), *(scores[g.name] for g in free)])
    best = np.argsort(-pooled, kind="stable")[: max(1, round(keep * total))]
    wanted = dict(zip((g.name for g in free), np.bincount(owner[best], minlength=len(free)).tolist(), strict=True))
    return tuple(min((r for r in g.ladder if r >= wanted.get(g.name, g.channels)), default=g.channels) for g in groups)


def _without_dead(model: TorchModel, cost: CostModel) -> tuple[TorchModel, int]:
    """Remove dead channels, group by group, keeping a cut only if the outputs stay what they were."""
    plan: Plan = ()
    for group in cost.groups:
        if len(group.ladder) < 2:
            continue
        gone = importance.dead(model.module, group)
        live = np.array([0.0 if c in gone else 1.0 for c in range(group.channels)])
        width = min((r for r in group.ladder if r >= max(1, int(live.sum()))), default=group.channels)
        if width == group.channels:
            continue
        trial = (*plan, *plan_of([group], [width], {group.name: live}))
        if _same(model, surgery.apply(model, cost.groups, trial)):
            plan = trial
    if not plan:
        return model, 0
    result = surgery.apply(model, cost.groups, plan)
    return result, model.parameters() - result.parameters()


def _same(model: TorchModel, smaller: TorchModel) -> bool:
    with torch.no_grad():
        return agree(model.module(*model.inputs), smaller.module(*model.inputs))


def _why_nothing(cost: CostModel) -> str:
    locked = [g for g in cost.groups if g.locked]
    if len(locked) == len(cost.groups):
        return f"all {len(locked)} groups are locked, the first because {locked[0].locked}"
    return "the ratio is smaller than one rung of every group's ladder"
