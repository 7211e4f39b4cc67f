"""What every searcher meets: the space with its action wall, the shared evaluator, and the trace it leaves. No torch here.

    Agent.search ── explore ──> Account.scores ──> Evaluator.scores ──> score (the driver's), memo (the driver's journal)
                                       └──> Trace
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from edgeprune.errors import BadModel, BadOption, Infeasible, UnmetRequirement
from edgeprune.groups import DROP, CostModel, Widths, canonical

if TYPE_CHECKING:
    from edgeprune.agents.env import SparsityEnv

_WORDS = {"macs": "MACs", "parameters": "parameters"}


@dataclass(frozen=True, eq=False)
class Space:
    """Every plan a search may propose: options of the free groups, under absolute ceilings on ``macs`` or ``parameters``.

    Widths name every group of ``cost``; *choices* name the free ones alone (those with more than one option), in the same
    order. The cost of a plan must not fall when a width grows, which holds for the cost algebra.

    Raises UnmetRequirement if no group is free, BadOption for a quantity the algebra does not know, and Infeasible, naming
    the reachable range, if the smallest plan breaks a ceiling.
    """

    cost: CostModel
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        for quantity in self.limits:
            if quantity not in self.cost.full:
                raise BadOption(f"a search cannot limit {quantity}; it can limit {', '.join(self.cost.full)}")
        if not self.free:
            raise UnmetRequirement("no group of this model can be pruned; `edgeprune inspect` says why for each of them")
        smallest = self.cost.cost(self.minimum())
        for quantity, limit in self.limits.items():
            if smallest[quantity] > limit:
                full, word = self.cost.full[quantity], _WORDS[quantity]
                reach = math.ceil(1000 * smallest[quantity] / full) / 1000
                raise Infeasible(
                    f"the ceiling of {limit:.4g} {word} ({limit / full:.3f}x of the original's) is out of reach: the smallest "
                    f"reachable is {reach:.3f}x of the original's {word}; set --max-{quantity} to {reach:.3f}x or more"
                )

    @cached_property
    def free(self) -> tuple[int, ...]:
        """Indices of the groups that have a choice, in topological order: the steps of an episode."""
        return tuple(i for i, group in enumerate(self.cost.groups) if len(group.options()) > 1)

    @cached_property
    def options(self) -> tuple[Widths, ...]:
        """The widths on offer at each free group, from the widest to the cheapest (DROP last)."""
        return tuple(self.cost.groups[i].options() for i in self.free)

    @cached_property
    def openers(self) -> tuple[int | None, ...]:
        """For each free group the position in ``free`` of the group that may drop the block around it, or None."""
        opened = {self.cost.groups[i].block: at for at, i in enumerate(self.free) if self.cost.groups[i].block}
        inside = [opened.get(self.cost.groups[i].inside) for i in self.free]
        return tuple(None if at is None or at >= step else at for step, at in enumerate(inside))

    def complete(self, choices: Sequence[int], rest: Widths) -> Widths:
        """Return the widths whose first free groups take ``choices`` and whose other groups stand as in ``rest``."""
        widths = list(rest)
        for i, width in zip(self.free, choices, strict=False):
            widths[i] = width
        return tuple(widths)

    def choices(self, widths: Widths) -> Widths:
        """Return the widths of the free groups alone."""
        return tuple(widths[i] for i in self.free)

    def full(self) -> Widths:
        """Return the original's widths."""
        return tuple(group.channels for group in self.cost.groups)

    def minimum(self) -> Widths:
        """Return the cheapest plan: every free group dropped where that is on offer, else on its lowest rung."""
        return self.complete([options[-1] for options in self.options], self.full())

    def canonical(self, widths: Sequence[int]) -> Widths:
        """Return the one spelling of a plan: groups inside a dropped block stand at full width."""
        return canonical(self.cost.groups, widths)

    def share(self, widths: Sequence[int]) -> float:
        """Return the cost as a share of its ceiling, the largest over the ceilings; at most 1 is feasible."""
        cost = self.cost.cost(widths)
        return max((cost[quantity] / limit for quantity, limit in self.limits.items()), default=0.0)

    def excess(self, widths: Sequence[int]) -> float:
        """Return by how much the ceilings are broken, as the sum of the shares above 1; 0 is feasible."""
        cost = self.cost.cost(widths)
        return sum(max(0.0, cost[quantity] / limit - 1.0) for quantity, limit in self.limits.items())

    def skipped(self, choices: Sequence[int]) -> bool:
        """Whether the next free group lies in a block that ``choices`` already dropped."""
        opener = self.openers[len(choices)]
        return opener is not None and choices[opener] == DROP

    def legal(self, choices: Sequence[int]) -> tuple[bool, ...]:
        """Return the action wall at the next free group: which of its options leave a feasible plan in reach.

        An option is legal iff the choices so far, the option, and everything after at its cheapest fit the ceilings. Costs fall
        along the options, so the first legal one is bisected. Inside a dropped block only full width is legal. At
        least one option is legal as long as the choices before were.
        """
        step = len(choices)
        options = self.options[step]
        if self.skipped(choices):
            return (True,) + (False,) * (len(options) - 1)
        rest = list(self.complete(choices, self._minimum))

        def fits(option: int) -> bool:
            rest[self.free[step]] = options[option]
            return self.share(rest) <= 1.0

        first = bisect_left(range(len(options) - 1), True, key=fits)
        return (False,) * first + (True,) * (len(options) - first)

    @cached_property
    def _minimum(self) -> Widths:
        return self.minimum()


class OutOfEvaluations(Exception):  # noqa: N818  (control flow between a searcher and its account, never an error)
    """Raised when the next new plan may not be evaluated any more; ``scores`` are those of the plans before it."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__("the evaluations of this search are spent")
        self.scores = scores


def key(widths: Widths) -> str:
    """Return the memo's key of canonical widths, such as ``16-8-0-32``."""
    return "-".join(map(str, widths))


class Evaluator:
    """Scores plans for every searcher of one run, and counts the true evaluations: the distinct plans this run asked for.

    ``score`` takes new plans and yields one finite score each, in order, higher is better; the driver evaluates them in
    parallel behind it. ``memo`` is the driver's journal by ``key(widths)``: a score found there costs no time, but counts as
    an evaluation when it is first asked for, so that a resumed run takes the same decisions. Each score is written to
    it as it arrives. ``limit`` is for the whole run.
    """

    def __init__(self, score: Callable[[Sequence[Widths]], Iterable[float]], limit: int,
                 memo: MutableMapping[str, float]) -> None:
        self._score, self._memo, self.limit = score, memo, limit
        self.known: dict[Widths, float] = {}
        self.history: list[tuple[str, Widths, float]] = []
        self.spent: Counter[str] = Counter()
        self.resumed = 0
        self.seconds = 0.0

    @property
    def left(self) -> int:
        """How many evaluations the run still has."""
        return self.limit - len(self.known)

    def scores(self, batch: Sequence[Widths], searcher: str, most: int | None = None) -> list[float]:
        """Return the scores of canonical plans, of which at most ``most`` may be new.

        Raises OutOfEvaluations at the first plan that may not be evaluated, after evaluating those before it, and BadModel for a
        score that is not finite.
        """
        allowed = self.left if most is None else min(most, self.left)
        new = list(dict.fromkeys(plan for plan in batch if plan not in self.known))[:max(allowed, 0)]
        fresh = [plan for plan in new if key(plan) not in self._memo]
        started = time.perf_counter()
        for plan, score in zip(fresh, self._score(fresh) if fresh else (), strict=True):
            if not math.isfinite(score):
                raise BadModel(f"the score of plan {key(plan)} is not finite ({score}); check the task's score")
            self._memo[key(plan)] = float(score)
        self.seconds += time.perf_counter() - started
        self.resumed += len(new) - len(fresh)
        for plan in new:
            self.known[plan] = self._memo[key(plan)]
            self.history.append((searcher, plan, self.known[plan]))
        self.spent[searcher] += len(new)
        answered = next((i for i, plan in enumerate(batch) if plan not in self.known), len(batch))
        found = [self.known[plan] for plan in batch[:answered]]
        if answered < len(batch):
            raise OutOfEvaluations(found)
        return found


@dataclass(frozen=True)
class Asked:
    """One plan a searcher asked for: its score and its share of the ceilings (at most 1 is feasible)."""

    widths: Widths
    score: float
    share: float


@dataclass(frozen=True)
class Trace:
    """What one search did. ``asked`` are its distinct plans in order, those others had paid for included; ``spent`` are its own
    true evaluations. ``best`` is the best feasible plan asked for (the first of equals), None if there is none.
    """

    searcher: str
    asked: tuple[Asked, ...]
    spent: int
    best: Asked | None
    seconds: float = field(compare=False)
    evaluation_seconds: float = field(compare=False)

    @property
    def overhead(self) -> float:
        """The share of the search's time that was not spent evaluating, in [0, 1]."""
        return 1.0 - min(1.0, self.evaluation_seconds / self.seconds) if self.seconds > 0 else 0.0


class Account:
    """One searcher's access to the evaluator: its allowance of new plans and the record of what it asked."""

    def __init__(self, space: Space, evaluator: Evaluator, searcher: str, allowance: int) -> None:
        self.space, self.evaluator, self.searcher, self.allowance = space, evaluator, searcher, allowance
        self.spent, self.evaluation_seconds = 0, 0.0
        self._asked: dict[Widths, Asked] = {}
        self._started = time.perf_counter()

    @property
    def left(self) -> int:
        """How many new plans may still be evaluated here."""
        return max(0, min(self.allowance - self.spent, self.evaluator.left))

    def affordable(self, plans: Sequence[Widths], reserve: int = 0) -> list[Widths]:
        """Return the longest run of leading plans whose evaluation leaves ``reserve`` evaluations over."""
        new: set[Widths] = set()
        for i, plan in enumerate(map(self.space.canonical, plans)):
            if plan not in self.evaluator.known and len(new | {plan}) > self.left - reserve:
                return list(plans[:i])
            if plan not in self.evaluator.known:
                new.add(plan)
        return list(plans)

    def scores(self, batch: Sequence[Widths]) -> list[float]:
        """Return the scores of plans, evaluated together; raises OutOfEvaluations once the allowance is spent."""
        plans = [self.space.canonical(widths) for widths in batch]
        known, before = len(self.evaluator.known), self.evaluator.seconds
        try:
            found = self.evaluator.scores(plans, self.searcher, self.left)
        except OutOfEvaluations as out:
            found = out.scores
            raise
        finally:
            self.spent += len(self.evaluator.known) - known
            self.evaluation_seconds += self.evaluator.seconds - before
            for plan in plans:
                if plan in self.evaluator.known and plan not in self._asked:
                    self._asked[plan] = Asked(plan, self.evaluator.known[plan], self.space.share(plan))
        return found

    def trace(self) -> Trace:
        """Return what was done so far."""
        feasible = [asked for asked in self._asked.values() if asked.share <= 1.0]
        best = max(feasible, key=lambda asked: asked.score, default=None)
        seconds = time.perf_counter() - self._started
        return Trace(self.searcher, tuple(self._asked.values()), self.spent, best, seconds, self.evaluation_seconds)


@dataclass(frozen=True)
class Agent(ABC):
    """A searcher: a frozen dataclass whose fields are its hyperparameters. ``learns`` if start plans help it."""

    name: ClassVar[str]
    learns: ClassVar[bool] = False

    def search(self, env: SparsityEnv, evaluations: int, seed: int, start: Sequence[Widths] = ()) -> Trace:
        """Spend up to ``evaluations`` new plans looking for the best feasible one; deterministic for a seed.

        ``start`` are plans to begin from (others' best). They are free if the evaluator knows them; those that do not fit the
        ceilings are left out.
        """
        account = Account(env.space, env.evaluator, self.name, evaluations)
        with suppress(OutOfEvaluations):
            self.explore(env.twin(account), seed, [plan for plan in start if env.space.share(plan) <= 1.0])
        return account.trace()

    @abstractmethod
    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Ask ``env.account.scores`` for plans until satisfied; may let OutOfEvaluations pass."""
