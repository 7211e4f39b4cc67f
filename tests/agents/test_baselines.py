"""The baselines do what they are compared as."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from toy_spaces import best_plan, toy_cost, toy_env, toy_score, toy_space

from edgeprune import find
from edgeprune.agents.base import Account, Trace
from edgeprune.agents.drawing import draw
from edgeprune.agents.global_ranking import alone, priced, ranked
from edgeprune.agents.knapsack import solve
from edgeprune.agents.space import Space
from edgeprune.agents.table import Table, sensitivity
from edgeprune.agents.uniform import even_plan, uniform_plan
from edgeprune.groups import DROP, uniform
from edgeprune.tally import Tallied, Tally, Term

SPACE = toy_space(0.5)


def run(name: str, space: Space, evaluations: int) -> Trace:
    return find.find("agents", name)().search(toy_env(space)[0], evaluations, 0)


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.75, 1.0])
def test_uniform_is_the_largest_fraction_that_fits(share: float) -> None:
    space = toy_space(share)
    fitting = [uniform(space.cost.groups, k / 1000) for k in range(1001)]
    best = max((plan for plan in fitting if space.share(plan) <= 1.0), key=space.share)
    assert uniform_plan(space) == best


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.75, 1.0])
def test_uniform_spends_what_the_largest_fraction_leaves_a_rung_at_a_time(share: float) -> None:
    space = toy_space(share)
    base, plan = uniform_plan(space), even_plan(space)
    assert run("uniform", space, 5).best.widths == plan  # type: ignore[union-attr]
    assert space.share(base) <= space.share(plan) <= 1.0
    one_more = []
    for at in space.free:
        ladder = space.cost.groups[at].ladder
        assert ladder.index(plan[at]) - ladder.index(base[at]) in (0, -1)
        if plan[at] == base[at] and ladder.index(plan[at]) > 0:
            one_more.append((*plan[:at], ladder[ladder.index(plan[at]) - 1], *plan[at + 1 :]))
    assert all(space.share(wider) > 1.0 for wider in one_more)


def test_evolution_improves_on_its_first_population_and_keeps_to_the_window() -> None:
    trace = run("evolution", SPACE, 150)
    first, rest = trace.asked[:32], trace.asked[32:]
    assert max(one.score for one in rest) > max(one.score for one in first)
    assert np.mean([one.score for one in rest]) > np.mean([one.score for one in first])
    shares = [one.share for one in trace.asked]
    assert max(shares) <= 1.0 and np.mean(shares) > 0.95
    assert trace.best.score > 0.95 * best_plan(SPACE)[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(12))
def test_evolution_s_first_population_is_whole_though_a_draw_repeats(seed: int) -> None:
    batches = toy_env(SPACE)
    find.find("agents", "evolution")().search(batches[0], 40, seed)
    assert [len(batch) for batch in batches[1].batches] == [8] * 5
    small = toy_env(toy_space(0.5, blocks=1, plain=3))  # where draws repeat often
    find.find("agents", "evolution")().search(small[0], 24, seed)
    assert sum(map(len, small[1].batches[:3])) == 24


def test_evolution_ends_where_there_is_nothing_new() -> None:
    tiny = toy_space(0.6, blocks=0, plain=1)
    assert run("evolution", tiny, 500).spent < 20


def test_uniform_drops_blocks_only_when_no_fraction_fits() -> None:
    cost = toy_cost(multiple=16)  # the lowest rung keeps half
    tight = Space(cost, {"macs": 1.05 * cost.cost(toy_space(1.0, multiple=16).minimum())["macs"]})
    plan = uniform_plan(tight)
    assert DROP in plan and tight.share(plan) <= 1.0
    assert run("uniform", tight, 5).spent == 1


def ranked_space(share: float, idle: Sequence[str] = ()) -> Space:
    """The toy, whose channels matter about alike, but for three quarters of those of some groups: hardly at all."""
    space, rng = toy_space(share), np.random.default_rng(0)
    told = {group.name: rng.uniform(0.9, 1.1, group.channels) for group in space.cost.groups}
    for name in idle:
        told[name][:24] = 1e-3
    return Space(space.cost, space.limits, told)


def test_a_global_ranking_cuts_what_matters_least_wherever_it_is() -> None:
    whole = ranked_space(1.0, ["conv1", "block0.b"])
    names = [group.name for group in whole.cost.groups]
    wanted = tuple(8 if name in ("conv1", "block0.b") else 32 for name in names)
    space = Space(whole.cost, {"macs": whole.cost.cost(wanted)["macs"]}, whole.importance)
    assert ranked(space, alone(space)) == wanted
    assert run("global-ranking", space, 5).asked[0].widths == wanted


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.75])
def test_a_global_ranking_is_two_plans_that_leave_no_room(share: float) -> None:
    space = ranked_space(share, ["conv2"])
    plans = [ranked(space, ranking(space)) for ranking in (alone, priced)]
    assert [one.widths for one in run("global-ranking", space, 5).asked] == list(dict.fromkeys(plans))
    for one in plans:
        assert space.share(one) <= 1.0 and one == space.canonical(one)
        for at in space.free:
            above = [rung for rung in space.cost.groups[at].ladder if rung > one[at] > 0]
            assert not above or space.share((*one[:at], min(above), *one[at + 1 :])) > 1.0


def test_a_global_ranking_by_cost_spares_what_is_cheap() -> None:
    space = ranked_space(0.6)  # conv0 has four times the positions of conv3
    kept = dict(zip((group.name for group in space.cost.groups), ranked(space, priced(space)), strict=True))
    assert kept["conv0"] < kept["conv3"]


def test_a_global_ranking_does_not_mind_scales_or_silence() -> None:
    space = ranked_space(0.5, ["conv2"])
    scaled = {name: values * (1e6 if name == "conv2" else 1e-6) for name, values in space.importance.items()}
    assert ranked(space, alone(space)) == ranked(space, alone(Space(space.cost, space.limits, scaled)))
    silent = Space(space.cost, space.limits, {name: np.zeros(32) for name in scaled})
    untold = Space(space.cost, space.limits)
    assert ranked(untold, alone(untold)) == ranked(silent, alone(silent))


def test_a_global_ranking_drops_blocks_only_when_no_threshold_fits() -> None:
    cost = toy_cost(multiple=16)
    tight = Space(cost, {"macs": 1.05 * cost.cost(toy_space(1.0, multiple=16).minimum())["macs"]})
    assert DROP in ranked(tight, alone(tight)) and tight.share(ranked(tight, alone(tight))) <= 1.0
    assert DROP not in ranked(SPACE, alone(SPACE))


def test_a_global_ranking_cuts_what_saves_nothing_of_the_worst_ceiling_for_the_sake_of_another() -> None:
    first = Term("conv0", (8.0, 32.0), (32.0,), np.array([[1.0], [4.0]]))
    cost = Tallied(toy_cost(blocks=0), [Tally("latency", [first])])
    space = Space(cost, {"latency": 0.3 * cost.full["latency"], "macs": 0.35 * cost.full["macs"]})
    found = ranked(space, priced(space))
    assert space.share(found) <= 1.0 and any(0 < width < 32 for width in found[2:])


def test_random_draws_fall_in_the_window() -> None:
    trace = run("random", toy_space(0.4), 60)
    shares = [asked.share for asked in trace.asked]
    assert trace.spent == 60 and min(shares) >= 0.97 and max(shares) <= 1.0


def test_random_draws_use_every_option_of_every_group() -> None:
    plans = np.array([SPACE.choices(asked.widths) for asked in run("random", SPACE, 200).asked])
    for column, options in zip(plans.T, SPACE.options, strict=True):
        assert set(column.tolist()) == set(options)


@pytest.mark.parametrize("share", [0.13, 0.98])
def test_random_settles_beside_a_window_it_cannot_hit(share: float) -> None:
    space = toy_space(share)
    plans = [draw(space, np.random.default_rng(seed), low=0.97, draws=1) for seed in range(40)]
    shares = [space.share(plan) for plan in plans]
    assert max(shares) <= 1.0 and np.mean(shares) > 0.75


def test_random_ends_when_there_is_nothing_new() -> None:
    space = toy_space(0.7, blocks=0, plain=1)  # four plans in all
    trace = run("random", space, 50)
    assert 0 < trace.spent <= 4


def test_the_table_interpolates_what_it_measured() -> None:
    env, scorer = toy_env(SPACE)
    account = Account(SPACE, env.evaluator, "greedy", 100)
    table = sensitivity(account)
    assert len(scorer.batches) == 1  # in parallel
    full = toy_score(SPACE, SPACE.full())
    for at, options in enumerate(SPACE.options):
        losses = dict(zip(options, table.losses[at], strict=True))
        for width in (16, 8, *([DROP] if DROP in options else [])):
            alone = SPACE.complete([*SPACE.choices(SPACE.full())[:at], width], SPACE.full())
            assert losses[width] == pytest.approx(full - toy_score(SPACE, alone))
        assert losses[32] == 0.0
        assert losses[24] == pytest.approx(losses[16] / 2)


@pytest.mark.parametrize("name", ["greedy", "knapsack"])
def test_a_table_finds_the_optimum_where_losses_add_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy_spaces.STRAIN", 0.0)
    uniform_score = run("uniform", SPACE, 1).best.score
    optimum, _ = best_plan(SPACE)
    best = run(name, SPACE, 60).best.score
    assert best - uniform_score > 0.9 * (optimum - uniform_score)


def test_the_knapsack_prices_a_dropped_block_as_it_is_around_a_plan_that_narrows_its_insides() -> None:
    space = toy_space(0.5, blocks=1, plain=1)
    losses = tuple(tuple(0.05 if width == DROP else 1.0 - width / options[0] for width in options)
                   for options in space.options)  # fmt: skip
    table = Table(space, losses)
    plans = [space.canonical(space.complete(one, space.full())) for one in itertools.product(*space.options)]
    best = min((plan for plan in plans if space.share(plan) <= 1.0), key=table.loss)
    assert space.choices(best)[1] == DROP
    assert solve(table, space.complete((16, 8, 8), space.full())) == best


@pytest.mark.parametrize(("name", "option"), [("greedy", {"variants": -1}), ("knapsack", {"rounds": 0})])
def test_a_baseline_s_options_are_checked(name: str, option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(option))} must be at least"):
        find.find("agents", name)(**option)


@pytest.mark.parametrize("name", ["greedy", "knapsack"])
def test_what_the_table_leaves_is_spent_on_climbing_by_true_scores(name: str) -> None:
    still, climbing = (
        find.find("agents", name)(climbing=climbing).search(toy_env(SPACE)[0], 90, 0) for climbing in (False, True)
    )
    assert still.spent < 40 < climbing.spent <= 90
    assert still.best.score < climbing.best.score
    assert climbing.asked[: still.spent] == still.asked


@pytest.mark.parametrize("name", ["greedy", "knapsack"])
def test_the_table_breaks_the_ceiling_but_the_best_does_not(name: str) -> None:
    trace = run(name, SPACE, 60)
    assert any(asked.share > 1.0 for asked in trace.asked)
    assert trace.best.share <= 1.0 and trace.best.score > run("uniform", SPACE, 1).best.score


@pytest.mark.parametrize("name", ["greedy", "knapsack"])
def test_both_share_one_table(name: str) -> None:
    env, _ = toy_env(SPACE)
    other = "greedy" if name == "knapsack" else "knapsack"
    first, second = (find.find("agents", one)(climbing=False).search(env, 60, 0) for one in (other, name))
    assert second.spent < first.spent / 2


@pytest.mark.parametrize("name", ["greedy", "knapsack"])
@pytest.mark.parametrize("evaluations", range(1, 12))
def test_a_table_cut_short_still_leads_to_a_feasible_plan(name: str, evaluations: int) -> None:
    trace = run(name, SPACE, evaluations)
    assert trace.spent <= evaluations and trace.best is not None


@pytest.mark.parametrize("limits", [{"macs": 0.5, "parameters": 0.3}, {"macs": 0.2, "parameters": 0.9}])
@pytest.mark.parametrize("name", ["uniform", "random", "greedy", "knapsack"])
def test_two_ceilings_are_both_held(name: str, limits: dict[str, float]) -> None:
    full = SPACE.cost.full
    space = Space(SPACE.cost, {quantity: share * full[quantity] for quantity, share in limits.items()})
    cost = space.cost.cost(run(name, space, 60).best.widths)
    assert all(cost[quantity] <= limit for quantity, limit in space.limits.items())
