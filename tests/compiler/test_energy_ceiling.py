"""A ceiling on energy: held by what a sensor says, refused where none answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from compiler.conftest import arguments

import edgeprune
from edgeprune.benches.here import Here
from edgeprune.budget import Budget, Limit
from edgeprune.compiler.verify import verify
from edgeprune.compiler.workshop import Workshop
from edgeprune.errors import Infeasible, UnmetRequirement
from edgeprune.model import OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.passes.export import Export
from edgeprune.profiles.energy import Energy
from edgeprune.report import Measurement


@pytest.fixture
def meter(clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A sensor that takes a MAC for a nanojoule, half of it for int8; gives the graphs it was asked for."""
    asked: list[str] = []

    def energy(self: Here, model: OnnxModel) -> Energy:
        asked.append(model.digest())
        total = tiny.macs(model.path) / 1e6
        return Energy(total, total / 2, 1000.0, 500.0, 0.01, 3, 100, "made up")

    def complete(self: Any, measured: Measurement, model: OnnxModel) -> Measurement:
        found = energy(self.bench, model)
        return measured.model_copy(update={"energy_mj": found.total_mj, "energy_source": "measured"})

    monkeypatch.setattr(Here, "energy", energy)
    monkeypatch.setattr("edgeprune.compiler.workshop.Workshop.complete", complete)
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    return asked


def test_a_ceiling_on_energy_is_held(at: Path, tmp_path: Path, meter: list[str]) -> None:
    asked = arguments(max_energy="0.4x", max_accuracy_drop=0.9, cost="measured")
    made = edgeprune.compile(**asked, out=tmp_path / "out")
    assert made.report.verdict == "met"
    [row] = [row for row in made.report.budget if row.quantity == "energy"]
    assert made.report.result is not None and made.report.baseline.measurement.energy_mj is not None
    assert row.held and row.basis == "measured" and row.found == made.report.result.measurement.energy_mj
    assert row.limit == pytest.approx(0.4 * made.report.baseline.measurement.energy_mj)
    looked = len(meter)
    edgeprune.compile(**asked, out=tmp_path / "again")
    assert len(meter) == looked + 2, "decisions come from the record; the report's two figures are measured anew"


def test_what_one_meter_told_is_not_taken_for_another_s(at: Path, tmp_path: Path, meter: list[str]) -> None:
    asked = arguments(max_energy="0.4x", max_accuracy_drop=0.9, cost="measured")
    edgeprune.compile(**asked, out=tmp_path / "out")
    looked = len(meter)
    edgeprune.compile(**asked, power_log=tmp_path / "one.csv", out=tmp_path / "log")
    assert len(meter) > looked + 2, "a sensor's decisions are not an external meter's"
    looked = len(meter)
    edgeprune.compile(**asked, power_log=tmp_path / "two.csv", out=tmp_path / "again")
    assert len(meter) == looked + 2, "nor does the name of its file matter"


def test_what_is_out_of_reach_is_refused(at: Path, tmp_path: Path, meter: list[str]) -> None:
    with pytest.raises(Infeasible, match=r"the energy ceiling is out of reach: the smallest reachable .* takes .* mJ "):
        edgeprune.compile(**arguments(max_energy="0.001x", cost="measured"), out=tmp_path / "out")


def test_an_estimate_serves_where_it_is_asked_for_and_says_that_it_is_one(
    at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Workshop, "complete", lambda self, one, model: self.bench.complete(one, model))
    asked = arguments(max_energy="0.4x", max_accuracy_drop=0.9, cost="measured", energy="theoretical")
    report = edgeprune.compile(**asked, out=tmp_path / "out").report
    [row] = [row for row in report.budget if row.quantity == "energy"]
    assert (report.verdict, row.held, row.basis, report.basis) == ("met", True, "estimated", "estimated")
    assert report.result is not None and report.result.measurement.energy_source == "estimated"
    assert report.result.measurement.conditions["energy"]["method"] == "theoretical"
    assert report.result.measurement.power_mw is None
    wanted = arguments(max_energy="0.4x", cost="measured", energy="theoretical", require_measured=True)
    assert edgeprune.compile(**wanted, out=tmp_path / "again").report.verdict == "not-met"


def test_without_a_sensor_it_is_refused_before_any_work(
    at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Here, "energy", lambda self, model: None)
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    sentence = (
        r"^--max-energy needs a power sensor, and none of host-cpu answers here \(its file names \w+\); measure on the "
        r"board with --board, give the file of an external meter with --power-log, estimate with --energy theoretical, "
        r"or set --max-latency instead"
    )
    with pytest.raises(UnmetRequirement, match=sentence):
        edgeprune.compile(**arguments(max_energy="60mJ", cost="measured"), out=tmp_path / "out")
    assert clock.calls == []


def test_units() -> None:
    assert Limit.parse("energy", "60mJ") == Limit(60.0) and Limit.parse("energy", "0.5J") == Limit(500.0)
    assert Budget(max_energy=Limit(0.5, True)).ceilings() == {"energy": Limit(0.5, True)}


def test_a_ceiling_that_nothing_could_tell_is_not_met(
    at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of one's own are not asked for a sensor; what they made cannot be judged, by share or by number."""
    monkeypatch.setattr(Here, "energy", lambda self, model: None)
    for number, ceiling in enumerate(("0.5x", "0.000001mJ")):
        made = edgeprune.compile(**arguments(max_energy=ceiling, passes=[Export()]), out=tmp_path / str(number))
        assert made.report.verdict == "unchecked"
        [row] = [row for row in made.report.budget if row.quantity == "energy"]
        assert (row.found, row.held, row.basis) == (None, None, "unchecked")
        assert (row.limit is None) == (ceiling == "0.5x")
        findings = {finding.what: finding for finding in verify(made.directory, Silent())}
        assert findings["budget: energy"].detail.startswith("not checked") and findings["verdict"].held
        assert "Energy" in (made.directory / "report.html").read_text(encoding="utf-8")
