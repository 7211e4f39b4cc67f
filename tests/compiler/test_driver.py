"""Whole builds of a tiny network, under every kind of budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from conftest import arguments

import edgeprune
from edgeprune.agents.uniform import Uniform
from edgeprune.errors import BadOption, Infeasible
from edgeprune.model import TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.export import Export
from edgeprune.passes.prune import Prune
from edgeprune.passes.quantize import Quantize
from edgeprune.report import Report
from edgeprune.tasks.classification import Classification

WHOLE = {"manifest.json", "model.onnx", "model.safetensors", "recipe.json", "report.html", "report.json"}


def compile_tiny(tmp_path: Path, **changes: Any) -> Report:
    return edgeprune.compile(**arguments(out=tmp_path / "out", **changes)).report


def row(report: Report, quantity: str) -> Any:
    return next(r for r in report.budget if r.quantity == quantity)


# --- a floor alone --------------------------------------------------------------------------------------------------


def test_a_floor_alone_gives_a_smaller_model_and_a_whole_report(built: Any) -> None:
    report = built.report
    assert (report.verdict, report.basis) == ("met", "measured")
    assert report.result.macs < 0.6 * report.baseline.macs
    assert report.result.size_bytes < report.baseline.size_bytes
    assert [c.name for c in report.candidates if c.chosen] == [report.result.name]
    assert {c.name for c in report.candidates} == {"original", "quantized-only", "pruned-only", "pruned-quantized"}
    assert all(c.held_floor is not False for c in report.candidates if c.chosen)
    assert {p.held_floor for p in report.probes} <= {True, False}
    assert {s.name: s.n for s in report.splits} == {"train": 192, "search": 120, "test": 120}
    assert report.baseline.score.split == report.result.score.split == "test"
    assert all(c.score.split == "search" for c in report.candidates)
    assert {p.name for p in built.directory.iterdir()} == WHOLE


def test_the_search_is_counted_and_compared_with_its_warm_start(built: Any) -> None:
    search = built.report.search
    assert search.agent == "ppo"
    assert 0 < search.evaluations <= 24
    assert {s.name for s in search.searchers} >= {"uniform", "ppo"}
    assert search.gain_over_warm_start == pytest.approx(search.best - search.warm_start)
    assert search.gain_over_warm_start >= 0
    assert built.report.learning


def test_the_test_split_is_read_once_for_the_original_and_once_for_the_result(built: Any) -> None:
    assert built.splits.count("test") == 2
    assert built.splits[-2:] == ["test", "test"]  # nothing is decided after them


def test_nothing_names_the_building_machine(built: Any) -> None:
    hidden = [
        str(built.inputs),
        str(built.cache),
        str(built.directory),
        str(Path.home()),
        str(Path(torch.__file__).parents[2]),
    ]
    for path in built.directory.iterdir():
        content = path.read_bytes()
        assert [name for name in hidden if name.encode() in content] == [], path.name
    assert str(Path(edgeprune.__file__).parents[1]).encode() not in (built.directory / "model.onnx").read_bytes()


# --- ceilings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text", "quantity", "share"),
    [
        ("max_macs", "0.4x", "macs", 0.4),
        ("max_parameters", "0.3x", "parameters", 0.3),
        ("max_size", "0.35x", "size", 0.35),
    ],
)
def test_ceilings_are_held(
    option: str, text: str, quantity: str, share: float, tmp_path: Path, at: Path, clock: tiny.Clock
) -> None:
    report = compile_tiny(tmp_path, **{option: text}, max_accuracy_drop=0.5)
    field = {"macs": "macs", "parameters": "parameters", "size": "size_bytes"}[quantity]
    found, original = getattr(report.result, field), getattr(report.baseline, field)
    assert found <= share * original
    assert row(report, quantity).found == found
    assert row(report, quantity).limit == pytest.approx(share * original)
    assert (report.verdict, row(report, quantity).basis) == ("met", "exact")


def test_a_latency_ceiling_is_held_by_the_clock(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    report = compile_tiny(tmp_path, max_latency="0.3x", max_accuracy_drop=0.6, cost="measured")
    assert report.verdict == "met"
    assert report.result.measurement.ratio <= 0.3
    assert row(report, "latency").basis == "measured"
    assert any("shape at" in p.name for p in report.probes)


def test_a_ceiling_that_int8_meets_alone_prunes_nothing(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    report = compile_tiny(tmp_path, max_size="0.9x")
    assert report.result.name == "quantized-only"
    assert report.search is None
    assert "lower precision alone meets every ceiling, so nothing was pruned for them" in report.notes


def test_without_data_the_floor_is_unchecked_and_ceilings_are_held(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    report = compile_tiny(
        tmp_path, data=None, max_macs="0.5x", agent="uniform", input_shape=(1, 3, 12, 12), settings={}
    )
    assert report.result.macs <= 0.5 * report.baseline.macs
    assert (row(report, "accuracy-drop").basis, row(report, "accuracy-drop").held) == ("unchecked", None)
    assert (report.verdict, report.basis) == ("met", "exact")
    assert report.result.score.split == "synthetic"
    assert set(report.result.precisions) == {"fp32"}
    assert report.learning == []


def test_without_data_or_a_ceiling_nothing_can_be_checked(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    report = compile_tiny(tmp_path, data=None, input_shape=(1, 3, 12, 12), settings={})
    assert (report.verdict, report.basis) == ("unchecked", "unchecked")
    assert "no channel is dead; without data or a ceiling there is nothing else to prune by" in report.notes


@pytest.mark.parametrize(
    ("ceiling", "sentence"),
    [
        ({"max_macs": "0.001x"}, r"MACs \(0\.001x of the original's\) is out of reach: the smallest reachable is 0\.0"),
        ({"max_parameters": "0.001x"}, r"parameters \(0\.001x of the original's\) is out of reach"),
        ({"max_size": "1kB"}, r"the ceiling of 1000 bytes is out of reach: the smallest reachable is \d+ bytes"),
        ({"max_latency": "0.001x"}, r"the latency ceiling is out of reach: the smallest reachable artifact takes"),
    ],
)
def test_what_is_out_of_reach_is_refused_before_the_search(
    ceiling: dict[str, str], sentence: str, tmp_path: Path, at: Path, clock: tiny.Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(cache))
    with pytest.raises(Infeasible, match=sentence):
        compile_tiny(tmp_path, **ceiling)
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {"manifest.json", "report.html", "report.json"}
    assert Report.from_json((out / "report.json").read_bytes()).verdict == "infeasible"
    assert not (cache / "journals").exists()
    assert [f.exit_code for f in edgeprune_verify(out)].count(2) == 0


def test_a_floor_that_no_candidate_holds_leaves_the_best_found(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    report = compile_tiny(tmp_path, max_macs="0.03x", max_accuracy_drop=0.0, epochs=0)
    assert report.verdict == "not-met"
    assert row(report, "accuracy-drop").held is False
    assert row(report, "macs").held is True
    assert report.result.macs <= 0.03 * report.baseline.macs
    assert {p.name for p in (tmp_path / "out").iterdir()} == WHOLE
    assert max(f.exit_code for f in edgeprune_verify(tmp_path / "out")) == 3


def edgeprune_verify(folder: Path) -> list[Any]:
    from edgeprune.compiler.verify import verify
    from edgeprune.passes.base import Silent

    return verify(folder, Silent())


# --- instances instead of names ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halve(Pass[TorchModel, TorchModel]):
    """A user's own pass: halves the last layer's weights, so that its work can be seen."""

    name = "halve"
    takes = TorchModel
    gives = TorchModel

    factor: float = 0.5

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        with torch.no_grad():
            model.module.fc.weight.mul_(self.factor)
            model.module.fc.bias.mul_(self.factor)
        ctx.record("factor", self.factor)
        return model


class Striped(Classification):
    """A user's own task, known by another name."""

    name = "striped"


def test_passes_of_the_users_own_run_as_they_are(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    module = tiny.trained()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    report = edgeprune.compile(
        module, task=Classification(Path("data.npz")), passes=[Halve(), Export()], out=tmp_path / "out", cost="macs"
    ).report
    assert [s.name for s in report.steps if s.candidate == "result"] == ["halve", "export"]
    assert next(s for s in report.steps if s.name == "halve").facts == {"factor": 0.5}
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    image = tiny.normalised(tiny.images(1, 5)[0]).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(None, {"input": image})[0] * 2, module(torch.from_numpy(image)).detach(), atol=1e-4
    )


def test_a_task_and_an_agent_of_the_users_own(tmp_path: Path, at: Path, clock: tiny.Clock) -> None:
    report = edgeprune.compile(
        tiny.trained(),
        task=Striped(Path("data.npz"), batch=32, calibration=64),
        agent=Uniform(),
        max_macs="0.5x",
        out=tmp_path / "out",
        **{**tiny.QUICK, "settings": {}},
    ).report
    assert report.search.agent == "uniform"
    assert report.result.macs <= 0.5 * report.baseline.macs


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evaluation": 3}, r"compile has no option 'evaluation'; known: arch, board, cost, data"),
        ({"cost": "estimated"}, r"--cost estimated: host-cpu is measured here; use --cost measured, or macs$"),
        ({"cost": "guess"}, r"cost 'guess' is not known; known: estimated, macs, measured"),
        ({"effort": "quik"}, r"effort 'quik' is not known; did you mean 'quick'\?"),
        ({"max_macs": 0.5}, r"--max-macs '0\.5' is not understood; give a share of the original such as 0\.5x"),
        ({"threads": 0}, r"threads must be in \[1, 1024\], not 0"),
        ({"seed": -1}, r"the seed must be in \[0, 2\*\*32\), not -1"),
        ({"passes": []}, r"passes must end with one that gives an OnnxModel"),
        ({"passes": [Prune()]}, r"passes must end with one that gives an OnnxModel"),
        (
            {"passes": [Export(), Prune(), Export()]},
            r"pass 'prune' takes a TorchModel, but 'export' before it gives a Onn",
        ),
        (
            {"passes": [Quantize()]},
            r"the first pass is given the original, a TorchModel, but 'quantize' does not take one",
        ),
        ({"agent": "pppo"}, r"unknown agent 'pppo'; did you mean 'ppo'\?"),
    ],
)
def test_wrong_options_are_answered_before_any_work(
    options: dict[str, Any], sentence: str, tmp_path: Path, at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadOption, match=sentence):
        edgeprune.compile(**{**arguments(), "out": tmp_path / "out", **options})
    assert list(tmp_path.iterdir()) == []
