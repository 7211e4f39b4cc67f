"""Which criterion channels are ranked by: the one whose ranking scores best, at the price of two evaluations each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from networks import toy

from edgeprune.agents.base import Evaluator, key
from edgeprune.agents.global_ranking import plans
from edgeprune.agents.space import Space
from edgeprune.errors import BadOption
from edgeprune.groups import Widths
from edgeprune.passes.criteria import CANDIDATES, Arranged, candidates, measure, require_known
from edgeprune.passes.sparsify import Sparsify
from edgeprune.tracing import trace

COST = trace(toy("Residual"))
SPACE = Space(COST, {"macs": 0.6 * COST.full["macs"]})
LIMIT = 30


class Judge:
    """Gives all plans one score, and counts them."""

    def __init__(self, score: float) -> None:
        self.score, self.asked, self.running_for = score, list[Widths](), list[int | None]()

    @contextmanager
    def running(self, total: int | None = None) -> Iterator[None]:
        self.running_for.append(total)
        yield

    def scores(self, plans: Sequence[Widths]) -> Iterator[float]:
        for plan in plans:
            self.asked.append(plan)
            yield self.score


def arranged(scores: dict[str, float], memo: dict[str, Any] | None = None) -> tuple[dict[str, Judge], Any]:
    """Return a judge for each criterion, and what arranges one: rankings that differ by criterion."""
    judges = {name: Judge(score) for name, score in scores.items()}

    def arrange(name: str) -> Arranged:
        rng = np.random.default_rng(list(scores).index(name))
        ranking = {group.name: rng.random(group.channels) for group in COST.groups}
        found: Any = judges[name]
        known: dict[str, float] = {} if memo is None else memo.setdefault(name, {})
        return Arranged(name, ranking, found, name, Evaluator(found.scores, LIMIT, known))

    return judges, arrange


@pytest.mark.parametrize("better", CANDIDATES)
def test_the_criterion_whose_ranking_scores_best_is_taken(better: str) -> None:
    judges, arrange = arranged({name: 0.9 if name == better else 0.8 for name in CANDIDATES})
    found = measure(CANDIDATES, arrange, SPACE)
    assert found.taken.criterion == better
    (other,) = found.lost
    assert {better, other.criterion} == set(CANDIDATES)
    assert [one.searcher for one in found.traces] == [f"global-ranking by {name}" for name in CANDIDATES]
    for name, told in zip(CANDIDATES, found.traces, strict=True):
        own = plans(Space(COST, SPACE.limits, arrange(name).ranking))
        assert judges[name].asked == own == [one.widths for one in told.asked] and told.spent == len(own)
        assert judges[name].running_for == [len(own)]
    assert list(found.taken.evaluator.known) == judges[better].asked
    spent = len(judges["taylor"].asked) + len(judges["l1"].asked)
    assert found.taken.evaluator.left == LIMIT - spent, "what the other was asked for is paid by the search"
    assert found.taken.evaluator.resumed == other.evaluator.resumed == 0


def test_of_equals_the_first_is_taken() -> None:
    assert measure(CANDIDATES, arranged(dict.fromkeys(CANDIDATES, 0.5))[1], SPACE).taken.criterion == CANDIDATES[0]


def test_what_a_journal_knows_is_not_scored_again() -> None:
    memo: dict[str, Any] = {}
    measure(CANDIDATES, arranged({"taylor": 0.5, "l1": 0.6}, memo)[1], SPACE)
    judges, arrange = arranged({"taylor": 0.9, "l1": 0.1}, memo)
    again = measure(CANDIDATES, arrange, SPACE)
    assert [judge.asked for judge in judges.values()] == [[], []]
    assert again.taken.criterion == "l1"
    for one in (again.taken, *again.lost):
        assert {key(plan) for plan in one.evaluator.known} == set(memo[one.criterion])
        assert one.evaluator.resumed == len(memo[one.criterion])


def test_a_single_criterion_costs_nothing() -> None:
    judges, arrange = arranged({"l1": 0.5})
    found = measure(("l1",), arrange, SPACE)
    assert judges["l1"].asked == [] and (found.lost, found.traces) == ((), ())
    assert found.taken.evaluator.left == LIMIT


def test_who_cannot_spare_evaluations_or_has_no_data_tries_none() -> None:
    assert candidates("auto", 300, told=True) == candidates("auto", 20, told=True) == CANDIDATES
    assert candidates("auto", 19, told=True) == CANDIDATES[:1]
    assert candidates("auto", 300, told=False) == ("l2",)
    assert candidates("bn_scale", 300, told=True) == ("bn_scale",)


def test_auto_is_a_criterion_of_searches_alone() -> None:
    require_known("auto")
    assert Sparsify().criterion == "auto"
    with pytest.raises(BadOption, match=r"^unknown criterion 'aut'; did you mean 'auto'\?$"):
        require_known("aut")
