"""Which criterion channels are ranked by: the one by which a global ranking leaves the most, measured.

No criterion is the best everywhere: of ResNet-56 at half its MACs ``l1`` leaves 85.5 % and ``taylor`` 84.1, of
ResNet-20 63.6 and 68.7 (benchmarks/results/agreement.md). Two evaluations each tell which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgeprune import importance
from edgeprune.agents.base import Account, Evaluator, Trace
from edgeprune.agents.global_ranking import plans
from edgeprune.agents.space import Space
from edgeprune.passes.judging import Judge

AUTO = "auto"
CANDIDATES = ("taylor", "l1")
"""In the order of preference among equals: one by gradients, one by weights."""
UNTOLD = "l2"
"""Where there is nothing to score plans by."""
FEW = 20
"""Evaluations below which a search has none to spare, and takes the first candidate."""


@dataclass(frozen=True)
class Arranged:
    """A criterion, its ranking, who judges plans by it, and who counts and remembers those evaluations; ``name`` tells
    all that decides their scores.
    """

    criterion: str
    ranking: importance.Scores
    judge: Judge
    name: str
    evaluator: Evaluator


@dataclass(frozen=True)
class Measured:
    """What was chosen, and instead of which; ``traces`` are of the plans that told, none where there was no choice."""

    taken: Arranged
    lost: tuple[Arranged, ...] = ()
    traces: tuple[Trace, ...] = ()


def require_known(criterion: str) -> None:
    """Raise BadOption, naming the nearest, unless there is such a criterion, or ``auto``."""
    importance.require_known(criterion, AUTO)


def candidates(criterion: str, evaluations: int, told: bool) -> Sequence[str]:
    """Return what is to be tried for a search of so many evaluations; ``told`` says that there is data."""
    if criterion != AUTO:
        return (criterion,)
    if not told:
        return (UNTOLD,)
    return CANDIDATES if evaluations >= FEW else CANDIDATES[:1]


def measure(names: Sequence[str], arrange: Callable[[str], Arranged], space: Space) -> Measured:
    """Return the best of the criteria ``names`` by the plans of its global ranking under the ceilings of ``space``.

    Evaluations by the others are of no use to the search, and taken off the limit of the one that is.
    """
    if len(names) == 1:
        return Measured(arrange(names[0]))
    tried = list(map(arrange, names))
    traces = tuple(_ranked(one, replace(space, importance=one.ranking)) for one in tried)
    best = max(range(len(tried)), key=lambda at: max(asked.score for asked in traces[at].asked))
    lost = tuple(one for at, one in enumerate(tried) if at != best)
    tried[best].evaluator.limit -= sum(len(one.evaluator.known) for one in lost)
    return Measured(tried[best], lost, traces)


def _ranked(one: Arranged, space: Space) -> Trace:
    account = Account(space, one.evaluator, f"global-ranking by {one.criterion}", one.evaluator.limit)
    ranked = plans(space)
    with one.judge.running(len(ranked)):
        account.scores(ranked)
    return account.trace()
