"""Comparisons under a ceiling on the latency that a table tells, and what leaving the table out makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgeprune
from edgeprune.benches.here import Here
from edgeprune.budget import Limit
from edgeprune.cli import main
from edgeprune.compiler import tabling
from edgeprune.compiler.cache import Store
from edgeprune.compiler.comparison_report import Comparison
from edgeprune.compiler.contest import Contest, budgets, written
from edgeprune.compiler.request import Request
from edgeprune.errors import BadOption, Infeasible
from edgeprune.model import OnnxModel
from edgeprune.tally import Tally, Term

ROW = {"arch": "net.py:net", "data": "data.npz", "agents": ["random"], "seeds": 1, "evaluations": 10,
       "settings": {"task": {"batch": "32", "calibration": "64"},
                    "sparsify": {"images": "50", "recalibration": "64"}}}  # fmt: skip


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch, at: Path, tmp_path: Path) -> list[str]:
    """A table whose latencies are made up: the last convolution alone takes time. What was measured into it is listed.
    """
    measured: list[str] = []

    def extend(table: Any, path: Path, bench: Any, model: OnnxModel, found: Any, progress: Any) -> int:
        measured.append(path.name)
        return 0

    def told(table: Any, found: Any) -> Tally:
        last = [unit for unit in found if unit.scalable][-1]
        rows = Term(last.part.name, (1.0, last.outputs), (1.0, last.inputs),
                    tiny_grid(last.outputs, last.inputs))  # fmt: skip
        return Tally("latency", [rows], 0.1)

    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tabling, "extend", extend)
    monkeypatch.setattr(tabling, "tally_of", told)
    monkeypatch.setattr(Here, "measure", lambda self, models: tiny.Clock().measure(models))
    return measured


def tiny_grid(outputs: float, inputs: float) -> Any:
    return np.array([[0.01, 0.1], [0.1, 1.0]]) * outputs * inputs / 100


def compared(out: Path, **changes: Any) -> Comparison:
    return edgeprune.compare("net.safetensors", out=out, table=out.parent / "t.json", **{**ROW, **changes})


def test_a_ceiling_on_latency_is_of_what_the_table_tells(filled: list[str], tmp_path: Path) -> None:
    report = compared(tmp_path / "out", max_latency="0.6x", ablations=["no-measured-cost"])
    by_clock, by_macs = report.cells
    assert (by_clock.method, by_macs.method) == ("random", "random (no measured cost)")
    assert filled == ["t.json"]
    whole = compared(tmp_path / "whole", max_macs="1.0x", agents=["uniform"]).cells[0]
    assert by_clock.told_ms <= 0.6 * whole.told_ms + 1e-9
    assert by_macs.macs <= 0.6 * report.dense.macs
    assert by_clock.plan != by_macs.plan and by_clock.key != by_macs.key
    assert by_clock.measurement is not None, "a table says that the clock counts"
    assert [budget.label for budget in report.budgets] == ["0.6x latency"]
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert re.search(r"Ceilings on latency are on what \S+t\.json \([0-9a-f]{12}\) tells of float32 graphs", text)
    assert "held to the same share of the MACs instead of the latency" in text


def test_a_ceiling_below_what_the_table_tells_of_the_smallest_plan_is_refused(
    filled: list[str], tmp_path: Path
) -> None:
    with pytest.raises(Infeasible, match=r"^the ceiling of .*latency.* is out of reach: the smallest"):
        compared(tmp_path / "out", max_latency="0.001ms")
    assert not (tmp_path / "out" / "cells").exists()


def test_a_ceiling_whose_share_of_the_macs_is_out_of_reach_is_refused_before_any_cell(
    filled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(table: Any, found: Any) -> Tally:
        one = [unit for unit in found if unit.scalable][-1]  # almost nothing once it is given a little less
        axis = (1.0, one.inputs - 1.0, float(one.inputs))
        return Tally("latency", [Term(one.part.name, (float(one.outputs),), axis, np.array([[1e-9, 1e-9, 1.0]]))])

    monkeypatch.setattr(tabling, "tally_of", told)
    asked = {"max_latency": ["0.9x", "0.11x"], "out": tmp_path / "out"}
    said = r"^--ablation no-measured-cost searches under the same share of the MACs as 0\.11x latency, and the ceiling "
    with pytest.raises(Infeasible, match=said + r".*; leave out the ablation, or that ceiling$"):
        compared(**asked, ablations=["no-measured-cost"])
    assert not (tmp_path / "out" / "cells").exists()
    assert len(compared(**asked).cells) == 2


def test_the_table_is_filled_by_one_comparison_at_a_time(
    filled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []
    while_held: list[int] = []
    opened = Store.open

    @contextmanager
    def open(self: Store, name: str) -> Iterator[Path]:
        with opened(self, name) as folder:
            held.append(name)
            yield folder
            held.remove(name)

    monkeypatch.setattr(Store, "open", open)
    monkeypatch.setattr(tabling, "extend", lambda *_: while_held.append(len(held)))
    compared(tmp_path / "out")
    assert while_held == [1]


def test_what_only_a_table_can_tell_needs_one() -> None:
    latency = budgets(latency=[Limit.parse("latency", "0.5x")])
    with pytest.raises(BadOption, match=r"^2 seeds from 4294967295 on go beyond 2\*\*32 - 1; give a smaller --seed$"):
        Contest(Request(seed=2**32 - 1), ("random",), seeds=2)
    assert Contest(Request(seed=2**32 - 1), ("random",), seeds=1).seeds == 1
    with pytest.raises(BadOption, match=r"^--max-latency of a comparison is of what a latency table tells; give"):
        Contest(Request(), ("random",), latency)
    masked = Request(table=Path("t"), settings={"sparsify": {"granularity": "element"}})
    with pytest.raises(BadOption, match=r"^zeros make no kernel faster, so --max-latency is for sparsify.granularity="):
        Contest(masked, ("random",), latency)
    for request, chosen in ((Request(table=Path("t")), budgets()), (Request(), budgets())):
        with pytest.raises(BadOption, match=r"^--ablation no-measured-cost goes by MACs where others go by a table"):
            Contest(request, ("random",), chosen, ablations=("no-measured-cost",))


def test_how_a_ceiling_on_latency_is_written() -> None:
    assert written("latency", Limit.parse("latency", "3ms")) == "3 ms"
    assert written("latency", Limit.parse("latency", "0.5x")) == "0.5x latency"


def test_the_command_line_says_the_same(at: Path) -> None:
    told = CliRunner().invoke(main, ["compare", "net.safetensors", "--arch", "net.py:net", "--data", "data.npz",
                                     "--max-latency", "0.5x"])  # fmt: skip
    assert told.exit_code == 2
    sentence = "--max-latency of a comparison is of what a latency table tells; give --table FILE too"
    assert told.stderr == f"error: {sentence}\n"
