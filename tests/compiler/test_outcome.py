"""Which candidate wins, told by tables of made-up ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeprune.budget import Budget, Limit, exit_code, verdict
from edgeprune.compiler import outcome
from edgeprune.compiler.outcome import choose
from edgeprune.compiler.request import Request
from edgeprune.report import Latency, Measurement, Score

ITEMS = 1000


@dataclass(frozen=True)
class Made:
    """A candidate by what is known of it: MACs, bytes, wrong answers in a thousand, latency beside the original."""

    name: str
    macs: float = 100.0
    size_bytes: int = 1000
    wrong: int = 50
    ratio: float = 1.0
    parameters: int = 10
    steps: tuple[Any, ...] = ()
    nonzero: dict[str, float] | None = None

    def counts(self) -> dict[str, float]:
        return {"size": self.size_bytes, "macs": self.macs, "parameters": self.parameters, **(self.nonzero or {})}

    @property
    def score(self) -> Score:
        right = np.ones(ITEMS)
        right[: self.wrong] = 0.0
        return Score(float(right.mean()), ITEMS, right)


@dataclass
class Shop:
    """A workshop that knows the answers."""

    source: Made
    budget: Budget
    cost: str = "measured"
    asked: list[str] = field(default_factory=list)

    @property
    def means(self) -> Any:
        return SimpleNamespace(budget=self.budget, cost=self.cost)

    def holds(self, candidate: Made) -> bool | None:
        if self.budget.max_accuracy_drop is None:
            return None
        return self.source.score.drop_to(candidate.score)[0] <= self.budget.max_accuracy_drop

    def recorded_measure(self, candidate: Made) -> Measurement:
        self.asked.append(candidate.name)
        ms = candidate.ratio * 2.0
        return Measurement(source="measured", latency_ms=Latency(p50=ms, p90=ms, p99=ms), ratio=candidate.ratio)


def chosen(
    *made: Made, cost: str = "measured", drop: float | None = 0.01, **ceilings: Limit
) -> tuple[str, dict[str, str]]:
    source = Made("original")
    shop: Any = Shop(source, Budget(drop, **ceilings), cost)
    choice = choose(shop, SimpleNamespace(candidates={c.name: c for c in (source, *made)}))  # type: ignore[arg-type]
    return choice.finished.name, dict(choice.remarks)


Q = Made("quantized-only", size_bytes=250, ratio=0.5)
P = Made("pruned-only", macs=60, size_bytes=600, ratio=0.8)
PQ = Made("pruned-quantized", macs=60, size_bytes=150, ratio=0.3)


def changed(made: Made, **changes: Any) -> Made:
    return Made(**{**made.__dict__, **changes})


@pytest.mark.parametrize(
    ("made", "options", "winner"),
    [
        ((), {}, "original"),
        ((Q, P, PQ), {}, "pruned-quantized"),
        ((Q, P, changed(PQ, wrong=90)), {}, "quantized-only"),
        ((Q, P, changed(PQ, ratio=0.495)), {}, "quantized-only"),  # a hundredth faster is not worth a cut
        ((Q, P, changed(PQ, ratio=0.48)), {}, "pruned-quantized"),
        ((changed(Q, ratio=1.3), changed(P, ratio=1.1), changed(PQ, ratio=1.2)), {}, "original"),
        ((changed(Q, wrong=90), P, changed(PQ, wrong=90)), {}, "pruned-only"),
        ((Q, P, PQ), {"max_size": Limit(0.2, True)}, "pruned-quantized"),
        ((Q, P, changed(PQ, ratio=0.9)), {"max_macs": Limit(0.7, True)}, "pruned-only"),
        ((Q, P, PQ), {"max_latency": Limit(0.4, True)}, "pruned-quantized"),
        ((Q, P, PQ), {"max_latency": Limit(0.7), "drop": None}, "pruned-quantized"),  # 0.6 ms
        # nothing holds everything: the fewest ceilings broken, then the least loss
        ((Q, changed(P, wrong=80), changed(PQ, wrong=90)), {"max_macs": Limit(0.7, True)}, "pruned-only"),
        ((Q, P, changed(PQ, macs=80)), {"max_macs": Limit(0.5, True), "max_size": Limit(200)}, "pruned-quantized"),
        ((changed(Q, wrong=90), changed(P, wrong=80)), {"max_size": Limit(0.01, True)}, "pruned-only"),
        # no clock: MACs, then bytes; precision stays where it holds the floor
        ((changed(Q, ratio=9.0), P, changed(PQ, ratio=9.0)), {"cost": "macs"}, "pruned-quantized"),
        ((changed(Q, ratio=9.0),), {"cost": "macs"}, "quantized-only"),
        ((Q, P, changed(PQ, wrong=90)), {"cost": "macs"}, "pruned-only"),
    ],
)
def test_the_winner(made: tuple[Made, ...], options: dict[str, Any], winner: str) -> None:
    assert chosen(*made, **options)[0] == winner


def test_every_candidate_gets_a_remark() -> None:
    name, remarks = chosen(Q, changed(P, wrong=90), PQ)
    assert name == "pruned-quantized"
    assert remarks == {
        "original": "holds everything, at 3.33x of the chosen one's latency",
        "quantized-only": "holds everything, at 1.67x of the chosen one's latency",
        "pruned-only": "breaks the accuracy floor (+4.00 points on the search split)",
        "pruned-quantized": "chosen: the fastest that holds everything",
    }
    _, remarks = chosen(Q, P, max_size=Limit(0.1, True))
    assert remarks["quantized-only"] == "best found; breaks the size ceiling"


MASKED = Made("pruned-quantized", size_bytes=250, ratio=0.505, nonzero={"macs": 40.0, "parameters": 4})


@pytest.mark.parametrize(
    ("made", "options", "winner"),
    [
        ((Q, MASKED), {}, "pruned-quantized"),  # as fast as Q for the clock: then what was asked for decides
        ((Q, changed(MASKED, ratio=0.6)), {}, "quantized-only"),
        ((Q, changed(MASKED, wrong=90)), {}, "quantized-only"),
        ((Q, changed(MASKED, name="pruned-only", size_bytes=1000, ratio=0.505), MASKED), {}, "pruned-only"),
        ((Q, MASKED), {"max_parameters": Limit(0.4, True), "drop": None}, "pruned-quantized"),
        ((Q, changed(MASKED, wrong=80)), {"max_parameters": Limit(0.39, True)}, "quantized-only"),
        ((Q, changed(MASKED, size_bytes=300)), {"cost": "macs"}, "pruned-quantized"),
        ((Q, MASKED), {"cost": "macs", "max_macs": Limit(0.4, True)}, "pruned-quantized"),
    ],
)
def test_masks_win_by_what_is_not_zero_and_never_by_time(
    made: tuple[Made, ...], options: dict[str, Any], winner: str
) -> None:
    assert chosen(*made, **options)[0] == winner


def test_a_masked_winner_is_not_called_faster() -> None:
    _, remarks = chosen(Q, MASKED)
    assert remarks["pruned-quantized"] == (
        "chosen: of those that hold everything at this speed, it has the fewest weights that are not zero"
    )
    assert remarks["quantized-only"] == "holds everything, at 0.99x of the chosen one's latency"


def test_without_a_clock_none_is_read() -> None:
    shop: Any = Shop(Made("original"), Budget(0.01, max_macs=Limit(0.7, True)), "macs")
    choose(shop, SimpleNamespace(candidates={c.name: c for c in (shop.source, Q, P, PQ)}))  # type: ignore[arg-type]
    assert shop.asked == []


@pytest.mark.parametrize(
    ("wrong", "floor", "seen", "word", "code"),
    [
        (55, 0.01, True, "met", 0),
        (65, 0.01, True, "not-met", 3),
        (65, None, True, "unchecked", 0),
        (65, 0.01, False, "unchecked", 0),
    ],
)
def test_the_floor_is_judged_on_the_test_split_by_the_point_estimate(
    wrong: int, floor: float | None, seen: bool, word: str, code: int
) -> None:
    source, result = Made("original"), Made("result", wrong=wrong)
    shop: Any = Shop(source, Budget(floor if seen else None))
    latency = shop.recorded_measure(result)
    truth, found = (source.score, result.score) if seen else (None, None)
    checks = outcome._checks(
        shop, result, {"original": latency, "result": latency}, truth, found, Request(budget=Budget(floor))  # type: ignore[arg-type]
    )
    assert verdict(checks) == word
    assert exit_code(verdict(checks)) == code
    assert [c.basis for c in checks] == ([] if floor is None else ["measured" if seen else "unchecked"])


def test_limits_become_absolute_and_what_was_not_timed_is_unchecked() -> None:
    budget = Budget(None, Limit(0.5, True), Limit(60), Limit(500), Limit(0.7, True), Limit(0.5, True))
    source, result = Made("original"), PQ
    shop: Any = Shop(source, budget)
    times = {"original": shop.recorded_measure(source), result.name: shop.recorded_measure(result)}
    checks = outcome._checks(shop, result, times, None, None, Request(budget=budget))  # type: ignore[arg-type]
    assert [(c.quantity, c.limit, c.found, c.basis, c.held) for c in checks] == [
        ("latency", 1.0, 0.6, "measured", True),
        ("energy", 60, None, "unchecked", None),
        ("size", 500, 150, "exact", True),
        ("macs", 70, 60, "exact", True),
        ("parameters", 5, 10, "exact", False),
    ]
    times[result.name] = Measurement(source="unavailable")
    first = outcome._checks(shop, result, times, None, None, Request(budget=budget))[0]  # type: ignore[arg-type]
    assert (first.found, first.basis, first.held) == (None, "unchecked", None)


def test_a_candidate_trained_twice_shows_its_own_training() -> None:
    def trained(*losses: float) -> tuple[SimpleNamespace, ...]:
        rows = [[{"epoch": 0, "loss": None, "score": loss}] for loss in losses]
        return tuple(SimpleNamespace(name="finetune", facts={"epochs": row}) for row in rows)

    found = outcome.Outcome(
        {"activations-quantized": Made("activations-quantized", steps=trained(0.3)),
         "pruned-only": Made("pruned-only", steps=trained(0.3, 0.4))},  # type: ignore[dict-item]
        [Made("probe", steps=trained(0.3, 0.4))],  # type: ignore[list-item]
    )  # fmt: skip
    shop = SimpleNamespace(preparation=trained(0.1))
    rows = [(r["candidate"], r["score"]) for r in outcome._learning(shop, found)]  # type: ignore[arg-type]
    assert rows == [("original", 0.1), ("probe", 0.4), ("activations-quantized", 0.3)]
