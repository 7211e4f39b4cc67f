"""What fits below the ceilings, and the widths on offer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from contexts import torch_model
from shop import CHEAPER, Made, Shop

from edgeprune.budget import Budget, Limit
from edgeprune.compiler import ceilings as ceilings_module
from edgeprune.compiler.ceilings import Ceilings
from edgeprune.errors import Infeasible, UnmetRequirement
from edgeprune.groups import DROP, CostModel
from edgeprune.passes.activation import Activation
from edgeprune.passes.sparsify import Sparsify
from edgeprune.report import Measurement
from edgeprune.tracing import trace


@pytest.mark.parametrize(
    ("ceilings", "sentence"),
    [
        ({"max_macs": Limit(1e-3, True)}, "out of reach: the smallest reachable is 0.0"),
        ({"max_size": Limit(900)}, r"the ceiling of 900 bytes is out of reach: the smallest reachable is 1\d{3} b"),
        ({"max_latency": Limit(0.01, True)}, r"artifact takes 0\.05 ms \(0\.050x of the original's\)"),
    ],
)
def test_what_is_out_of_reach_is_refused_before_any_search(
    decide: Any, ceilings: dict[str, Limit], sentence: str
) -> None:
    with pytest.raises(Infeasible, match=sentence):
        decide(Budget(0.01, **ceilings), cost="measured")


# --- the widths on offer ----------------------------------------------------------------------------------------------


def _grid(cost_model: CostModel, budget: Budget, multiple: int = 16, cost: str = "measured") -> CostModel:
    shop = Shop(cost_model, budget, cost)
    shop.means.board.widest_multiple = multiple
    export = SimpleNamespace(name="export")
    tools = SimpleNamespace(sparsify=Sparsify(), export=export, quantize=_Quantize(), dialect=(), trains=False,
                            activation=Activation())  # fmt: skip
    return Ceilings(shop, tools, shop.finish("quantized-only", ())).grid(cost_model)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Quantize:
    name: str = "quantize"
    lowered: tuple[str, ...] = ()
    method: str = "auto"
    precision: str = "auto"
    rest: str = "fp32"


def test_a_shape_is_lowered_where_the_quantized_candidate_is(
    cost_model: CostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(cost_model, Budget(0.01), "measured", lowered=("stem", "gone"))
    monkeypatch.setattr(ceilings_module, "lowerable_names", lambda path: ("stem", "slow"))
    export = SimpleNamespace(name="export")
    tools = SimpleNamespace(sparsify=Sparsify(), export=export, quantize=_Quantize(), dialect=())
    shape = Ceilings(shop, tools, shop.finish("quantized-only", ())).untrained("shape", [])  # type: ignore[arg-type]
    assert shape.passes[-1] == _Quantize(lowered=("stem",), method="percentile")


@pytest.mark.parametrize(
    ("found", "rest"), [({"precision": "fp16"}, "fp32"), ({"precision": "int8", "rest": "fp16"}, "fp16")]
)
def test_a_shape_is_in_half_precision_where_the_quantized_candidate_is(
    found: dict[str, str], rest: str, cost_model: CostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged in float32 it would be cut further than the ceiling asks for, or refused."""
    shop = Shop(cost_model, Budget(0.01), "measured")
    monkeypatch.setattr(ceilings_module, "lowerable_names", lambda path: ("stem",))
    monkeypatch.setattr(Made, "fact", lambda self, one, name: found.get(name))
    tools = SimpleNamespace(sparsify=Sparsify(), export=SimpleNamespace(name="export"), quantize=_Quantize(),
                            dialect=())  # fmt: skip
    shape = Ceilings(shop, tools, shop.finish("quantized-only", ())).untrained("shape", [])  # type: ignore[arg-type]
    assert shape.passes[-1] == _Quantize(precision="fp16", rest=rest)


def test_what_cheaper_activations_could_reach_is_not_refused(decide: Any) -> None:
    budget = Budget(0.5, max_latency=Limit(0.04, True))
    with pytest.raises(Infeasible, match=r"artifact takes 0\.05 ms"):
        decide(budget, cost="measured")
    with pytest.raises(Infeasible, match=r"artifact takes 0\.05 ms"):
        decide(budget, settings={"activation": {"to": "none"}}, **CHEAPER)
    assert decide(budget, **CHEAPER)[1].candidates


def test_a_latency_that_nothing_can_tell_is_no_broken_ceiling(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shop, "recorded_measure", lambda self, candidate: Measurement(source="unavailable"))
    said = r"^--max-latency needs a clock, or figures to estimate by, and told has neither here; measure on the board w"
    with pytest.raises(UnmetRequirement, match=said):
        decide(Budget(0.01, max_latency=Limit(0.8, True)), cost="measured", board="told")


def _rungs(cost: CostModel) -> set[int]:
    return {rung for g in cost.groups for rung in g.ladder if rung != g.channels}


@pytest.fixture
def uneven() -> CostModel:
    return trace(torch_model(tiny.network(), (1, 3, 12, 12)), (4,))


@pytest.mark.parametrize("cost", ["measured", "estimated"])
def test_where_time_decides_widths_are_aligned(uneven: CostModel, cost: str) -> None:
    assert any(rung % 8 for rung in _rungs(uneven))
    narrow = _grid(uneven, Budget(0.01), 8, cost)
    assert _rungs(narrow)
    assert all(rung % 8 == 0 for rung in _rungs(narrow))
    assert [g.block for g in narrow.groups] == [g.block for g in uneven.groups]


@pytest.mark.parametrize(
    ("budget", "cost"),
    [
        (Budget(0.01), "macs"),
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
