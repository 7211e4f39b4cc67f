"""What every searcher meets: the shared evaluator, its own account there, and the trace it leaves. No torch here.

    Agent.search ── explore ──> Account.scores ──> Evaluator.scores ──> score and memo, both the driver's
                                       └──> Trace
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeprune.agents.space import Space
from edgeprune.errors import BadModel
from edgeprune.groups import Widths

if TYPE_CHECKING:
    from edgeprune.agents.env import SparsityEnv

__all__ = ["Account", "Agent", "Asked", "Evaluator", "Lesson", "OutOfEvaluations", "Space", "Trace", "at_least", "key",
           "widths_of"]  # fmt: skip


class OutOfEvaluations(Exception):
    """Raised when the next new plan may not be evaluated any more; ``scores`` are those of the plans before it.

    Control flow between a searcher and its account: it never leaves ``Agent.search``.
    """

    def __init__(self, scores: list[float]) -> None:
        super().__init__("the evaluations of this search are spent")
        self.scores = scores


def key(widths: Widths) -> str:
    """Return the memo's key of canonical widths, such as ``16-8-0-32``."""
    return "-".join(map(str, widths))


def widths_of(plan: str) -> Widths:
    """Return the widths that ``key`` spelt."""
    return tuple(map(int, plan.split("-")))


class Evaluator:
    """Scores plans for every searcher of one run and counts true evaluations: the distinct plans the run asked for.

    ``score`` takes new plans and yields one finite score each, in order, higher is better; the driver evaluates them in
    parallel behind it. ``memo`` is the driver's journal by ``key(widths)``: a score found there costs no time, but
    counts as an evaluation when it is first asked for, so that a resumed run takes the same decisions. Each score is
    written to it as it arrives. ``limit`` is for the whole run. ``earlier`` is what other searches of the same plans
    were told, under other ceilings: to learn from.
    """

    def __init__(self, score: Callable[[Sequence[Widths]], Iterable[float]], limit: int,
                 memo: MutableMapping[str, float], earlier: Mapping[Widths, float] | None = None) -> None:
        self._score, self._memo, self.limit = score, memo, limit
        self.earlier = dict(earlier or {})
        self.known: dict[Widths, float] = {}
        self.history: list[tuple[str, Widths, float]] = []
        self.resumed = 0
        self.seconds = 0.0

    @property
    def left(self) -> int:
        """How many evaluations the run still has."""
        return self.limit - len(self.known)

    @property
    def lessons(self) -> dict[Widths, float]:
        """Every true score there is to learn from, by canonical plan: those of earlier searches, then this one's."""
        return {**self.earlier, **self.known}

    def scores(self, batch: Sequence[Widths], searcher: str, most: int | None = None) -> list[float]:
        """Return the scores of canonical plans, of which at most ``most`` may be new.

        Raises OutOfEvaluations at the first plan that may not be evaluated, after evaluating those before it, and
        BadModel for a score that is not finite.
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
class Lesson:
    """How far learning is: after ``evaluations`` true ones of its own, what ``episodes`` more were paid on average, and
    the best true score so far. The pay of ``imagined`` episodes is what the surrogate expects, and no score.
    """

    evaluations: int
    episodes: int
    reward: float
    best: float | None
    imagined: bool


@dataclass(frozen=True)
class Trace:
    """What one search did.

    ``asked`` are its distinct plans in order, those others had paid for included; ``spent`` counts its own true
    evaluations. ``best`` is the best feasible plan asked for (the first of equals), None if there is none. ``curve`` is
    a learning agent's, in order.
    """

    searcher: str
    asked: tuple[Asked, ...]
    spent: int
    best: Asked | None
    curve: tuple[Lesson, ...] = ()


class Account:
    """One searcher's access to the evaluator: its allowance of new plans and the record of what it asked."""

    def __init__(self, space: Space, evaluator: Evaluator, searcher: str, allowance: int) -> None:
        self.space, self.evaluator, self.searcher, self.allowance = space, evaluator, searcher, allowance
        self.spent = 0
        self.curve: list[Lesson] = []
        self._asked: dict[Widths, Asked] = {}

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
        known = len(self.evaluator.known)
        try:
            return self.evaluator.scores(plans, self.searcher, self.left)
        finally:
            self.spent += len(self.evaluator.known) - known
            for plan in plans:
                if plan in self.evaluator.known and plan not in self._asked:
                    self._asked[plan] = Asked(plan, self.evaluator.known[plan], self.space.share(plan))

    def elite(self, count: int) -> list[Widths]:
        """Return the best feasible plans asked for so far, best first (the earlier of equals)."""
        feasible = [asked for asked in self._asked.values() if asked.share <= 1.0]
        return [asked.widths for asked in sorted(feasible, key=lambda asked: -asked.score)[:count]]

    def trace(self) -> Trace:
        """Return what was done so far."""
        best = next((self._asked[widths] for widths in self.elite(1)), None)
        return Trace(self.searcher, tuple(self._asked.values()), self.spent, best, tuple(self.curve))

    def learnt(self, rewards: Sequence[float], imagined: bool) -> None:
        """Note what the episodes since the last note were paid."""
        if rewards:
            best = next((self._asked[widths].score for widths in self.elite(1)), None)
            mean = math.fsum(rewards) / len(rewards)
            self.curve.append(Lesson(self.spent, len(rewards), mean, best, imagined))


def at_least(agent: Agent, **bounds: float) -> None:
    """Raise ValueError, naming it, for a hyperparameter below its bound: for an agent's ``__post_init__``."""
    for name, bound in bounds.items():
        if getattr(agent, name) < bound:
            raise ValueError(f"{name} must be at least {bound:g}, not {getattr(agent, name)}")


@dataclass(frozen=True)
class Agent(ABC):
    """A searcher: a frozen dataclass whose fields are its hyperparameters. ``learns`` if start plans help it."""

    name: ClassVar[str]
    learns: ClassVar[bool] = False

    def search(self, env: SparsityEnv, evaluations: int, seed: int, start: Sequence[Widths] = ()) -> Trace:
        """Spend up to ``evaluations`` new plans looking for the best feasible one; deterministic for a seed.

        ``start`` are plans to begin from (others' best). They are free if the evaluator knows them; those that do not
        fit the ceilings are left out.
        """
        account = Account(env.space, env.evaluator, self.name, evaluations)
        with suppress(OutOfEvaluations):
            fitting = [env.space.canonical(plan) for plan in start if env.space.share(plan) <= 1.0]
            self.explore(env.twin(account), seed, fitting)
        return account.trace()

    @abstractmethod
    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Ask ``env.account.scores`` for plans until satisfied; may let OutOfEvaluations pass."""
