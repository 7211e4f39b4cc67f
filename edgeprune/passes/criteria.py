"""Which criterion channels are ranked by: the one by which a global ranking leaves the most, measured.

No criterion is the best everywhere: of ResNet-56 at half its MACs ``l1`` leaves 85.5 % and ``taylor`` 84.1, of
ResNet-20 63.6 and 68.7 (benchmarks/results/agreement.md). Two evaluations each tell which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from edgeprune import importance
from edgeprune.agents.base import Evaluator, key
from edgeprune.agents.global_ranking import plans
from edgeprune.agents.space import Space
from edgeprune.groups import Widths
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
    """A criterion, its ranking, who judges plans by it, and the journal of those scores; ``name`` tells all that
    decides them.
    """

    criterion: str
    ranking: importance.Scores
    judge: Judge
    name: str
    memo: MutableMapping[str, float]


@dataclass(frozen=True)
class Measured:
    """What was chosen, by the ``scores`` of the plans tried for each criterion: none where there was no choice.

    Of those of the others ``resumed`` were read from a journal; ``made`` are those of the one taken that were not.
    """

    taken: Arranged
    scores: Mapping[str, Mapping[Widths, float]]
    resumed: int = 0
    made: Sequence[Widths] = ()

    @property
    def kept(self) -> list[Widths]:
        """The plans of the criterion taken: their scores are the search's own."""
        return list(self.scores.get(self.taken.criterion, ()))

    @property
    def lost(self) -> dict[str, Mapping[Widths, float]]:
        """The scores by the other criteria: true evaluations that no search can use."""
        return {name: scores for name, scores in self.scores.items() if name != self.taken.criterion}


def searcher(criterion: str) -> str:
    """Return what the report calls who asked for the plans of a criterion."""
    return f"global-ranking by {criterion}"


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
    """Return the best of the criteria ``names`` by the plans of its global ranking under the ceilings of ``space``."""
    if len(names) == 1:
        return Measured(arrange(names[0]), {})
    tried: list[tuple[Arranged, dict[Widths, float], list[Widths]]] = []
    for one in map(arrange, names):
        ranked = plans(replace(space, importance=one.ranking))
        made = [widths for widths in ranked if key(widths) not in one.memo]
        with one.judge.running(len(ranked)):
            scores = Evaluator(one.judge.scores, len(ranked), one.memo).scores(ranked, searcher(one.criterion))
        tried.append((one, dict(zip(ranked, scores, strict=True)), made))
    best = max(tried, key=lambda each: max(each[1].values()))
    resumed = sum(len(each[1]) - len(each[2]) for each in tried if each is not best)
    return Measured(best[0], {one.criterion: scores for one, scores, _ in tried}, resumed, best[2])
