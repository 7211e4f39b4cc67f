"""Which candidates a build finishes, told by a workshop whose answers follow from the cost target alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from contexts import torch_model
from torch import nn

from edgeprune.budget import Budget, Limit
from edgeprune.compiler import ceilings as ceilings_module
from edgeprune.compiler.ceilings import Ceilings
from edgeprune.compiler.strategy import STEP, Strategy, _targets
from edgeprune.compiler.toolbox import toolbox
from edgeprune.errors import Infeasible
from edgeprune.groups import DROP, CostModel
from edgeprune.passes.base import Silent
from edgeprune.passes.sparsify import Sparsify
from edgeprune.report import Latency, Measurement, Score
from edgeprune.tasks.classification import Classification
from edgeprune.tracing import trace

ITEMS = 1000


@dataclass(frozen=True)
class Made:
    name: str
    passes: tuple[Any, ...]
    share: float
    wrong: int
    macs: float
    parameters: int
    asked: tuple[str, ...] = ()
    moved: dict[str, float] | None = None
    """How far each activation moves the outputs; "a" is what the first step replaces."""
    lowered: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        whole = 4 if all(p.name != "quantize" for p in self.passes) else 1
        return 1000 + whole * self.parameters  # a header that no cut removes

    def counts(self) -> dict[str, float]:
        return {"size": self.size_bytes, "macs": self.macs, "parameters": self.parameters}

    @property
    def score(self) -> Score:
        right = np.ones(ITEMS)
        right[: self.wrong] = 0.0
        return Score(float(right.mean()), ITEMS, right)

    @property
    def model(self) -> Any:
        return SimpleNamespace(path=Path("none"))

    def fact(self, one: str, name: str) -> Any:
        known = {("sparsify", "asked"): self.asked,
                 ("quantize", "lowered"): self.lowered, ("quantize", "method"): "percentile",
                 ("activation", "moved"): self.moved, ("activation", "names"): ["a"]}  # fmt: skip
        return known.get((one, name))


def replaced(passes: Sequence[Any]) -> float:
    """Return the share of all activations that passes replace, each taking its share of what is left."""
    left = 1.0
    for one in passes:
        left *= 1.0 - one.share if one.name == "activation" else 1.0
    return 1.0 - left


@dataclass
class Shop:
    """Finishes a cut to a share of the MACs at once: ``loses`` and ``takes`` tell what becomes of it."""

    cost_model: CostModel
    budget: Budget
    cost: str = "macs"
    loses: Callable[[float], int] = lambda share: 0
    takes: Callable[[float], float] = lambda share: share
    preparation: tuple[str, ...] = ()
    smooth: bool = False
    cheaper: float = 1.0
    """What other activations make of the latency, and ``relu_loses`` of the accuracy once trained."""
    relu_loses: Callable[[float], int] = lambda share: 0
    moved: dict[str, float] | None = None
    lowered: tuple[str, ...] = ()
    finished: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        network = tiny.network()
        if self.smooth:
            network = nn.Sequential(network, nn.SiLU())
        self.original = torch_model(network, (1, 3, 12, 12))
        board = SimpleNamespace(channel_multiples={"fp32": 8}, widest_multiple=8)
        self.means = SimpleNamespace(budget=self.budget, cost=self.cost, seed=0, board=board, progress=Silent())
        self.source = self.finish("original", ())

    def finish(self, name: str, passes: Sequence[Any]) -> Made:
        search = next((p for p in passes if p.name == "sparsify"), None)
        share, asked = 1.0, ()
        if search is not None:
            full = self.cost_model.full
            share = min(limit / full[q] for q, limit in search.limits)
            asked = tuple(f"{search.limits} {i}" for i in range(search.evaluations))
        elif any(p.name == "recut" for p in passes):
            share = 0.05
        trained = any(p.name == "finetune" for p in passes)
        full = self.cost_model.full
        wrong = self.loses(share) if trained else 0
        wrong += self.relu_loses(replaced(passes)) if trained else 0
        made = Made(name, tuple(passes), share, wrong, share * full["macs"], int(share * full["parameters"]), asked,
                    self.moved, self.lowered)  # fmt: skip
        self.finished.append(made)
        return made

    def holds(self, candidate: Made) -> bool | None:
        return self.drop(candidate) <= (self.budget.max_accuracy_drop or 0.0)

    def drop(self, candidate: Made) -> float:
        return self.source.score.drop_to(candidate.score)[0]

    def recorded_measure(self, candidate: Made) -> Measurement:
        ratio = self.takes(candidate.share)
        ratio *= 1.0 - replaced(candidate.passes) * (1.0 - self.cheaper)
        return Measurement(source="measured", latency_ms=Latency(p50=ratio, p90=ratio, p99=ratio), ratio=ratio)


@pytest.fixture(scope="module")
def cost_model() -> CostModel:
    return trace(torch_model(tiny.network(), (1, 3, 12, 12)), (8,))


@pytest.fixture
def run(cost_model: CostModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ceilings_module, "lowerable_names", lambda path: ())

    def go(
        budget: Budget, evaluations: int = 60, data: bool = True, settings: dict[str, Any] | None = None, **shop: Any
    ) -> tuple[Shop, Any]:
        made = Shop(cost_model, budget, **shop)
        tools = toolbox(settings or {}, agent="uniform", evaluations=evaluations, epochs=1, effort="quick",
                        precision="auto", data=data, free_groups=4, task=Classification)  # fmt: skip
        return made, Strategy(made, tools).run()  # type: ignore[arg-type]

    return go


def searched(shop: Shop) -> int:
    return len({plan for made in shop.finished for plan in made.asked})


def test_targets_descend_in_steps_to_what_can_be_reached(cost_model: CostModel) -> None:
    targets = _targets(cost_model)
    assert targets[0] == 1 - STEP
    assert np.allclose(-np.diff(targets), STEP)
    smallest = cost_model.cost([DROP if g.block else g.ladder[-1] for g in cost_model.groups])["macs"]
    assert 0 <= targets[-1] - smallest / cost_model.full["macs"] < STEP


@pytest.mark.parametrize("most", [0.9, 0.6, 0.35, 0.1])
def test_a_floor_is_bisected_to_the_deepest_cut_that_holds(run: Any, most: float) -> None:
    shop, outcome = run(Budget(0.01), loses=lambda share: 0 if share >= most - 1e-9 else 100)
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(most)
    assert outcome.candidates["pruned-only"].share == pytest.approx(most)
    assert [p.name for p in outcome.candidates["pruned-only"].passes] == ["prune", "sparsify", "finetune", "export"]
    assert list(outcome.candidates) == ["original", "quantized-only", "pruned-quantized", "pruned-only"]
    assert 2 <= len(outcome.probes) <= 7
    assert searched(shop) <= 60


def test_what_holds_deeper_but_runs_slower_is_not_taken(run: Any) -> None:
    _, outcome = run(Budget(0.01), cost="measured", takes=lambda share: 0.7 if 0.6 < share < 0.75 else 0.9)
    assert 0.6 < outcome.candidates["pruned-quantized"].share < 0.75
    assert any(p.share < 0.6 for p in outcome.probes)


STEP_OF_TWO = ["activation", "finetune"]
CUTTING = ["prune", "sparsify", "finetune", "export", "quantize"]
CHEAPER: dict[str, Any] = {"cost": "measured", "smooth": True, "cheaper": 0.6}


def shares(made: Made) -> list[float]:
    return [p.share for p in made.passes if p.name == "activation"]


def test_cheaper_activations_are_taken_in_two_steps_where_they_pay_and_hold(run: Any) -> None:
    _, outcome = run(Budget(0.01), **CHEAPER)
    dense = outcome.candidates["activations-quantized"]
    assert [p.name for p in dense.passes] == [*2 * STEP_OF_TWO, "export", "quantize"]
    assert shares(dense) == pytest.approx([0.8, 1.0]), "most, and then all that is left"
    assert [p.epochs for p in dense.passes if p.name == "finetune"] == [2, 2]
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == 2 * STEP_OF_TWO + CUTTING
    assert outcome.probes[0].name == "80 % of the activations"
    assert outcome.notes == [
        "relu for 80 % of the activations makes 0.680x of the quantized latency, and +0.00 points of drop on the "
        "search split after training: replaced",
        "relu for 100 % of the activations makes 0.600x of the quantized latency, and +0.00 points of drop on the "
        "search split after training: replaced",
    ]


def test_the_rest_stays_where_it_uses_up_the_floor_though_it_holds(run: Any) -> None:
    _, outcome = run(Budget(0.01), relu_loses=lambda share: 8 if share > 0.9 else 2, **CHEAPER)
    assert shares(outcome.candidates["activations-quantized"]) == pytest.approx([0.8, 1.0]), "a candidate all the same"
    assert outcome.probes[0].name == "80 % of the activations"
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == STEP_OF_TWO + CUTTING
    assert outcome.notes[1] == (
        "relu for 100 % of the activations makes 0.600x of the quantized latency, and +0.80 points of drop on the "
        "search split after training: they stay as they are"
    )


def test_the_rest_is_no_candidate_where_it_costs_the_floor(run: Any) -> None:
    _, outcome = run(Budget(0.01), relu_loses=lambda share: 12 if share > 0.9 else 2, **CHEAPER)
    assert shares(outcome.candidates["activations-quantized"]) == pytest.approx([0.8])
    assert (outcome.probes[0].name, replaced(outcome.probes[0].passes)) == ("100 % of the activations", 1.0)
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == STEP_OF_TWO + CUTTING


@pytest.mark.parametrize(("moved", "tried"), [({"a": 1.0, "b": 1.0}, False), ({"a": 1.0, "b": 0.2}, True)])
def test_what_would_cost_too_much_by_what_it_moves_is_not_trained(
    moved: dict[str, float], tried: bool, run: Any
) -> None:
    shop, outcome = run(Budget(0.01), relu_loses=lambda share: round(5 * share), moved=moved, **CHEAPER)
    assert any(len(shares(made)) == 2 and made.passes[-1].name == "quantize" and len(made.passes) == 6
               for made in shop.finished) == tried  # fmt: skip
    refused = (
        "relu for 100 % of the activations makes 0.600x of the quantized latency; by what they move the outputs, they "
        "would cost too much of the floor"
    )
    assert (refused in outcome.notes) != tried


def test_where_activations_used_the_floor_up_the_first_cut_is_small(run: Any) -> None:
    def first(**shop: Any) -> float:
        return next(p.share for p in run(Budget(0.01), **shop, **CHEAPER)[1].probes if "MACs" in p.name)

    untouched, dear = first(), first(relu_loses=lambda share: 8 if share > 0.7 else 0)
    assert untouched < 0.8 and dear == pytest.approx(1 - STEP)


def test_activations_that_cost_the_floor_all_stay(run: Any) -> None:
    _, outcome = run(Budget(0.01), relu_loses=lambda share: round(40 * share), **CHEAPER)
    assert [p.name for p in outcome.candidates["pruned-quantized"].passes] == CUTTING
    assert shares(outcome.candidates["activations-quantized"]) == [0.8], "shown all the same"
    assert [note.rpartition(": ")[2] for note in outcome.notes] == ["they stay as they are"]
    assert not any(p.name.endswith("of the activations") for p in outcome.probes)


def test_what_pays_only_whole_is_replaced_at_once(run: Any) -> None:
    _, outcome = run(Budget(0.01), cost="measured", smooth=True, cheaper=0.95)
    assert shares(outcome.candidates["activations-quantized"]) == [1.0]
    assert outcome.notes[0].endswith("makes 0.960x of the quantized latency: not worth training for")


def test_a_share_is_taken_in_two_steps_too(run: Any) -> None:
    asked = {"activation": {"share": "0.5"}}
    _, outcome = run(Budget(0.01), settings=asked, cost="measured", smooth=True, cheaper=0.4)
    dense = outcome.candidates["activations-quantized"]
    assert shares(dense) == pytest.approx([0.4, 1 / 6]) and replaced(dense.passes) == pytest.approx(0.5)


def test_cheaper_activations_that_gain_nothing_are_not_trained(run: Any) -> None:
    shop, outcome = run(Budget(0.01), cost="measured", smooth=True, cheaper=0.96)
    assert "activations-quantized" not in outcome.candidates
    assert outcome.notes[1] == (
        "relu for 100 % of the activations makes 0.960x of the quantized latency: not worth training for"
    )
    assert not any({"activation", "finetune"} <= {p.name for p in made.passes} for made in shop.finished)


@pytest.mark.parametrize("options", [{"cost": "macs", "smooth": True}, {"cost": "measured", "smooth": False}])
def test_activations_stay_where_no_clock_decides_or_none_is_smooth(run: Any, options: dict[str, Any]) -> None:
    shop, outcome = run(Budget(0.01), cheaper=0.5, **options)
    assert not outcome.notes and not any(p.name == "activation" for made in shop.finished for p in made.passes)


def test_a_dense_model_trained_here_gets_the_pruned_ones_epochs_too(run: Any) -> None:
    _, outcome = run(Budget(0.01), preparation=("finetune",))
    assert outcome.control is not None and [p.name for p in outcome.control.passes] == ["finetune", "export"]
    pruned = outcome.candidates["pruned-quantized"].passes[2]
    assert outcome.control.passes[0] == dataclasses.replace(pruned, distillation=0.0, hints=0.0), "it is no own teacher"
    assert "control" not in outcome.candidates
    _, cheaper = run(Budget(0.01), preparation=("finetune",), cost="measured", smooth=True, cheaper=0.7)
    assert [p.epochs for p in cheaper.control.passes[:-1]] == [2 + 2 + 1]
    assert run(Budget(0.01))[1].control is None


def test_where_nothing_holds_the_least_loss_is_kept_and_said(run: Any) -> None:
    _, outcome = run(Budget(0.01), loses=lambda share: round(200 * (1.1 - share)))
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(1 - STEP)
    assert outcome.notes == ["no pruned candidate held the floor; the bisection's probes show how far each missed it"]


@pytest.mark.parametrize("evaluations", [1, 3, 10, 200])
def test_the_searches_of_a_run_share_its_evaluations(run: Any, evaluations: int) -> None:
    """Each search needs one; beyond that their sum stays within what was allowed."""
    shop, outcome = run(Budget(0.01), evaluations, loses=lambda share: 0 if share >= 0.4 else 100)
    assert searched(shop) <= max(evaluations, len(outcome.probes))


def test_without_data_only_dead_channels_go(run: Any) -> None:
    shop, outcome = run(Budget(None), data=False)
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
def test_counts_are_searched_under_once(run: Any, ceilings: dict[str, Limit], share: float) -> None:
    _, outcome = run(Budget(0.01, **ceilings))
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(share)
    assert len(outcome.probes) == 1


def test_a_size_is_approached_by_the_bytes_a_parameter_really_took(run: Any) -> None:
    shop, outcome = run(Budget(0.01, max_size=Limit(5000)))
    assert len(outcome.probes) == 1  # the header, which no cut removes, is told from two artifacts
    assert 4900 < outcome.candidates["pruned-quantized"].size_bytes <= 5000
    assert searched(shop) <= 60


def test_a_size_that_the_line_did_not_tell_is_tried_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Made.size_bytes.fget
    bulge = 600  # what only middling sizes take
    monkeypatch.setattr(
        Made, "size_bytes", property(lambda made: straight(made) + bulge * (2000 < made.parameters < 6000))
    )
    shop, outcome = run(Budget(0.01, max_size=Limit(5000)))
    *tries, last = [probe.size_bytes > 5000 for probe in outcome.probes]
    assert tries and all(tries) and not last
    assert 4500 < outcome.candidates["pruned-quantized"].size_bytes <= 5000
    assert searched(shop) <= 60


def test_a_latency_is_bisected_on_untrained_shapes_and_only_one_is_trained(run: Any) -> None:
    shop, outcome = run(Budget(0.5, max_latency=Limit(0.62, True)), cost="measured")
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(0.6)
    trained = [m for m in shop.finished if any(p.name == "finetune" for p in m.passes)]
    assert len({m.share for m in trained}) == 1
    assert len([p for p in outcome.probes if p.name.startswith("shape at")]) >= 3


def test_a_build_slower_than_its_shape_is_cut_further(run: Any) -> None:
    _, outcome = run(Budget(0.5, max_latency=Limit(0.62, True), max_macs=Limit(0.5, True)), cost="measured")
    assert outcome.candidates["pruned-quantized"].share == pytest.approx(0.5)


def test_lower_precision_alone_may_do(run: Any) -> None:
    shop, outcome = run(Budget(0.01, max_size=Limit(0.5, True)), preparation=("finetune",))
    assert outcome.control is None, "nothing was trained that it could be a control for"
    assert outcome.notes == ["lower precision alone meets every ceiling, so nothing was pruned for them"]
    assert searched(shop) == 0


@pytest.mark.parametrize(
    ("ceilings", "sentence"),
    [
        ({"max_macs": Limit(1e-3, True)}, "out of reach: the smallest reachable is 0.0"),
        ({"max_size": Limit(900)}, r"the ceiling of 900 bytes is out of reach: the smallest reachable is 1\d{3} b"),
        ({"max_latency": Limit(0.01, True)}, r"artifact takes 0\.05 ms \(0\.050x of the original's\)"),
    ],
)
def test_what_is_out_of_reach_is_refused_before_any_search(
    run: Any, ceilings: dict[str, Limit], sentence: str
) -> None:
    with pytest.raises(Infeasible, match=sentence):
        run(Budget(0.01, **ceilings), cost="measured")


# --- the widths on offer ----------------------------------------------------------------------------------------------


def _grid(cost_model: CostModel, budget: Budget, multiple: int = 16, cost: str = "measured") -> CostModel:
    shop = Shop(cost_model, budget, cost)
    shop.means.board.widest_multiple = multiple
    tools = SimpleNamespace(sparsify=Sparsify(), export=SimpleNamespace(name="export"), quantize=_Quantize())
    return Ceilings(shop, tools, shop.finish("quantized-only", ())).grid(cost_model)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Quantize:
    name: str = "quantize"
    lowered: tuple[str, ...] = ()
    method: str = "auto"


def test_a_shape_is_lowered_where_the_quantized_candidate_is(
    cost_model: CostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(cost_model, Budget(0.01), "measured", lowered=("stem", "gone"))
    monkeypatch.setattr(ceilings_module, "lowerable_names", lambda path: ("stem", "slow"))
    tools = SimpleNamespace(sparsify=Sparsify(), export=SimpleNamespace(name="export"), quantize=_Quantize())
    shape = Ceilings(shop, tools, shop.finish("quantized-only", ())).untrained("shape", [])  # type: ignore[arg-type]
    assert shape.passes[-1] == _Quantize(lowered=("stem",), method="percentile")


def _rungs(cost: CostModel) -> set[int]:
    return {rung for g in cost.groups for rung in g.ladder if rung != g.channels}


@pytest.fixture
def uneven() -> CostModel:
    return trace(torch_model(tiny.network(), (1, 3, 12, 12)), (4,))


def test_where_the_clock_decides_widths_are_aligned(uneven: CostModel) -> None:
    assert any(rung % 8 for rung in _rungs(uneven))
    narrow = _grid(uneven, Budget(0.01), multiple=8)
    assert _rungs(narrow)
    assert all(rung % 8 == 0 for rung in _rungs(narrow))
    assert [g.block for g in narrow.groups] == [g.block for g in uneven.groups]


@pytest.mark.parametrize(
    ("budget", "cost"),
    [
        (Budget(0.01), "macs"),
        (Budget(0.01), "estimated"),
        (Budget(0.01, max_macs=Limit(0.5, True)), "measured"),
        (Budget(0.01, max_parameters=Limit(0.5, True)), "measured"),
    ],
)
def test_elsewhere_every_width_is_on_offer(uneven: CostModel, budget: Budget, cost: str) -> None:
    assert _grid(uneven, budget, 8, cost) is uneven


def test_finer_widths_are_on_offer_where_aligned_ones_do_not_suffice(
    uneven: CostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings_module, "lowerable_names", lambda path: ())
    least = min(uneven.cost([DROP if g.block else g.ladder[-1] for g in uneven.groups])["macs"], np.inf)
    tight = Budget(0.01, max_latency=Limit(0.5, True), max_macs=Limit(1.01 * least))
    assert _grid(uneven, tight, 16) is uneven
    loose = dataclasses.replace(tight, max_macs=Limit(0.9, True))
    assert _grid(uneven, loose, 16) is not uneven
