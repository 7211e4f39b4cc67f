"""A surrogate is judged by what it foretells of plans it has not seen, and by knowing how sure it is."""

import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from toy_spaces import toy_score, toy_space

from edgeprune.agents.drawing import breed, draw
from edgeprune.agents.surrogate import LEAST, Surrogate, improvement
from edgeprune.groups import DROP, Widths

SPACE = toy_space(0.5)


def plans(count: int, seed: int) -> list[Widths]:
    rng = np.random.default_rng(seed)
    found: dict[Widths, None] = {}
    while len(found) < count:
        found[draw(SPACE, rng, 0.8, 50)] = None
    return list(found)


def fitted(count: int = 80) -> tuple[Surrogate, dict[Widths, float]]:
    known = {plan: toy_score(SPACE, plan) for plan in plans(count, 0)}
    surrogate = Surrogate(SPACE)
    surrogate.fit(known)
    return surrogate, known


def test_it_ranks_plans_it_has_not_seen() -> None:
    surrogate, known = fitted()
    new = [plan for plan in plans(120, 1) if plan not in known]
    mean, deviation = surrogate.predict(new)
    truth = np.array([toy_score(SPACE, plan) for plan in new])
    assert spearmanr(mean, truth)[0] > 0.8
    assert np.mean(np.abs(mean - truth) < 2 * deviation) > 0.8, "its deviations are of the size of its errors"


def test_it_is_surer_of_what_it_has_seen() -> None:
    surrogate, known = fitted()
    _, seen = surrogate.predict(list(known))
    _, unseen = surrogate.predict([plan for plan in plans(120, 1) if plan not in known])
    assert np.median(seen) < 0.7 * np.median(unseen)


def test_more_evaluations_make_it_better() -> None:
    errors = []
    for count in (20, 160):
        surrogate, known = fitted(count)
        new = [plan for plan in plans(300, 1) if plan not in known]
        errors.append(np.mean(np.abs(surrogate.predict(new)[0] - [toy_score(SPACE, plan) for plan in new])))
    assert errors[1] < 0.7 * errors[0]


def test_few_evaluations_tell_nothing() -> None:
    surrogate = Surrogate(SPACE)
    surrogate.fit({plan: 0.5 for plan in plans(LEAST - 1, 0)})
    assert not surrogate.ready
    surrogate.fit({plan: 0.5 for plan in plans(LEAST, 0)})
    assert surrogate.ready, "and scores that are all the same are no reason to fail"
    assert surrogate.predict(plans(3, 1))[0] == pytest.approx(0.5)


def test_a_dropped_block_is_not_a_block_at_full_width() -> None:
    surrogate, _ = fitted()
    at = next(at for at, options in enumerate(SPACE.options) if options[-1] == DROP)
    full = SPACE.choices(SPACE.full())
    dropped = SPACE.complete([*full[:at], DROP], SPACE.full())
    assert surrogate.predict([SPACE.full()])[0] != surrogate.predict([dropped])[0]


def test_a_batch_is_not_the_same_idea_over_and_over() -> None:
    surrogate, known = fitted()
    rng = np.random.default_rng(2)
    parent = max(known, key=lambda plan: known[plan])
    kin = {breed(SPACE, [parent], rng, changes=1.0, low=0.8) for _ in range(200)}
    new = [plan for plan in [*plans(200, 1), *sorted(kin)] if plan not in known]
    best = max(known.values())
    batch = surrogate.choose(new, 8, best)
    mean, deviation = surrogate.predict(new)
    alone = [new[i] for i in np.argsort(-improvement(mean, deviation, best))[:8]]

    def apart(found: list[Widths]) -> float:
        cuts = np.array([SPACE.choices(plan) for plan in found])
        return float(np.mean([(one != other).sum() for one in cuts for other in cuts]))

    assert len(set(batch)) == 8 and batch[0] == alone[0]
    assert apart(batch) > apart(alone)
    assert np.mean([toy_score(SPACE, plan) for plan in batch]) > np.mean([toy_score(SPACE, plan) for plan in new])
    assert len(surrogate.choose(new[:2], 6, best)) == 2 and surrogate.choose([], 6, best) == []


def test_expected_improvement_is_its_integral() -> None:
    mean, deviation, best = np.array([0.3, 0.9, 0.5]), np.array([0.2, 0.1, 1e-15]), 0.6
    grid = np.linspace(-6, 6, 20_001)
    for m, d, found in zip(mean, deviation, improvement(mean, deviation, best), strict=True):
        wanted = np.trapezoid(np.maximum(m + d * grid - best, 0.0) * norm.pdf(grid), grid)
        assert found == pytest.approx(wanted, abs=1e-6)
