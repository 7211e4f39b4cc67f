"""The best plans of a search once more, on more and more other images, until it is clear which of them is the best.

The highest of many noisy scores flatters its plan, and on the images that it was found by it still does: plans that the
search found would win over those of its warm start that nobody had to look for. So finalists are scored on images that
the search did not look at, and by the task's metric whatever the search went by. (Agreement with the original looks at
no label: where that is the objective, its images are scored too, after all others.) A handful costs little where
scoring every plan on all images would cost the search most of its evaluations. Each heat takes more images, and a
finalist whose paired drop from the leader is clear of its standard error goes: a race over nested subsets (Maron &
Moore, 1994, with the paired normal interval of Birattari et al., 2002, in place of Hoeffding's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

from edgeprune.agents.base import Asked, Trace
from edgeprune.groups import Widths
from edgeprune.passes.judging import Judge
from edgeprune.report import Objective

CLEAR = 1.96
"""Standard errors that a drop must exceed: 95 % where drops are normal."""
FEW = 4
"""By how much the images of heats grow after a search by agreement: as few as that looks at tell little by the metric
(see ``agreement``).
"""
SHARE = 10
"""Evaluations of a search for each of its finalists: scoring those again is to cost little beside it."""


@dataclass(frozen=True)
class Finalist:
    """A plan, what the search made of it, and its score on the most images that it was scored on again, ``images`` of
    them; the search's score and images once more where it was not.

    ``trained`` is its score after ``epochs`` of training, where it was trained for a while.
    """

    widths: Widths
    searched: float
    score: float
    images: int
    trained: float | None = None
    epochs: float = 0.0


Settle = Callable[[tuple[Finalist, ...]], tuple[Finalist, ...]]
"""Puts finalists that are ranked by their scores before training in their last order."""


@dataclass(frozen=True)
class Election:
    """The finalists, best first, and what the best of them gains over the best plan of the warm start.

    ``best`` and ``start`` are those two's scores before training, on the most images that both were scored on,
    ``images``; ``start`` is None without a warm start.
    """

    ranked: tuple[Finalist, ...]
    best: float
    start: float | None
    images: int

    @property
    def widths(self) -> Widths:
        """The plan that is taken."""
        return self.ranked[0].widths


def elect(
    judge: Judge, baselines: Sequence[Trace], found: Sequence[Trace], most: int, evaluations: int,
    settle: Settle = lambda ranked: ranked,
) -> Election | None:
    """Race the best plans of a search of so many evaluations; return None where none is under the ceilings.

    ``baselines`` are the traces of a warm start, whose best plan races too. ``settle`` has the last word on the order.
    """
    starts = [one.best for one in baselines if one.best is not None]
    reference = max(starts, key=lambda one: one.score, default=None)
    candidates = drawn([*baselines, *found], reference, seats(most, evaluations, judge.objective))
    if not candidates:
        return None
    results = [{one.widths: one for one in heat} for heat in race(judge, candidates)]
    ranked = settle(tuple(results[-1].values()))
    taken = ranked[0].widths
    if reference is None:
        return Election(ranked, ranked[0].score, None, ranked[0].images)
    if reference.widths not in results[0]:  # it had no seat, and there was a single one: nobody was scored again
        return Election(ranked, ranked[0].score, reference.score, ranked[0].images)
    both = next(one for one in reversed(results) if one[taken].images == one[reference.widths].images)
    return Election(ranked, both[taken].score, both[reference.widths].score, both[taken].images)


def drawn(traces: Sequence[Trace], reference: Asked | None, places: int) -> list[Asked]:
    """Return the ``places`` best feasible plans of all traces, best first, each once; the ``reference`` is among them.

    Of equals the first that was asked for is the better; a single seat is the best plan's.
    """
    feasible: dict[Widths, Asked] = {}
    for trace in traces:
        for one in trace.asked:
            if one.share <= 1.0:
                feasible.setdefault(one.widths, one)
    best = sorted(feasible.values(), key=lambda one: -one.score)[:places]
    if reference is None or places == 1 or reference.widths in {one.widths for one in best}:
        return best
    return [*best[:-1], reference]


def seats(most: int, evaluations: int, objective: Objective = "metric") -> int:
    """Return how many finalists, of ``most``, a search of so many evaluations has: one for each SHARE of them; at least
    two where the search did not go by the metric, and so cannot tell what it gained over its warm start.
    """
    return max(1 if objective == "metric" else 2, min(most, evaluations // SHARE))


def race(judge: Judge, candidates: Sequence[Asked]) -> Iterator[list[Finalist]]:
    """Yield the finalists after each heat, best first: those that are left, then those that went, the last to go first.

    The first heat is the search itself. There are no more where too few other images are left, or only one candidate
    is, which a search that went by something else is scored once nevertheless; later ones end when one finalist is left
    or all images are scored. Ties go to the earlier of ``candidates``.
    """
    left = [Finalist(one.widths, one.score, one.score, judge.images) for one in candidates]
    gone: list[Finalist] = []
    yield list(left)
    for at, images in enumerate(heats(judge.images, judge.whole, judge.objective)):
        if len(left) < 2 and (at or judge.objective == "metric"):
            return
        scores = judge.scored([one.widths for one in left], images)
        ran = sorted(
            ((Finalist(one.widths, one.searched, score.value, images), score)
             for one, score in zip(left, scores, strict=True)),
            key=lambda pair: -pair[0].score,
        )  # fmt: skip
        leader = ran[0][1]
        drops = [leader.drop_to(score) for _, score in ran]
        clear = [drop > CLEAR * error for drop, error in drops]
        left = [one for (one, _), out in zip(ran, clear, strict=True) if not out]
        gone = [*(one for (one, _), out in zip(ran, clear, strict=True) if out), *gone]
        yield [*left, *gone]


def heats(images: int, whole: int, objective: Objective = "metric") -> list[int]:
    """Return how many of the images that a search of ``images`` did not look at each heat scores: as many as it did,
    then with every heat as many more as have been looked at, all at last; none where those are less than half as many.

    Where it looked at no label, and so needed few images, the first heat is FEW times as large as what it looked at,
    and each other as the one before, up to the whole split.
    """
    if objective != "metric":
        return [*takewhile(lambda n: n < whole, (images * FEW**k for k in count(1))), whole]
    looked, found = images, list[int]()
    while looked < whole:
        looked = min(2 * looked, whole)
        found.append(looked - images)
    return found if found and 2 * found[0] >= images else []
