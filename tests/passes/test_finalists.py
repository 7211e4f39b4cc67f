from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeprune.agents.base import Asked, Trace
from edgeprune.groups import Widths
from edgeprune.passes.finalists import Finalist, drawn, elect, heats, race, seats
from edgeprune.report import Score

WHOLE = 4000


class Judge:
    """Knows each plan's true accuracy: an image is right where its own draw, the same for every plan, lies below it.

    ``spread`` is how much of a draw is the plan's own, so that plans of like accuracy differ on some images.
    """

    def __init__(self, true: dict[Widths, float], images: int = 500, spread: float = 0.1, objective: str = "metric"
                 ) -> None:  # fmt: skip
        self.true, self.images, self.whole, self.asked, self.objective = true, images, WHOLE, [], objective
        shared = np.random.default_rng(0).random(WHOLE)
        own = {plan: np.random.default_rng([7, *plan]).random(WHOLE) for plan in true}
        self.right = {p: ((1 - spread) * shared + spread * own[p] < true[p]).astype(float) for p in true}

    def searched(self, plan: Widths) -> float:
        return float(self.right[plan][: self.images].mean())

    def scored(self, plans: Sequence[Widths], images: int) -> list[Score]:
        self.asked.append((list(plans), images))
        others = np.arange(self.images, self.images + images) % WHOLE
        return [Score(float(self.right[p][others].mean()), images, self.right[p][others]) for p in plans]


def trace(name: str, *asked: tuple[Widths, float, float]) -> Trace:
    plans = tuple(Asked(*one) for one in asked)
    best = max((one for one in plans if one.share <= 1), key=lambda one: one.score, default=None)
    return Trace(name, plans, len(plans), best)


def asked(judge: Judge) -> list[Asked]:
    return [Asked(plan, judge.searched(plan), 1.0) for plan in judge.true]


def last(judge: Any, candidates: Sequence[Asked]) -> list[Finalist]:
    return list(race(judge, candidates))[-1]


def test_heats_double_what_was_looked_at_and_the_last_leaves_none() -> None:
    assert heats(500, 4000) == [500, 1500, 3500]
    assert heats(500, 1700) == [500, 1200]
    assert heats(500, 750) == [250]
    assert heats(500, 749) == [], "so few images would choose worse than those of the search"
    assert heats(500, 500) == [] == heats(900, 500)


def test_where_no_label_was_looked_at_heats_grow_up_to_the_whole_split() -> None:
    assert heats(128, 4000, "agreement") == [512, 2048, 4000]
    assert heats(500, 2000, "agreement") == [2000]
    assert heats(500, 500, "agreement") == [500] and heats(900, 500, "agreement") == [500]


def test_short_searches_have_few_finalists() -> None:
    assert [seats(8, n) for n in (1, 10, 29, 80, 300)] == [1, 1, 2, 8, 8]
    assert seats(1, 300) == 1
    assert [seats(8, n, "agreement") for n in (1, 29, 80)] == [2, 2, 8], "one seat would leave the gain untold"


def test_the_luck_of_a_few_images_does_not_decide() -> None:
    judge = Judge({(n,): 0.5 + n / 200 for n in range(8)}, spread=0.3)
    flattered = max(asked(judge), key=lambda one: one.score).widths
    assert flattered != (7,)  # else these draws would show nothing
    final = last(judge, sorted(asked(judge), key=lambda one: -one.score))
    assert final[0].widths == (7,)
    assert final[0].searched == judge.searched((7,))


def test_no_image_that_the_search_looked_at_speaks_for_what_it_found() -> None:
    judge = Judge({(0,): 0.5, (1,): 0.6})
    judge.right[0,][: judge.images] = 1.0  # as lucky as can be
    assert [one.widths for one in last(judge, asked(judge))] == [(1,), (0,)]


def test_who_is_clearly_behind_is_not_scored_again() -> None:
    judge = Judge({(0,): 0.8, (1,): 0.79, (2,): 0.4})
    result = last(judge, asked(judge))
    assert judge.asked[0] == ([(0,), (1,), (2,)], 500)
    assert all((2,) not in plans for plans, _ in judge.asked[1:])
    assert [(one.widths, one.images) for one in result][-1] == ((2,), 500)


def test_who_is_behind_by_less_than_chance_allows_goes_on() -> None:
    judge = Judge({(0,): 0.7, (1,): 0.698}, spread=0.05)
    first, second = list(race(judge, asked(judge)))[1:3]
    assert first[0].score > first[1].score, "else nobody is behind"
    assert {one.images for one in second} == {1500}


def test_a_race_ends_once_one_is_left() -> None:
    judge = Judge({(0,): 0.8, (1,): 0.4})
    last(judge, asked(judge))
    assert [images for _, images in judge.asked] == [500]


def test_equals_run_to_the_last_image_and_the_earlier_is_taken() -> None:
    judge = Judge({(5,): 0.5, (6,): 0.5}, spread=0.0)
    result = last(judge, asked(judge))
    assert [images for _, images in judge.asked] == [500, 1500, 3500]
    assert [one.widths for one in result] == [(5,), (6,)]


@pytest.mark.parametrize(("images", "plans"), [(WHOLE, 3), (500, 1)])
def test_nobody_is_scored_again_for_nothing(images: int, plans: int) -> None:
    judge = Judge({(n,): 0.5 for n in range(plans)}, images=images)
    assert len(list(race(judge, asked(judge)))) == 1
    assert judge.asked == []


def test_finalists_are_feasible_distinct_and_hold_the_best_of_the_warm_start() -> None:
    start = trace("random", ((1,), 0.5, 0.9), ((2,), 0.4, 0.9))
    agent = trace("ppo", *(((n,), 0.5 + n / 100, 1.0) for n in range(3, 20)), ((30,), 0.99, 1.2), ((1,), 0.5, 0.9))
    chosen = drawn([start, agent], start.best, 4)
    assert [one.widths for one in chosen] == [(19,), (18,), (17,), (1,)]
    assert [one.widths for one in drawn([start, agent], start.best, 1)] == [(19,)]
    assert [one.widths for one in drawn([start], start.best, 8)] == [(1,), (2,)]


def test_the_gain_is_told_on_images_that_both_were_scored_on() -> None:
    judge = Judge({(0,): 0.8, (1,): 0.6, (2,): 0.4})
    plans = {one.widths: one for one in asked(judge)}

    def told(*widths: Widths) -> list[tuple[Widths, float, float]]:
        return [(w, plans[w].score, plans[w].share) for w in widths]

    found = elect(judge, [trace("uniform", *told((2,)))], [trace("ppo", *told((0,), (1,)))], 8, 300)
    assert found is not None
    assert (found.widths, found.images) == ((0,), 500)
    others = slice(500, 1000)
    assert found.best - found.start == pytest.approx(judge.right[0,][others].mean() - judge.right[2,][others].mean())
    alone = elect(judge, [], [trace("ppo", *told((0,), (1,)))], 8, 300)
    assert alone is not None
    assert (alone.start, alone.best) == (None, alone.ranked[0].score)


def test_one_seat_leaves_the_search_s_own_scores() -> None:
    judge = Judge({(0,): 0.8, (1,): 0.7})
    found = elect(judge, [trace("uniform", ((1,), 0.7, 1.0))], [trace("ppo", ((0,), 0.8, 1.0))], 1, 300)
    assert found is not None
    assert (found.start, found.best, found.images, judge.asked) == (0.7, 0.8, 500, [])


def test_what_a_search_by_agreement_found_is_told_by_the_metric() -> None:
    judge = Judge({(0,): 0.6, (1,): 0.8}, images=WHOLE, objective="agreement")
    found = elect(judge, [trace("uniform", ((1,), 0.97, 1.0))], [trace("ppo", ((0,), 0.99, 1.0))], 1, 4)
    assert found is not None
    assert judge.asked == [([(0,), (1,)], WHOLE)]
    assert (found.widths, found.images) == ((1,), WHOLE)
    assert found.best == found.start == judge.searched((1,))
    assert [one.searched for one in found.ranked] == [0.97, 0.99]


def test_a_single_plan_of_a_search_by_agreement_is_scored_once() -> None:
    judge = Judge({(0,): 0.6}, objective="agreement")
    found = elect(judge, [], [trace("uniform", ((0,), 0.97, 1.0))], 8, 1)
    assert found is not None
    assert judge.asked == [([(0,)], 2000)]
    assert (found.best, found.start, found.images) == (judge.right[0,][500:2500].mean(), None, 2000)


def test_no_feasible_plan_is_no_election() -> None:
    judge = Judge({(0,): 0.8})
    assert elect(judge, [], [trace("ppo", ((0,), 0.8, 1.5))], 8, 300) is None
