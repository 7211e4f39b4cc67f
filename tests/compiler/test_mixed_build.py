"""A build whose plans choose precisions too: what was chosen is what is emitted, and what a recipe builds again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from conftest import arguments

import edgeprune
from edgeprune.compiler import tabling
from edgeprune.model import OnnxModel, file_digest
from edgeprune.passes.graph import kept_floating
from edgeprune.passes.lowering import lowerable_names
from edgeprune.report import Latency, Measurement
from edgeprune.tally import Tally, Term


class Faster(tiny.Clock):
    """A millisecond a million MACs, and half of it for a graph with int8 in it."""

    def measure(self, models: Mapping[str, OnnxModel]) -> dict[str, Measurement]:
        took = {}
        for name, model in models.items():
            int8 = any(node.op_type == "QuantizeLinear" for node in onnx.load(model.path).graph.node)
            took[name] = tiny.macs(model.path) / 1e6 * (0.5 if int8 else 1.0)
        first = next(iter(took.values()))
        return {
            name: Measurement(source="measured", latency_ms=Latency(p50=ms, p90=ms, p99=ms), ratio=ms / first,
                              ratio_interval=(ms / first, ms / first))
            for name, ms in took.items()
        }  # fmt: skip


def told(table: Any, found: Any) -> Tally:
    """Every layer takes its channels' product; int8 a tenth of it, but in the first one ten times as much."""
    terms = []
    layers = [unit for unit in found if unit.scalable]
    for unit in layers:
        factor = 1.0 if "int8" not in unit.form else 10.0 if unit is layers[0] else 0.1
        sides = np.arange(1.0, unit.outputs + 1), np.arange(1.0, unit.inputs + 1)
        terms.append(Term(unit.part.name, tuple(sides[0]), tuple(sides[1]), factor * np.outer(*sides)))
    return Tally("latency", terms, 0.1)


def test_what_the_plan_leaves_in_float_is_emitted_so(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.install(Faster(), monkeypatch.setattr)
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tabling, "extend", lambda *arguments: 0)
    monkeypatch.setattr(tabling, "tally_of", told)
    settings = {**tiny.QUICK["settings"], "sparsify": {**tiny.QUICK["settings"].get("sparsify", {}), "mixed": "true"}}
    options = arguments(cost="measured", max_accuracy_drop=0.9, max_latency="0.1x", settings=settings, agent="random")
    build = edgeprune.compile(**options, table=tmp_path / "t.json", out=tmp_path / "out")
    report = build.report
    rows = {row.group: row.precision for row in report.plan}
    assert set(rows.values()) <= {"int8", "float", None} and "int8" in rows.values()
    chosen = next(c for c in report.candidates if c.chosen)
    assert chosen.name == "pruned-quantized"
    step = next(s for s in report.steps if s.name == "quantize" and s.candidate.startswith("trained"))
    proto = onnx.load(build.directory / "model.onnx")
    assert kept_floating(proto) == frozenset()
    floating = {name for name, precision in rows.items() if precision == "float"}
    assert floating and floating == set(lowerable_names(build.directory / "model.onnx")), "what has float weights"
    assert not floating & set(step.facts["lowered"])
    again = edgeprune.compile(recipe=tmp_path / "out", arch=options["arch"], out=tmp_path / "again")
    assert file_digest(again.directory / "model.onnx") == file_digest(build.directory / "model.onnx")
