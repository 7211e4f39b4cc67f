"""Evaluations are counted once, paid by who asked first, and never above a limit."""

import pytest
from toy_spaces import Scorer, toy_score, toy_space

from edgeprune.agents.base import Account, Evaluator, OutOfEvaluations, key, widths_of
from edgeprune.errors import BadModel

SPACE = toy_space(1.0)
FULL = SPACE.full()
PLANS = [SPACE.complete([width], FULL) for width in (32, 24, 16, 8)]


def test_repeats_are_free_and_new_plans_come_in_one_batch() -> None:
    scorer = Scorer(SPACE)
    evaluator = Evaluator(scorer, 10, {})
    batch = [PLANS[0], PLANS[1], PLANS[0]]
    assert evaluator.scores(batch, "a") == [toy_score(SPACE, plan) for plan in batch]
    evaluator.scores(PLANS[:3], "b")
    assert scorer.batches == [PLANS[:2], [PLANS[2]]]
    assert evaluator.left == 7
    assert [(who, plan) for who, plan, _ in evaluator.history] == [("a", PLANS[0]), ("a", PLANS[1]), ("b", PLANS[2])]


def test_a_memo_hit_costs_no_call_but_counts() -> None:
    scorer = Scorer(SPACE)
    evaluator = Evaluator(scorer, 10, {key(PLANS[0]): 0.25})
    assert evaluator.scores(PLANS[:1], "a") == [0.25]
    assert scorer.batches == [] and evaluator.left == 9 and evaluator.resumed == 1


def test_what_earlier_searches_were_told_is_learnt_from_and_neither_paid_nor_asked_for() -> None:
    scorer = Scorer(SPACE)
    evaluator = Evaluator(scorer, 10, {}, {PLANS[0]: 0.25, PLANS[1]: 0.75})
    evaluator.scores(PLANS[1:2], "a")
    assert scorer.batches == [PLANS[1:2]] and evaluator.left == 9 and list(evaluator.known) == PLANS[1:2]
    assert evaluator.lessons == {PLANS[0]: 0.25, PLANS[1]: toy_score(SPACE, PLANS[1])}


def test_a_plan_is_read_back_from_its_key() -> None:
    assert [widths_of(key(plan)) for plan in PLANS] == PLANS


def test_scores_reach_the_memo_one_by_one() -> None:
    memo: dict[str, float] = {}

    def dies_at_the_third(plans):
        for i, _ in enumerate(plans):
            if i == 2:
                raise KeyboardInterrupt
            yield 0.5

    with pytest.raises(KeyboardInterrupt):
        Evaluator(dies_at_the_third, 10, memo).scores(PLANS, "a")
    assert set(memo) == {key(plan) for plan in PLANS[:2]}


def test_the_limit_holds_and_what_fits_is_evaluated() -> None:
    evaluator = Evaluator(Scorer(SPACE), 2, {})
    with pytest.raises(OutOfEvaluations) as caught:
        evaluator.scores(PLANS, "a")
    assert caught.value.scores == [toy_score(SPACE, plan) for plan in PLANS[:2]]
    assert len(evaluator.known) == 2 and evaluator.left == 0


def test_an_account_is_held_to_its_allowance_and_to_the_runs() -> None:
    evaluator = Evaluator(Scorer(SPACE), 3, {})
    account = Account(SPACE, evaluator, "a", 2)
    assert account.affordable(PLANS) == PLANS[:2]
    assert account.affordable(PLANS, reserve=1) == PLANS[:1]
    with pytest.raises(OutOfEvaluations):
        account.scores(PLANS)
    trace = account.trace()
    assert trace.spent == 2 and [asked.widths for asked in trace.asked] == PLANS[:2]
    assert Account(SPACE, evaluator, "b", 5).left == 1


def test_what_others_paid_for_is_free_and_in_the_trace() -> None:
    evaluator = Evaluator(Scorer(SPACE), 10, {})
    evaluator.scores(PLANS[:2], "other")
    account = Account(SPACE, evaluator, "a", 1)
    account.scores(PLANS[:3])
    assert account.trace().spent == 1 and len(account.trace().asked) == 3


def test_only_feasible_plans_are_best() -> None:
    space = toy_space(0.5)
    account = Account(space, Evaluator(Scorer(space), 10, {}), "a", 10)
    account.scores([space.full(), space.canonical(space.minimum())])
    best = account.trace().best
    assert best is not None and best.share <= 1.0 < space.share(space.full())
    assert account.trace().asked[0].score > best.score


def test_a_score_that_is_not_finite_is_refused() -> None:
    evaluator = Evaluator(lambda plans: [float("nan") for _ in plans], 10, {})
    message = f"^the score of plan {key(FULL)} is not finite \\(nan\\); check the task's score$"
    with pytest.raises(BadModel, match=message):
        evaluator.scores([FULL], "a")
