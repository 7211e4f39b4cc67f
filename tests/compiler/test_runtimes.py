"""Several runtimes for one target: which candidates are offered on them, and what the report says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.compiler import runtimes
from edgeprune.compiler.outcome import choose
from edgeprune.compiler.strategy import Outcome
from edgeprune.report import Latency, Measurement


class Shop:
    """A workshop whose target has two more runtimes, one of them installed."""

    def __init__(self, cost: str = "measured") -> None:
        self.means = SimpleNamespace(cost=cost, board=SimpleNamespace(runtimes=("quick", "absent")))
        self.bench = SimpleNamespace(backend=SimpleNamespace(name="first"))

    def on(self, candidate: Any, runtime: str) -> Any:
        return SimpleNamespace(name=f"{candidate.name}, {runtime}", model=SimpleNamespace(runtime=runtime))


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"quick": "1.0", "absent": None}
    monkeypatch.setattr(
        runtimes.find, "find", lambda kind, name: lambda: SimpleNamespace(version=lambda: versions[name])
    )


def made(*names: str) -> Outcome:
    return Outcome({name: SimpleNamespace(name=name, model=SimpleNamespace(runtime="")) for name in names})  # type: ignore[misc]


def test_every_candidate_is_offered_on_what_is_installed() -> None:
    outcome = made("original", "quantized-only")
    runtimes.offer(Shop(), outcome)  # type: ignore[arg-type]
    assert list(outcome.candidates) == ["original", "quantized-only", "original, quick", "quantized-only, quick"]


def test_no_clock_no_choice() -> None:
    outcome = made("original")
    runtimes.offer(Shop("macs"), outcome)  # type: ignore[arg-type]
    assert list(outcome.candidates) == ["original"]


def measured(ms: float) -> Measurement:
    return Measurement(source="measured", latency_ms=Latency(p50=ms, p90=ms, p99=ms))


def test_the_report_sets_them_side_by_side() -> None:
    found = {"original": measured(3.0), "quantized-only": measured(2.0), "quantized-only, quick": measured(1.5)}
    shop: Any = Shop()
    assert runtimes.remark(shop, "quantized-only, quick", found) == [
        "quantized-only by runtime, p50: first 2 ms (1.00x), quick 1.5 ms (0.75x); quick is to run it"
    ]
    assert runtimes.remark(shop, "original", found) == []
    assert runtimes.remark(shop, "quantized-only", found) == [
        "quantized-only by runtime, p50: first 2 ms (1.00x), quick 1.5 ms (0.75x); first is to run it, "
        "chosen by the floor and by measurements before these"
    ]


def test_the_first_runtime_is_the_least_change() -> None:
    """Within two hundredths the target's own runtime stays."""
    from compiler.test_outcome import Made
    from compiler.test_outcome import Shop as Table

    for ratio, best in ((0.50, "quantized-only"), (0.40, "quantized-only, quick")):
        original = Made("original", ratio=1.0)
        shop = Table(original, SimpleNamespace(max_accuracy_drop=0.02, ceilings=dict))  # type: ignore[arg-type]
        candidates = {"original": original, "quantized-only": Made("quantized-only", ratio=0.505),
                      "quantized-only, quick": Made("quantized-only, quick", ratio=ratio)}  # fmt: skip
        assert choose(shop, Outcome(candidates)).finished.name == best  # type: ignore[arg-type]
