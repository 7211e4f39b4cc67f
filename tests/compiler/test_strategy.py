"""Which candidates a build finishes, told by a workshop whose answers follow from the cost target alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from shop import CHEAPER, Made, Shop

from edgeprune.budget import Budget, Limit
from edgeprune.compiler.strategy import STEP, _targets
from edgeprune.groups import DROP, CostModel


def searched(shop: Shop) -> int:
    return len({plan for made in shop.finished for plan in made.asked})


def test_targets_descend_in_steps_to_what_can_be_reached(cost_model: CostModel) -> None:
    targets = _targets(cost_model, "macs")
    assert targets[0] == 1 - STEP
    assert np.allclose(-np.diff(targets), STEP)
    smallest = cost_model.cost([DROP if g.block else g.ladder[-1] for g in cost_model.groups])["macs"]
    assert 0 <= targets[-1] - smallest / cost_model.full["macs"] < STEP


@pytest.mark.parametrize("most", [0.9, 0.6, 0.35, 0.1])
def test_a_floor_is_bisected_to_the_deepest_cut_that_holds(decide: Any, most: float) -> None:
    shop, outcome = decide(Budget(0.01), loses=lambda share: 0 if share >= most - 1e-9 else 100)
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(most)
    assert outcome.candidates["pruned-only"].share == pytest.approx(most)
    assert [p.name for p in outcome.candidates["pruned-only"].passes] == ["prune", "sparsify", "finetune", "export"]
    assert list(outcome.candidates) == ["original", "quantized-only", "pruned-quantized", "pruned-only"]
    assert 2 <= len(outcome.probes) <= 7
    assert searched(shop) <= 60


def test_what_holds_deeper_but_runs_slower_is_not_taken(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), cost="measured", takes=lambda share: 0.7 if 0.6 < share < 0.75 else 0.9)
    assert 0.6 < outcome.candidates["pruned-quantized"].share < 0.75
    assert any(p.share < 0.6 for p in outcome.probes)


def test_where_activations_used_the_floor_up_the_first_cuts_are_small(decide: Any) -> None:
    """And the next ones lie beside it: a cut in the middle of the rest would be trained for nothing."""

    def tried(**shop: Any) -> list[float]:
        outcome = decide(Budget(0.01), loses=lambda share: 0 if share > 0.88 else 100, **shop, **CHEAPER)[1]
        return [p.share for p in outcome.probes if "MACs" in p.name]

    untouched, dear = tried(), tried(relu_loses=lambda share: 8 if share > 0.7 else 0)
    assert untouched[0] < 0.8
    assert dear == pytest.approx([1 - STEP, 1 - 2 * STEP, 1 - 4 * STEP, 1 - 3 * STEP])


def test_a_dense_model_trained_here_gets_the_pruned_ones_epochs_too(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), preparation=("finetune",))
    assert outcome.control is not None and [p.name for p in outcome.control.passes] == ["finetune", "export"]
    pruned = outcome.candidates["pruned-quantized"].passes[2]
    assert outcome.control.passes[0] == dataclasses.replace(pruned, distillation=0.0, hints=0.0), "it is no own teacher"
    assert "control" not in outcome.candidates
    _, cheaper = decide(Budget(0.01), preparation=("finetune",), cost="measured", smooth=True, cheaper=0.7)
    assert [p.epochs for p in cheaper.control.passes[:-1]] == [1 + 1 + 1 + 1]
    assert decide(Budget(0.01))[1].control is None


def test_where_nothing_holds_the_least_loss_is_kept_and_said(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), loses=lambda share: round(200 * (1.1 - share)))
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(1 - STEP)
    assert outcome.notes == ["no pruned candidate held the floor; the bisection's probes show how far each missed it"]


@pytest.mark.parametrize("evaluations", [1, 3, 10, 200])
def test_the_searches_of_a_run_share_its_evaluations(decide: Any, evaluations: int) -> None:
    """Each search needs one; beyond that their sum stays within what was allowed."""
    shop, outcome = decide(Budget(0.01), evaluations, loses=lambda share: 0 if share >= 0.4 else 100)
    assert searched(shop) <= max(evaluations, len(outcome.probes))


@pytest.mark.parametrize("deepest", [0.9, 0.6, 0.1])
def test_the_last_search_of_a_bisection_has_as_much_as_the_first(decide: Any, deepest: float) -> None:
    """A plan that little was spent on would be trained for nothing, and taken for a floor that does not hold."""
    _, outcome = decide(Budget(0.01), loses=lambda share: 0 if share >= deepest - 1e-9 else 100)
    spent = [len(probe.asked) for probe in outcome.probes]
    assert len(spent) > 2 and len(set(spent)) == 1


def test_each_search_of_a_bisection_learns_from_those_before_it(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), loses=lambda share: 0 if share >= 0.6 - 1e-9 else 100)
    before: set[str] = set()
    for probe in outcome.probes:
        (search,) = (one for one in probe.passes if one.name == "sparsify")
        assert {plan for scores in search.earlier.values() for plan in scores} == before
        before |= set(probe.asked)
    assert len(outcome.probes) > 2


def test_without_data_only_dead_channels_go(decide: Any) -> None:
    shop, outcome = decide(Budget(None), data=False)
    assert list(outcome.candidates) == ["original", "quantized-only"]
    assert searched(shop) == 0


@pytest.mark.parametrize(
    ("ceilings", "share"),
    [
        ({"max_macs": Limit(0.4, True)}, 0.4),
        ({"max_parameters": Limit(0.3, True)}, 0.3),
        ({"max_macs": Limit(0.4, True), "max_parameters": Limit(0.2, True)}, 0.2),
    ],
)
def test_counts_are_searched_under_once(decide: Any, ceilings: dict[str, Limit], share: float) -> None:
    _, outcome = decide(Budget(0.01, **ceilings))
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(share)
    assert len(outcome.probes) == 1


def test_a_size_is_approached_by_the_bytes_a_parameter_really_took(decide: Any) -> None:
    shop, outcome = decide(Budget(0.01, max_size=Limit(5000)))
    assert len(outcome.probes) == 1  # the header, which no cut removes, is told from two artifacts
    assert 4900 < outcome.candidates["pruned-quantized"].size_bytes <= 5000
    assert searched(shop) <= 60


def test_a_size_that_the_line_did_not_tell_is_tried_again(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Made.size_bytes.fget
    bulge = 600  # what only middling sizes take
    monkeypatch.setattr(
        Made, "size_bytes", property(lambda made: straight(made) + bulge * (2000 < made.parameters < 6000))
    )
    shop, outcome = decide(Budget(0.01, max_size=Limit(5000)))
    *tries, last = [probe.size_bytes > 5000 for probe in outcome.probes]
    assert tries and all(tries) and not last
    assert 4500 < outcome.candidates["pruned-quantized"].size_bytes <= 5000
    assert searched(shop) <= 60


def test_a_latency_is_bisected_on_untrained_shapes_and_only_one_is_trained(decide: Any) -> None:
    shop, outcome = decide(Budget(0.5, max_latency=Limit(0.62, True)), cost="measured")
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(0.6)
    trained = [m for m in shop.finished if any(p.name == "finetune" for p in m.passes)]
    assert len({m.share for m in trained}) == 1
    assert len([p for p in outcome.probes if p.name.startswith("shape at")]) >= 3


def test_a_build_slower_than_its_shape_is_cut_further(decide: Any) -> None:
    _, outcome = decide(Budget(0.5, max_latency=Limit(0.62, True), max_macs=Limit(0.5, True)), cost="measured")
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(0.5)


def test_a_size_is_tried_again_beside_a_latency_too(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Made.size_bytes.fget
    monkeypatch.setattr(
        Made, "size_bytes", property(lambda made: straight(made) + 600 * (2000 < made.parameters < 6000))
    )
    budget = Budget(0.5, max_latency=Limit(0.62, True), max_size=Limit(5000))
    _, outcome = decide(budget, cost="measured")
    tried = [probe.size_bytes > 5000 for probe in outcome.probes if probe.name.startswith("trained at")]
    assert tried[0] and not tried[-1] and len(tried) <= 3
    assert outcome.candidates["pruned-quantized"].size_bytes <= 5000


def test_lower_precision_alone_may_do(decide: Any) -> None:
    shop, outcome = decide(Budget(0.01, max_size=Limit(0.5, True)), preparation=("finetune",))
    assert outcome.control is None, "nothing was trained that it could be a control for"
    assert outcome.notes == ["lower precision alone meets every ceiling, so nothing was pruned for them"]
    assert searched(shop) == 0
