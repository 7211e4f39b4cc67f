"""The driving study runs from a checkpoint to its table, and says what its rows say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_detector

from edgeprune.compiler import toolbox
from edgeprune.report import Latency, Measurement

FOLDER = Path(__file__).parents[2] / "examples" / "kitti"


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("study")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("study", "results", "timing"):
            sys.modules.pop(name, None)


def rows(study: Any, **scores: list[float]) -> list[Any]:
    """Return a dense row, and for each method a row a seed at half the parameters."""

    def row(method: str, level: float, seed: int, score: float) -> Any:
        size, macs = (1000, 1e6) if method == "dense" else (400, 3e5)
        return study.Row(method, level, seed, "fp32", score, 0.5 - score, (0.0, 0.1), 2.0, 0.5, size, macs, 100)

    found = [row("dense", 0.0, 0, 0.5)]
    return found + [row(m.replace("_", " "), 0.5, i, s) for m, values in scores.items() for i, s in enumerate(values)]


def test_the_table_gives_mean_and_spread_and_the_published_figures_beside(study: Any) -> None:
    lines = study.markdown(rows(study, agent=[0.4, 0.44], uniform=[0.41])).splitlines()
    assert lines[2] == "| 0 % | dense | fp32 | 1 | 50.0 | 0.0 | 0.50 | 1.00 | 1.00 | 42.5, 45 |"
    start = "| 50 % | agent | fp32 | 2 | 42.0 ± 2.8 | 8.0 ± 2.8 |"
    assert lines[3] == f"{start} 0.50 ± 0.00 | 0.30 ± 0.00 | 0.40 ± 0.00 | 41.7, 28 |"
    assert lines[4] == "| 50 % | uniform | fp32 | 1 | 41.0 | 9.0 | 0.50 | 0.30 | 0.40 |  |"


def test_the_comparison_pairs_the_seeds(study: Any) -> None:
    assert study.comparison(rows(study, agent=[0.40, 0.44], uniform=[0.41, 0.42])) == [
        "50 % removed: the agent's mAP is 0.50 ± 2.12 points above uniform pruning's over 2 seeds (-1.00, +2.00)"
    ]
    assert study.comparison(rows(study, agent=[0.4])) == []


def test_the_plot_is_the_same_picture_every_time(study: Any, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        study.plot(rows(study, agent=[0.40, 0.44], uniform=[0.41], zero_weights=[0.45]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_checkpoint_becomes_a_table(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolbox, "TRANSFER_EPOCHS", {"normal": 1})
    tiny.install(tiny.Clock(), monkeypatch.setattr)

    def interleave(calls: dict[str, Any]) -> dict[str, Measurement]:
        """Every artifact runs, and the first takes as long as it says."""
        assert all(next(iter(call().values())).shape[0] == 1 for call in calls.values())
        latency = Latency(p50=4.0, p90=4.0, p99=4.0)
        return {name: Measurement(source="measured", latency_ms=latency, ratio=0.25) for name in calls}

    monkeypatch.setattr(sys.modules["timing"], "interleave", interleave)
    weights = tiny_detector.save(tmp_path / "m.pt", tiny_detector.seeded())
    data = tiny_detector.write_data(tmp_path / "data", names=("yellow", "red"), train=32, val=16)
    out = tmp_path / "out"
    asked = [str(weights), str(data), "--input", "1x3x64x64", "--levels", "0.3", "--seeds", "1", "--evaluations", "2",
             "--epochs", "1", "--out", str(out)]  # fmt: skip
    assert study.main(asked) == 0
    found = json.loads((out / "rows.json").read_text())
    cells = [(r["method"], r["precision"]) for r in found]
    assert cells == [("dense", "fp32"), ("dense", "int8"), ("uniform", "fp32"), ("uniform", "int8"), ("agent", "fp32"),
                     ("agent", "int8"), ("zero weights", "fp32")]  # fmt: skip
    assert {(r["p50_ms"], r["ratio"]) for r in found} == {(4.0, 0.25)}, "of the one session at the end"
    whole = found[0]["parameters"]
    assert all(r["parameters"] <= 0.7 * whole + 1 for r in found[2:])
    assert (out / "plot.svg").read_text().startswith("<?xml") and len((out / "table.md").read_text().splitlines()) == 9


def test_what_cannot_be_read_is_one_sentence(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main([str(tmp_path / "m.pt"), str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: there is no model file {tmp_path / 'm.pt'}; check the path\n"
