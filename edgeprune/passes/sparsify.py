"""sparsify: let an agent choose how much of every group goes, and be honest about what it added to its warm start."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from edgeprune import find, importance, layers
from edgeprune.agents import actions, warm
from edgeprune.agents.base import Agent, Evaluator, Space, Trace, widths_of
from edgeprune.agents.env import Rules, SparsityEnv
from edgeprune.agents.reward import Reward, rewards
from edgeprune.errors import UnmetRequirement
from edgeprune.groups import CostModel, Group, Widths, aligned, plan_of
from edgeprune.mixed import parted, tallied
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes import criteria, finalists, playing, recording
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.criteria import Arranged, Measured
from edgeprune.passes.finalists import Settle
from edgeprune.passes.halving import Halving
from edgeprune.passes.judging import IMAGES, OBJECTIVES, Judge
from edgeprune.passes.ways import ARITHMETICS, Arithmetic
from edgeprune.profiles.board import Board
from edgeprune.report import Objective
from edgeprune.surgery import resolve
from edgeprune.tally import Tally
from edgeprune.tasks.base import Task
from edgeprune.tracing import trace

Granularity = Literal["channel", "element", "2:4"]
Told = Mapping[str, Mapping[str, float]]
"""True scores of plans by their key, by the name of all that decides them."""


@dataclass(frozen=True)
class Sparsify(Pass[TorchModel, TorchModel]):
    """Search a plan under absolute ceilings and apply it.

    ``limits`` are (quantity, ceiling) pairs on ``macs``, ``parameters`` or what ``tallies`` tell of the target, held by
    the action wall. ``evaluations`` counts every true evaluation of this search: those of the baselines that make the
    warm start, and the sensitivity table two of them share, included. An evaluation cuts the model, re-estimates its
    batch norms on the first ``recalibration`` of the task's calibration images (a classifier has 256) and runs
    ``images`` images of the search split (None: 2000, or 256 by agreement); evaluations run in parallel, one thread
    each, in bf16 where ``arithmetic`` is ``auto``, the processor has it and the model's outputs do not suffer by it.

    ``criterion`` says which channels of a group go first; ``auto`` takes the better of two by two evaluations each,
    which are among those of the search (see ``edgeprune.passes.criteria``). ``objective`` is what an evaluation tells
    of a plan: the task's score (``metric``), or ``agreement``, how near its outputs stay to the original's, by the
    distance that distillation minimises, of which few images tell more. A reward that weighs accuracy against cost is
    told the metric in any case.

    The best ``finalists`` plans (one for each ten evaluations at most) are scored by the metric on more and more images
    that the search did not look at, until it is clear which is the best or all are scored; no new plan is among them.
    Where a search by the metric leaves less than half as many images, its own scores stand. With ``halving`` the
    finalists are trained for so many epochs (0.25 is a quarter of one), the better half of them for twice as many, and
    so on to the last, by ``training``, a pass that trains for one epoch, however long; eight finalists at a quarter of
    an epoch cost six epochs in all.

    ``aligned`` offers only widths at the target's widest channel multiple, for goals on the clock. A learning agent
    is started from the best plans of uniform, a global ranking, random, greedy and knapsack.

    With ``reconstruction`` every plan's layers that lost inputs get the weights of least squares towards the original's
    outputs on training images, before batch norms are re-estimated (He et al., 2017): for builds that cannot train, at
    about twice the time an evaluation.

    With ``mixed`` a plan also says which groups stay in float where others become int8: a second phase of the same
    episode, aimed at a latency table of both (see ``edgeprune.mixed``). Plans are then scored as they compute in int8,
    and ``quantize`` lowers no layer that the plan left in float.

    ``granularity`` says what goes: whole channels, single weights of every layer (``element``), or two of every four
    (``2:4``). Masks go by the weights' magnitude alone, so ``criterion`` and ``aligned`` mean nothing to them; limits
    are then on what is not zero, while the artifact computes with the zeros too.

    ``actions``, ``observation`` and ``reward`` say how a learning agent's episodes are played (see the files of
    edgeprune/agents); ``reward_weights`` are the reward's, such as ``a=1,b=0.5``, ``reward_grid`` several to try, such
    as ``b=0.05|0.2``, and ``ratio`` is what ``keep-or-prune`` takes. The reward trains the agent; the plan that is
    taken is the best true score under the ceilings that the agent or what it was started from came to. Without ``warm``
    a learning agent starts from nothing but the plans that told the criterion, and not from ``earlier`` either.

    ``earlier`` is what other searches of this build were told under other ceilings (their fact ``asked``): whatever
    predicts scores learns from those too, as far as they were come to in the same way.
    """

    name = "sparsify"
    takes = TorchModel
    gives = TorchModel

    agent: Agent = field(default_factory=lambda: find.find("agents", "ppo")())
    evaluations: int = 100
    limits: tuple[tuple[str, float], ...] = ()
    criterion: str = criteria.AUTO
    recalibration: int = 1024
    images: int | None = None
    finalists: int = 8
    halving: float = 0.0
    training: Pass[TorchModel, TorchModel] | None = None
    aligned: bool = False
    granularity: Granularity = "channel"
    tallies: tuple[Tally, ...] = ()
    arithmetic: Arithmetic = "auto"
    objective: Objective = "metric"
    actions: str = "ladder"
    observation: str = "full"
    reward: str = "constrained"
    reward_weights: str = ""
    reward_grid: str = ""
    ratio: float = 0.3
    reconstruction: bool = False
    warm: bool = True
    mixed: bool = False
    earlier: Told = field(default_factory=dict)

    def __post_init__(self) -> None:
        criteria.require_known(self.criterion)
        for option, least in (("evaluations", 1), ("recalibration", 0), ("images", 1), ("finalists", 1)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise ValueError(f"{option} must be at least {least}, not {value}")
        if self.mixed and (self.granularity != "channel" or not self.recalibration):
            raise ValueError("mixed wants granularity=channel, and recalibration above 0 for the ranges of int8")
        if self.halving < 0.0:
            raise ValueError(f"halving is a number of epochs, or part of one, and not negative, not {self.halving}")
        if self.granularity not in get_args(Granularity):
            raise ValueError(f"granularity {self.granularity!r} is not one of {', '.join(get_args(Granularity))}")
        if self.arithmetic not in ARITHMETICS:
            raise ValueError(f"arithmetic {self.arithmetic!r} is not one of {', '.join(ARITHMETICS)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is not one of {', '.join(OBJECTIVES)}")

        playing.require_known((self.actions, self.observation), self.ratio)
        self.rewards()

    def rewards(self) -> tuple[Reward, ...]:
        """Return the reward, or each of the grid's."""
        return rewards(self.reward, self.reward_weights, self.reward_grid)

    def scoring(self, judge: Judge) -> str:
        """Return what decides a plan's score beside the model, the data, what channels are ranked by and, where a plan
        chooses precisions, those choices.
        """
        reconstructed = "-reconstructed" if self.reconstruction else ""
        objective = "" if judge.objective == "metric" else f"-{judge.objective}"
        return f"{self.recalibration}-{judge.images}-{judge.way}{reconstructed}{objective}"

    def aims_at(self, task: Task) -> Objective:
        """Return what plans are searched by: the objective, but the metric where the reward weighs it against cost, and
        on synthetic images, whose metric is agreement already.
        """
        weighed = any(reward.name != "constrained" for reward in self.rewards())
        return "metric" if weighed or task.name == "synthetic" else self.objective

    def looks_at(self, objective: Objective) -> int:
        """Return how many images of the search split plans are searched by, where there are as many."""
        return IMAGES[objective] if self.images is None else self.images

    def rules(self) -> Rules:
        """Return how an episode is played, as far as the options tell."""
        return Rules(self.actions, self.observation, self.rewards()[0])

    def offering(self, cost: CostModel) -> CostModel:
        """Return the same costs with the widths that the action space can spell."""
        return actions.offering(cost, self.actions, self.ratio)

    def rows(self, model: TorchModel, board: Board) -> CostModel:
        """Return what the search chooses about, with its cost algebra: groups of channels, or layers."""
        if self.granularity != "channel":
            return layers.rows(model, self.granularity)
        cost = trace(model, tuple(board.channel_multiples.values()))
        return tallied(cost, self.tallies)

    def ranking(self, model: TorchModel, groups: Sequence[Group], task: Task | None, seed: int) -> importance.Scores:
        """Return which channels of each group matter least by the criterion, which is not ``auto`` here; nothing for
        masks, whose weights tell it themselves.
        """
        if self.granularity != "channel":
            return {}
        return importance.scores(model, [g for g in groups if not g.lowers], self.criterion, task, seed)

    def arranged(self, criterion: str, model: TorchModel, cost: CostModel, ctx: Context) -> Arranged:
        """Return the ranking by a criterion, and who judges plans that go by it."""
        assert ctx.task is not None
        ranking = replace(self, criterion=criterion).ranking(model, cost.groups, ctx.task, ctx.seed)
        objective = self.aims_at(ctx.task)
        judge = Judge(
            model, cost.groups, ranking, ctx, self.surgery, images=self.looks_at(objective),
            recalibration=self.recalibration, arithmetic=self.arithmetic, objective=objective, total=self.evaluations,
            reconstruction=self.reconstruction, lowered=self._lowered() if self.mixed else None,
        )
        by = criterion if self.granularity == "channel" else self.granularity
        name = f"{model.digest()}-{by}-{self.scoring(judge)}{self._choices(cost, ctx)}"
        # Sorted: a cached pass tells its facts in another order, and what is learnt must not depend on that.
        told = self.earlier.get(name, {}) if self.warm else {}
        earlier = {widths_of(plan): score for plan, score in sorted(told.items())}
        evaluator = Evaluator(judge.scores, self.evaluations, ctx.journal(f"plans-{name}"), earlier)
        return Arranged(criterion, ranking, judge, name, evaluator)

    def measured(self, model: TorchModel, space: Space, ctx: Context) -> Measured:
        """Return the criterion: the one asked for, or the better of several by two evaluations each."""
        told = ctx.task is not None and ctx.task.name != "synthetic"
        names = criteria.candidates(self.criterion, self.evaluations, told)
        if self.granularity != "channel":
            names = names[:1]
        return criteria.measure(names, lambda name: self.arranged(name, model, space.cost, ctx), space)

    def surgery(
        self, model: TorchModel, groups: Sequence[Group], widths: Widths, ranking: importance.Scores
    ) -> Surgery:
        """Return what a plan over ``rows`` does to ``model``."""
        if self.granularity != "channel":
            return Surgery(masks=layers.chosen(model.module, groups, widths))
        channels, kept, floating = parted(groups, widths)
        cuts = resolve(model.module, channels, plan_of(channels, kept, ranking))
        return replace(cuts, floating=floating) if self.mixed else cuts

    def settling(self, judge: Judge, ctx: Context, name: str) -> Settle:
        """Return what has the last word on the order of the finalists; ``name`` tells all that decides their cuts."""
        if not self.halving or self.training is None:
            return lambda ranked: ranked
        return Halving(judge.cut, self.training, judge.finished, self.halving, ctx, name).ranked

    def _lowered(self) -> frozenset[str] | None:
        """Return what plans may lower, by a quantity that is limited and told in both precisions; None without one."""
        limited = {quantity for quantity, _ in self.limits}
        told = (one.lowered for one in self.tallies if one.floating is not None and one.quantity in limited)
        return next(told, None)

    def _choices(self, cost: CostModel, ctx: Context) -> str:
        """Return what decides a mixed plan's score besides: the target's int8, and what each of its choices lowers."""
        if not self.mixed:
            return ""
        lowers = [group.lowers for group in cost.groups if group.lowers]
        told = repr((ctx.board.int8, sorted(self._lowered() or ()), lowers))
        return f"-rounded-{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def requires(self, model: TorchModel, ctx: Context) -> None:
        """Raise UnmetRequirement when there is nothing to score plans by, or no ceiling to search under."""
        if ctx.task is None:
            raise UnmetRequirement("a search needs a task to score its plans; give --data")
        if not self.limits:
            raise UnmetRequirement("a search needs a ceiling on macs, parameters or what a table tells")
        if self.reconstruction and (self.granularity != "channel" or ctx.task.name == "synthetic"):
            raise UnmetRequirement(
                "reconstruction is for channels that go, and needs real data: give --data, and granularity=channel"
            )
        if self.mixed and (ctx.task.name == "synthetic" or ctx.board.int8 is None or self._lowered() is None):
            raise UnmetRequirement(
                "mixed chooses where int8 pays: give --data, a target with int8, --table, and a ceiling on its latency"
            )
        if self.halving and (self.training is None or ctx.task.name == "synthetic"):
            raise UnmetRequirement(
                "halving trains finalists: give --data, and from Python training=Finetune(epochs=1) with it"
            )
        if self.granularity != "channel" and model.surgery.masks:
            raise UnmetRequirement("this model is masked already; let one search choose all of its masks")
        playing.require_energy(self.rules(), self.tallies, self.granularity)

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        """Return the model cut by the best plan found, its batch norms re-estimated."""
        cost = self.rows(model, ctx.board)
        if self.aligned and self.granularity == "channel":
            cost = aligned(cost, ctx.board.widest_multiple)
        cost = self.offering(cost)
        space = Space(cost, dict(self.limits))
        measured = self.measured(model, space, ctx)
        by, judge, evaluator = measured.taken, measured.taken.judge, measured.taken.evaluator
        space = replace(space, importance=by.ranking)
        ctx.record("criterion", by.criterion if self.granularity == "channel" else None)
        ctx.record("arithmetic", str(judge.way))
        ctx.record("objective", judge.objective)
        started = time.perf_counter() - evaluator.seconds  # what it evaluated for the criterion is the search's own
        with judge.running():
            rules = playing.informed(self.rules(), ctx, space, evaluator)
            env = SparsityEnv(space, evaluator, rules=rules)
            baselines, found = warm.searches(
                self.agent, env, ctx.seed, self.rewards(),
                lambda one: ctx.progress.note(_line(one, judge.objective)), self.warm,
            )
        seconds = time.perf_counter() - started
        settle = self.settling(judge, ctx, by.name)
        elected = finalists.elect(judge, baselines, found, self.finalists, self.evaluations, settle)
        if elected is None:
            raise UnmetRequirement(
                f"{self.evaluations} evaluations found no plan under the ceiling; raise --evaluations"
            )
        best = elected.widths
        recording.record(ctx, space, measured, baselines, found, elected, seconds)
        target = next(iter(space.limits.values())) / cost.full[next(iter(space.limits))]
        for name, value in playing.facts(rules, self.warm, self.rewards(), found, target).items():
            ctx.record(name, value)
        plan = recording.group_rows(cost, best)
        if self.granularity != "channel":
            plan = [recording.in_weights(row, model, group) for row, group in zip(plan, cost.groups, strict=True)]
        ctx.record("plan", plan)
        ctx.record("granularity", self.granularity)
        return judge.cut(best)


def _line(found: Trace, objective: Objective) -> str:
    what = "agreement " if objective == "agreement" else ""
    best = f"best {what}{found.best.score:.4f}" if found.best else "no feasible plan"
    return f"{found.searcher}: {found.spent} evaluations, {best}"
