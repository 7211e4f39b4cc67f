"""Which activations are replaced before anything is cut."""

from __future__ import annotations

from typing import Any

import pytest
from shop import CHEAPER, Made, replaced

from edgeprune.budget import Budget, Limit
from edgeprune.errors import UnmetRequirement

STEP = ["activation", "finetune"]
CUTTING = ["prune", "sparsify", "finetune", "export", "quantize"]


def shares(made: Made) -> list[float]:
    return [p.share for p in made.passes if p.name == "activation"]


def test_cheaper_activations_are_taken_in_steps_where_they_pay_and_hold(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), **CHEAPER)
    dense = outcome.candidates["activations-quantized"]
    assert [p.name for p in dense.passes] == [*3 * STEP, "export", "quantize"]
    assert shares(dense) == pytest.approx([0.8, 0.5, 1.0]), "most, half of the others, and then all that is left"
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == 3 * STEP + CUTTING
    assert [p.name for p in outcome.probes[:2]] == ["80 % of the activations", "90 % of the activations"]
    assert outcome.notes == [
        "relu for 80 % of the activations makes 0.680x of the quantized latency, and +0.00 points of drop on the "
        "search split after training: replaced",
        "relu for 90 % of the activations makes 0.640x of the quantized latency, and +0.00 points of drop on the "
        "search split after training: replaced",
        "relu for 100 % of the activations makes 0.600x of the quantized latency, and +0.00 points of drop on the "
        "search split after training: replaced",
    ]


def test_a_step_that_costs_the_floor_leaves_what_the_one_before_replaced(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), relu_loses=lambda share: 12 if share > 0.95 else 2, **CHEAPER)
    assert shares(outcome.candidates["activations-quantized"]) == pytest.approx([0.8, 0.5])
    assert [p.name for p in outcome.probes[:2]] == ["80 % of the activations", "100 % of the activations"]
    assert replaced(outcome.probes[1].passes) == 1.0
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == 2 * STEP + CUTTING
    assert outcome.notes[2] == (
        "relu for 100 % of the activations makes 0.600x of the quantized latency, and +1.20 points of drop on the "
        "search split after training: they stay as they are"
    )


@pytest.mark.parametrize(
    ("moved", "refused"),
    [({"a": 1.0, "b": 2.0}, 90), ({"a": 1.0, "b": 1.0, "c": 4.0}, 100), ({"a": 1.0, "b": 1.0, "c": 1.0}, None)],
)
def test_what_would_cost_too_much_by_what_it_moves_is_not_trained(
    moved: dict[str, float], refused: int | None, decide: Any
) -> None:
    """The first steps lose 0.4 points; a floor of one is broken by two and a half times that."""
    _, outcome = decide(Budget(0.01), relu_loses=lambda share: round(5 * share), moved=moved, **CHEAPER)
    assert len(shares(outcome.candidates["activations-quantized"])) == {90: 1, 100: 2, None: 3}[refused]
    said = [note for note in outcome.notes if "by what they move the outputs, they would cost too much" in note]
    assert len(said) == (refused is not None)
    assert not said or said[0].startswith(f"relu for {refused} % of the activations makes 0.6")


def test_activations_that_cost_the_floor_all_stay(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), relu_loses=lambda share: round(40 * share), **CHEAPER)
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == CUTTING
    assert shares(outcome.candidates["activations-quantized"]) == [0.8], "shown all the same"
    assert [note.rpartition(": ")[2] for note in outcome.notes] == ["they stay as they are"]
    assert not any(p.name.endswith("of the activations") for p in outcome.probes)


def test_what_pays_only_whole_is_replaced_at_once(decide: Any) -> None:
    _, outcome = decide(Budget(0.01), cost="measured", smooth=True, cheaper=0.95)
    assert shares(outcome.candidates["activations-quantized"]) == [1.0]
    assert outcome.notes[0].endswith("makes 0.960x of the quantized latency: not worth training for")


def test_a_share_is_taken_in_steps_too(decide: Any) -> None:
    asked = {"activation": {"share": "0.5"}}
    _, outcome = decide(Budget(0.01), settings=asked, cost="measured", smooth=True, cheaper=0.4)
    dense = outcome.candidates["activations-quantized"]
    assert shares(dense) == pytest.approx([0.4, 1 / 12, 1 / 11]) and replaced(dense.passes) == pytest.approx(0.5)


def test_cheaper_activations_that_gain_nothing_are_not_trained(decide: Any) -> None:
    shop, outcome = decide(Budget(0.01), cost="measured", smooth=True, cheaper=0.96)
    assert "activations-quantized" not in outcome.candidates
    assert outcome.notes[2] == (
        "relu for 100 % of the activations makes 0.960x of the quantized latency: not worth training for"
    )
    assert not any({"activation", "finetune"} <= {p.name for p in made.passes} for made in shop.finished)


@pytest.mark.parametrize("options", [{"cost": "macs", "smooth": True}, {"cost": "measured", "smooth": False}])
def test_activations_stay_where_no_clock_decides_or_none_is_smooth(decide: Any, options: dict[str, Any]) -> None:
    shop, outcome = decide(Budget(0.01), cheaper=0.5, **options)
    assert not outcome.notes and not any(p.name == "activation" for made in shop.finished for p in made.passes)


def test_activations_are_replaced_where_nothing_can_be_cut(decide: Any) -> None:
    inspect = "nothing of this model can be pruned; `edgeprune inspect` says why for every group"
    for budget in (Budget(0.01), Budget(0.01, max_latency=Limit(0.7, True))):
        _, outcome = decide(budget, rigid=True, **CHEAPER)
        assert shares(outcome.candidates["activations-quantized"]) == pytest.approx([0.8, 0.5, 1.0])
        assert outcome.notes[3:] == [inspect]
        assert "pruned-quantized" not in outcome.candidates
    with pytest.raises(UnmetRequirement, match=r"^no group of this model can be pruned"):
        decide(Budget(0.01, max_latency=Limit(0.5, True)), rigid=True, **CHEAPER)
