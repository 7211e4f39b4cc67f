"""Latency tables in a build: what a search reckons with is what the finished graph takes."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from contexts import BOARD, context, torch_model
from machine import Machine

import edgeprune
from edgeprune.benches.tabulate import facts_of
from edgeprune.budget import Budget, Limit
from edgeprune.compiler import tabling
from edgeprune.dialects.kernels import kernels_of
from edgeprune.errors import BadInput, BadOption, UnmetRequirement
from edgeprune.groups import plan_of
from edgeprune.importance import scores
from edgeprune.model import OnnxModel, TorchModel
from edgeprune.passes.base import Silent
from edgeprune.passes.export import Export
from edgeprune.profiles.energy_model import FORMULAS, run_mj
from edgeprune.profiles.latency_table import LatencyTable
from edgeprune.report import Latency, Measurement
from edgeprune.surgery import rebuild, resolve
from edgeprune.tally import Tallied, Tally, Term
from edgeprune.tracing import trace


def exported(model: TorchModel, folder: Path) -> OnnxModel:
    folder.mkdir()
    ctx, _ = context(folder, model, board=BOARD)
    return Export().run(model, ctx)


@pytest.fixture
def original() -> TorchModel:
    return torch_model(tiny.network(), (1, 3, 12, 12))


def table_of(model: OnnxModel, path: Path) -> LatencyTable:
    bench: Any = Machine()
    table = tabling.open_table(path, bench)
    tabling.extend(table, path, bench, model, tabling.units_of(model), Silent())
    return table


def test_the_search_reckons_with_what_the_finished_graph_takes(original: TorchModel, tmp_path: Path) -> None:
    whole = exported(original, tmp_path / "whole")
    table = table_of(whole, tmp_path / "t.json")
    cost = Tallied(trace(original), [tabling.tally_of(table, tabling.units_of(whole))])
    assert cost.full["latency"] == pytest.approx(tabling.predicted_ms(table, whole), rel=1e-6)
    rng, ranking = np.random.default_rng(0), scores(original, cost.groups, "l2", None, 0)
    for turn in range(3):
        widths = tuple(int(rng.choice(g.ladder)) for g in cost.groups)
        smaller = rebuild(original, resolve(original.module, cost.groups, plan_of(cost.groups, widths, ranking)))
        made = exported(smaller, tmp_path / str(turn))
        assert cost.cost(widths)["latency"] == pytest.approx(tabling.predicted_ms(table, made), rel=0.03)
        assert cost.cost(widths)["latency"] < cost.full["latency"]


def test_a_table_is_kept_and_asked_again_measures_nothing(original: TorchModel, tmp_path: Path) -> None:
    whole = exported(original, tmp_path / "whole")
    table = table_of(whole, tmp_path / "t.json")
    assert LatencyTable.read(tmp_path / "t.json") == table
    bench: Any = Machine()
    again = tabling.open_table(tmp_path / "t.json", bench)
    assert tabling.extend(again, tmp_path / "t.json", bench, whole, tabling.units_of(whole), Silent()) == 0
    assert bench.calls == 0


def test_a_table_of_another_machine_is_refused(tmp_path: Path) -> None:
    bench: Any = Machine()
    other = facts_of(bench).model_copy(update={"processor": "another"})
    LatencyTable(other).write(tmp_path / "t.json")
    with pytest.raises(BadInput) as error:
        tabling.open_table(tmp_path / "t.json", bench)
    assert str(error.value) == (
        f"{tmp_path / 't.json'} was measured with processor another, and this is none; give another file"
    )


def test_a_table_wants_a_clock(tmp_path: Path) -> None:
    bench: Any = SimpleNamespace(source="estimated", board=SimpleNamespace(name="jetson-orin"))
    with pytest.raises(UnmetRequirement) as error:
        tabling.open_table(tmp_path / "t.json", bench)
    assert str(error.value) == "--table wants a clock, and jetson-orin is not here; measure on the board with --board"


def test_a_table_where_no_file_can_be_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench: Any = Machine()
    with pytest.raises(BadOption):
        tabling.open_table(tmp_path / "file" / "t.json", bench)


def test_predictions_of_a_build_are_at_the_pace_of_its_own_session(original: TorchModel, tmp_path: Path) -> None:
    whole = exported(original, tmp_path / "whole")
    table = table_of(whole, tmp_path / "t.json")
    there = dataclasses.replace(whole, runtime="openvino")
    models = {"quantized-only": whole, "pruned-quantized": whole, "pruned-quantized, openvino": there}
    clock = {"quantized-only": 3.0, "pruned-quantized": 2.0, "pruned-quantized, openvino": 1.0}
    measured = {name: Measurement(source="measured", latency_ms=Latency(p50=ms)) for name, ms in clock.items()}
    [told] = tabling.predictions(table, models, measured)
    assert (told.name, told.predicted_ms, told.measured_ms) == ("pruned-quantized", pytest.approx(3.0), 2.0)
    assert tabling.predictions(None, models, measured) == ()
    assert tabling.predictions(LatencyTable(table.facts), models, measured) == ()
    assert "over 1 graphs: 50.0 % apart in the median" in tabling.told([told])


def test_with_a_table_the_bisection_is_over_latency(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SimpleNamespace(digest=lambda: "0123456789abcdef")
    monkeypatch.setattr(tabling, "open_table", lambda path, bench: table)
    monkeypatch.setattr(tabling, "units_of", lambda model: ())
    monkeypatch.setattr(tabling, "extend", lambda *arguments: 0)
    first = Term(whole=1.0, moved={"0": 1.0})
    monkeypatch.setattr(tabling, "tally_of", lambda table, found: Tally("latency", [first], 1.0))
    shop, outcome = decide(Budget(0.01), cost="measured", table=Path("t.json"))
    searches = [one for made in shop.finished for one in made.passes if one.name == "sparsify"]
    assert searches and all([q for q, _ in one.limits] == ["latency"] and one.tallies for one in searches)
    assert all("x predicted latency" in probe.name for probe in outcome.probes)
    assert outcome.table is table and "the search aimed at latency, told by t.json (0123456789ab)" in outcome.notes


def test_mixed_plans_are_told_what_float_takes_too(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SimpleNamespace(digest=lambda: "0123456789abcdef")
    monkeypatch.setattr(tabling, "open_table", lambda path, bench: table)
    monkeypatch.setattr(tabling, "units_of", lambda model: model)
    monkeypatch.setattr(tabling, "extend", lambda *arguments: 0)
    asked: list[Any] = []

    def told(table: Any, found: Any) -> Tally:
        asked.append(found)
        return Tally("latency", [Term(whole=float(len(asked)), moved={"0": 1.0})], 1.0)

    monkeypatch.setattr(tabling, "tally_of", told)
    settings = {"sparsify": {"mixed": "true"}}
    shop, outcome = decide(Budget(0.01), cost="measured", table=Path("t.json"), settings=settings)
    searches = [one for made in shop.finished for one in made.passes if one.name == "sparsify"]
    assert searches and all(one.mixed and one.tallies[0].floating is not None for one in searches)
    floating = next(made for made in shop.finished if made.name == "quantized-only in float")
    assert [one.name for one in floating.passes] == ["export"]
    assert "plans chose float or int8 for each group, by what the table tells of both" in outcome.notes
    message = r"^sparsify\.mixed goes by what int8 and float take, layer by layer; give --table FILE$"
    with pytest.raises(UnmetRequirement, match=message):
        decide(Budget(0.01), settings=settings)
    message = r"^sparsify\.mixed lowers precision for time; give --max-latency, or no ceiling at all$"
    with pytest.raises(UnmetRequirement, match=message):
        decide(Budget(0.01, max_macs=Limit.parse("macs", "0.5x")), table=Path("t.json"), settings=settings)


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_energy_of_a_plan_is_that_of_its_finished_graph(formula: Any, original: TorchModel, tmp_path: Path) -> None:
    whole = exported(original, tmp_path / "whole")
    cost = Tallied(trace(original), [tabling.energy_of(tabling.units_of(whole), formula)])
    assert cost.full["energy"] == pytest.approx(run_mj(kernels_of(whole.path), formula))
    rng, ranking = np.random.default_rng(0), scores(original, cost.groups, "l2", None, 0)
    for turn in range(3):
        widths = tuple(int(rng.choice(g.ladder)) for g in cost.groups)
        smaller = rebuild(original, resolve(original.module, cost.groups, plan_of(cost.groups, widths, ranking)))
        made = exported(smaller, tmp_path / str(turn))
        assert cost.cost(widths)["energy"] == pytest.approx(run_mj(kernels_of(made.path), formula), rel=0.02)


def test_under_a_ceiling_on_energy_the_bisection_is_over_energy(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabling, "units_of", lambda model: ())
    first = Term(whole=1.0, moved={"0": 1.0})
    monkeypatch.setattr(tabling, "energy_of", lambda found, formula: Tally("energy", [first], 1.0))
    bench = SimpleNamespace(energy_method="theoretical")
    shop, outcome = decide(Budget(0.01, max_energy=Limit.parse("energy", "0.5x")), cost="measured", bench=bench)
    searches = [one for made in shop.finished for one in made.passes if one.name == "sparsify"]
    assert searches and all(dict(one.limits).keys() == {"energy"} for one in searches)
    assert "the search aimed at theoretical energy" in outcome.notes


def test_a_build_refuses_a_table_that_does_not_fit_before_any_work(
    at: Path, clock: tiny.Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "t.json").write_text("{}")
    asked = {"model": "net.safetensors", "arch": "net.py:net", "data": "data.npz", **tiny.QUICK, "cost": "measured"}
    with pytest.raises(BadInput, match=r"t\.json is not a latency table"):
        edgeprune.compile(**asked, table=tmp_path / "t.json", out=tmp_path / "out")
    assert clock.calls == [] and not (tmp_path / "out").exists()
