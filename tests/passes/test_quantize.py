from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from contexts import BOARD, Agreement, clock, context, open_onnx, smooth_images, torch_model
from torch import nn

from edgeprune.backends.onnxruntime import OnnxRuntime
from edgeprune.budget import Budget
from edgeprune.errors import BadOption, UnmetRequirement
from edgeprune.model import METADATA_KEY, OnnxModel, Predict, TorchModel
from edgeprune.passes import ranking, trial
from edgeprune.passes.base import Context
from edgeprune.passes.export import Export
from edgeprune.passes.graph import keep_floating, kept_floating, write
from edgeprune.passes.lowering import calibrate, lowerable_names
from edgeprune.passes.quantize import Quantize
from edgeprune.report import Score


class Residual(nn.Module):
    """Every kind of join that int8 has to survive: a skip, a pool, a concat, a dense end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 16, 3, padding=1)
        self.right = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        y = torch.cat([x + self.left(x).relu(), self.right(x).relu()], 1)
        return self.fc(nn.functional.avg_pool2d(y, 8).flatten(1))


class Fragile(nn.Module):
    """One channel between ``b`` and ``c`` is ten thousand times the others, which 256 levels cannot tell from zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)
        self.d = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)
        with torch.no_grad():
            self.b.weight[0] *= 1e4
            self.c.weight[:, 0] /= 1e4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.a, self.b, self.c, self.d):
            x = layer(x).relu()
        return self.fc(nn.functional.avg_pool2d(x, 16).flatten(1))


def prepare(folder: Path, module: nn.Module, **changes: Any) -> tuple[OnnxModel, Context, dict[str, Any]]:
    """Export ``module`` and return it with a Context whose task asks for the module's own answers."""
    model: TorchModel = torch_model(module)
    task = Agreement(model, smooth_images(200))
    options = {"task": task, "baseline": task.score(model.predict, "search"), **changes}
    ctx, facts = context(folder, model, **options)
    exported = Export().run(model, ctx)
    facts.clear()
    return exported, ctx, facts


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, Context, dict[str, Any]]:
    return prepare(tmp_path_factory.mktemp("residual"), Residual(), budget=Budget(max_accuracy_drop=0.05))


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, Context, dict[str, Any]]:
    return prepare(tmp_path_factory.mktemp("fragile"), Fragile(), budget=Budget(max_accuracy_drop=0.05))


def fresh(prepared: tuple[OnnxModel, Context, dict[str, Any]], folder: Path, **changes: Any) -> tuple[Any, ...]:
    """Return a prepared model with a Context of its own workspace and facts."""
    facts: dict[str, Any] = {}
    return prepared[0], replace(prepared[1], workspace=folder, record=facts.__setitem__, **changes), facts


def operators(model: OnnxModel, folder: Path) -> dict[str, int]:
    return dict(OnnxRuntime().emit(model, BOARD, folder / "out").precisions)


def test_all_layers_run_as_int8_and_the_skip_stays_there_too(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    lowered = Quantize().run(model, ctx)
    lowered.verify()
    assert operators(model, tmp_path) == {"fp32": 3}
    assert operators(lowered, tmp_path) == {"int8": 3}
    proto = onnx.load(lowered.path)
    rounded = {n.input[0] for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    joins = [n for n in proto.graph.node if n.op_type in ("Add", "Concat", "MaxPool", "AveragePool")]
    assert len(joins) == 4 and all(n.output[0] in rounded for n in joins)
    assert next(n for n in proto.graph.node if n.output[0] == "output").op_type == "Gemm", "scores are not rounded"
    assert facts["precision"] == "int8" and facts["lowered"] == ["stem", "left", "right", "fc"]
    assert (facts["share"], facts["convolutions"], facts["convolutions_int8"]) == (1.0, 3, 3)
    assert facts["calibration"]["images"] == 32 and len(facts["calibration"]["sha256"]) == 64
    assert facts["reason"] == (
        "all 4 layers in int8 hold the floor; int8 in 4 layers takes 0.500x of fp32, at most 0.510x"
    )
    [probe] = facts["probes"]
    assert probe["held"] and probe["lowered"] == probe["of"] == 4
    assert lowered.size_bytes() < 0.75 * model.size_bytes()


def test_equal_inputs_give_equal_bytes_and_leave_one_file(residual, tmp_path):
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        model, ctx, _ = fresh(residual, tmp_path / name)
        lowered = Quantize().run(model, ctx)
        digests.add(lowered.digest())
        assert [p.name for p in (tmp_path / name).iterdir()] == [lowered.path.name]
    assert len(digests) == 1
    proto = onnx.load(lowered.path)
    assert [p.key for p in proto.metadata_props] == [METADATA_KEY]
    assert (proto.producer_name, proto.ir_version, proto.opset_import[0].version) == ("edgeprune", 10, 18)
    assert str(tmp_path).encode() not in lowered.path.read_bytes()


def test_the_bisection_backs_off_from_a_fragile_layer_and_can_be_replayed(fragile, tmp_path):
    model, ctx, facts = fresh(fragile, tmp_path)
    lowered = Quantize().run(model, ctx)
    assert set(facts["lowered"]) and not {"b", "c"} & set(facts["lowered"])
    assert facts["probes"][0]["held"] is False and facts["probes"][0]["lowered"] == 5
    assert 0 < facts["share"] < 1
    task, images = ctx.task, smooth_images(200)
    with open_onnx(lowered) as predict:
        drop, error = ctx.baseline.drop_to(task.score(predict, "search"))
        assert drop + error <= 0.05 and np.isfinite(predict(images)).all()
    (tmp_path / "again").mkdir()
    model, ctx, again = fresh(fragile, tmp_path / "again", measure=None)
    replayed = Quantize(lowered=tuple(facts["lowered"])).run(model, ctx)
    assert replayed.digest() == lowered.digest()
    assert again["reason"] == "given" and "probes" not in again


def test_without_a_clock_the_choice_is_the_same_every_time(fragile, tmp_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        model, ctx, facts = fresh(fragile, tmp_path / name, cost="macs", measure=None)
        found.append((Quantize().run(model, ctx).digest(), facts))
    assert found[0] == found[1]


class Exact(Agreement):
    """Accepts nothing but the given model's very outputs, minus a handicap for everyone."""

    def __init__(self, model: TorchModel, handicap: float = 0.0, accepts: float = 1e-3) -> None:
        super().__init__(model, smooth_images(40))
        self._outputs, self._handicap, self._accepts = model.predict(self._images), handicap, accepts

    def score(self, predict: Predict, split: str, indices: Any = None) -> Score:
        close = np.abs(predict(self._images) - self._outputs).max(1) < self._accepts * self._outputs.std()
        right = close - self._handicap
        return Score(float(right.mean()), len(right), right)


def test_a_floor_that_no_share_holds_returns_the_float_graph(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    task = Exact(ctx.original)
    ctx = replace(ctx, task=task, baseline=task.score(ctx.original.predict, "search"))
    assert Quantize().run(model, ctx) is model
    assert facts["precision"] == "fp32" and facts["lowered"] == []
    assert facts["reason"] == "no share of the layers in int8 holds the floor"
    assert [(p["lowered"], p["held"]) for p in facts["probes"]] == [(4, False), (0, True), (3, False), (1, False)]
    assert not list(tmp_path.iterdir())


def test_a_float_graph_below_the_floor_does_not_forbid_int8(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    task = Exact(ctx.original, accepts=1.0)
    baseline = task.score(ctx.original.predict, "search")
    worse = Exact(ctx.original, handicap=0.5, accepts=1.0)
    assert Quantize().run(model, replace(ctx, task=worse, baseline=baseline)) is not model
    assert facts["reason"].startswith(
        "all 4 layers in int8 hold the floor beside the float graph, which misses it by itself; int8 in 4 layers"
    )
    assert [(p["lowered"], p["held"]) for p in facts["probes"]] == [(4, False), (0, False), (4, True)]


def planned(model: OnnxModel, folder: Path, floating: set[str]) -> OnnxModel:
    """Return the model with a plan's layers in float noted in it."""
    proto = onnx.load(model.path)
    keep_floating(proto, floating)
    return write(proto, replace(model, path=folder / "planned.onnx"))


def test_what_a_plan_left_in_float_stays_there(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    every = lowerable_names(model.path)
    made = Quantize().run(planned(model, tmp_path, {every[1], "gone"}), ctx)
    assert facts["lowered"] == [name for name in every if name != every[1]]
    assert facts["reason"].startswith("all 3 layers that the plan lowers and int8 does not slow down in int8 hold")
    assert operators(made, tmp_path) == {"fp32": 1, "int8": 2}
    assert kept_floating(onnx.load(made.path)) == frozenset(), "what is emitted has no notes for passes in it"
    Quantize(precision="int8").run(planned(model, tmp_path, {every[1]}), ctx)
    assert facts["lowered"] == list(every), "a precision that was named is everybody's"


def test_a_layer_between_int8_ones_that_stays_in_float_runs_in_float(fragile, tmp_path):
    model, ctx, _ = fresh(fragile, tmp_path)
    a, b, c, d, fc = lowerable_names(model.path)
    made = Quantize(lowered=(a, b, d, fc)).run(model, ctx)
    assert operators(made, tmp_path) == {"fp32": 1, "int8": 3}, "ONNX Runtime would have lowered it by itself"
    elsewhere = replace(ctx, board=ctx.board.model_copy(update={"backend": "tensorrt"}))
    plain = Quantize(lowered=(a, b, d, fc)).run(model, replace(elsewhere, workspace=tmp_path / "plain"))
    assert operators(plain, tmp_path) == {"int8": 4}
    scales = [n for n in onnx.load(plain.path).graph.node if n.name == f"{c}_dequantize"]
    assert scales == [], "TensorRT takes one scale an activation"


def test_layers_that_are_given_are_lowered_but_for_those_of_the_plan(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    every = lowerable_names(model.path)
    Quantize(lowered=every).run(planned(model, tmp_path, {every[0]}), ctx)
    assert facts["lowered"] == list(every[1:])


def test_a_plan_that_leaves_everything_in_float_is_not_lowered(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    given = planned(model, tmp_path, set(lowerable_names(model.path)))
    assert Quantize().run(given, ctx) is given
    assert (facts["precision"], facts["reason"]) == ("fp32", "the plan leaves every layer in float")


def test_int8_that_does_not_pay_is_dropped_and_the_report_says_why(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path, measure=clock({"int8": 0.985}, width=0.01))
    assert Quantize().run(model, ctx) is model
    assert "int8 in 4 layers takes 0.985x of fp32, at most 0.995x" in facts["reason"]
    assert facts["precision"] == "fp32"


def test_a_noisy_clock_is_believed_only_beyond_its_interval(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path, measure=clock({"int8": 0.8}, width=0.3, noisy=True))
    assert Quantize().run(model, ctx) is model
    assert "at most 1.100x (on a noisy machine)" in facts["reason"]


def test_a_precision_that_was_named_is_kept_without_asking_the_clock(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path, measure=None)
    assert Quantize(precision="int8").run(model, ctx) is not model
    assert facts["precision"] == "int8"
    assert Quantize(precision="fp32").run(model, ctx) is model
    assert facts["reason"] == "no lower precision was asked for or exists on the target"


def test_fp16_wins_where_the_clock_says_so_and_replays(residual, tmp_path):
    board = BOARD.model_copy(update={"precisions": ("fp32", "fp16")})
    model, ctx, facts = fresh(residual, tmp_path, board=board, measure=clock({"fp16": 0.6}))
    half = Quantize().run(model, ctx)
    half.verify()
    assert facts["precision"] == "fp16" and facts["reason"].startswith("fp16 holds the floor; fp16 takes 0.600x")
    assert half.size_bytes() < 0.6 * model.size_bytes()
    assert Quantize(precision="fp16", lowered=()).run(model, ctx).digest() == half.digest()


def test_without_data_int8_is_impossible_and_said_so(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path, task=None, baseline=None)
    assert Quantize().run(model, ctx) is model
    assert "int8 needs images to calibrate on" in facts["reason"]
    with pytest.raises(UnmetRequirement, match=r"^int8 needs images to calibrate on; give them with --data$"):
        Quantize(precision="int8").requires(model, ctx)


def test_a_precision_the_target_lacks_is_refused(residual, tmp_path):
    board = BOARD.model_copy(update={"precisions": ("fp32",)})
    model, ctx, _ = fresh(residual, tmp_path, board=board)
    message = r"^test-board has no fp16 arithmetic; its precisions are fp32$"
    with pytest.raises(UnmetRequirement, match=message):
        Quantize(precision="fp16").requires(model, ctx)
    assert Quantize().run(model, ctx) is model


def test_a_missing_baseline_is_taken_from_the_float_graph(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path, baseline=None)
    Quantize().run(model, ctx)
    assert facts["precision"] == "int8"


def test_a_model_without_layers_stays_as_it_is(tmp_path):
    model, ctx, facts = prepare(tmp_path, nn.Sequential(nn.AvgPool2d(4), nn.Flatten()))
    assert Quantize().run(model, ctx) is model
    assert facts["reason"] == "no layer has constant weights that int8 could hold" and facts["share"] == 0.0


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_ways_to_find_ranges_work_too(residual, tmp_path, method):
    model, ctx, facts = fresh(residual, tmp_path, budget=Budget(max_accuracy_drop=None))
    lowered = Quantize(method=method).run(model, ctx)
    assert operators(lowered, tmp_path) == {"int8": 3} and facts["calibration"]["method"] == method


def test_ranges_are_those_that_score_better_and_equals_the_plain_ones(residual, tmp_path, capsys):
    model, ctx, facts = fresh(residual, tmp_path)
    Quantize().run(model, ctx)
    scores = facts["calibration"]["scores"]
    assert list(scores) == ["minmax", "percentile"] and facts["method"] == facts["calibration"]["method"]
    assert facts["method"] == ("percentile" if scores["percentile"] > scores["minmax"] else "minmax")
    assert capsys.readouterr().out == "", "the histograms announce themselves"


def test_ranges_that_extreme_values_spoiled_are_not_taken(residual, tmp_path, monkeypatch):
    model, ctx, facts = fresh(residual, tmp_path)

    def spoil(path, images, layout, method, threads, guarded):
        factor = 1e3 if method == "minmax" else 1.0
        return calibrate(path, [image * factor for image in images], layout, method, threads, guarded)

    monkeypatch.setattr(trial, "calibrate", spoil)
    lowered = Quantize().run(model, ctx)
    scores = facts["calibration"]["scores"]
    assert facts["method"] == "percentile" and scores["percentile"] > scores["minmax"] + 0.1
    assert facts["precision"] == "int8" and facts["share"] == 1.0
    with open_onnx(lowered) as predict:
        assert ctx.task.score(predict, "search").value == scores["percentile"]


def test_where_the_layers_are_given_ranges_are_not_compared(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    Quantize(lowered=("left",)).run(model, ctx)
    assert (facts["method"], facts["calibration"]["scores"]) == ("minmax", {})
    Quantize(lowered=("left",), method="percentile").run(model, ctx)
    assert facts["method"] == "percentile"


def test_layers_are_ranked_by_the_tasks_own_distance(residual, tmp_path, monkeypatch):
    model, ctx, _ = fresh(residual, tmp_path)
    monkeypatch.setattr(trial.Trial, "_gain", lambda self, names: dict.fromkeys(names, 1.0))

    def ranked(distance):
        monkeypatch.setattr(ctx.task, "distance", distance)
        one = trial.Trial(model, ctx, "minmax")
        return one._ranked(one._calibrated().candidates())

    def squared(outputs, reference, temperature):
        assert temperature == 1.0
        return (outputs - reference).square().mean()

    least_first = ranked(squared)
    assert len(least_first) == 4
    assert ranked(lambda *given: -squared(*given)) == least_first[::-1]
    assert ranked(lambda *given: 0.0 * squared(*given)) == least_first, "a task that tells nothing apart: deviations"


def test_no_graph_is_scored_twice(residual, tmp_path, monkeypatch):
    model, ctx, _ = fresh(residual, tmp_path)
    seen = []
    score = ctx.task.score
    monkeypatch.setattr(ctx.task, "score", lambda predict, split: seen.append(1) or score(predict, split))
    Quantize().run(model, ctx)
    assert len(seen) == 2, "two ways to find ranges, and the better whole graph holds"


def test_options_are_checked():
    with pytest.raises(BadOption, match=r"^quantize\.precision 'int4' is not known; did you mean 'int8'\?$"):
        Quantize(precision="int4")
    with pytest.raises(BadOption, match=r"^quantize\.method 'entropie' is not known; did you mean 'entropy'\?$"):
        Quantize(method="entropie")
    with pytest.raises(BadOption, match=r"^quantize\.gain is a speed-up of at least 1, such as 1\.02, not 0\.9$"):
        Quantize(gain=0.9)


def test_a_recipe_for_another_graph_is_refused(residual, tmp_path):
    model, ctx, _ = fresh(residual, tmp_path)
    message = r"^quantize\.lowered names 'rigth', which is no layer of the graph; did you mean 'right'\?$"
    with pytest.raises(BadOption, match=message):
        Quantize(lowered=("rigth",)).run(model, ctx)


def test_a_second_try_takes_only_the_layers_that_gain(residual, tmp_path, monkeypatch):
    before = {"stem": 1.0, "left": 1.0, "right": 1.0, "fc": 1.0}
    spent = iter([before, {**before, "stem": 2.0, "left": 0.5, "right": 0.5}])
    monkeypatch.setattr(ranking, "milliseconds", lambda *_: next(spent))
    ratios = iter([1.2, 0.7])

    def measure(models: dict[str, OnnxModel]) -> Any:
        return clock({"int8": next(ratios)} if "int8" in models else {})(models)

    model, ctx, facts = fresh(residual, tmp_path, measure=measure)
    Quantize().run(model, ctx)
    assert facts["lowered"] == ["left", "right"]
    assert facts["reason"].startswith("the 2 layers that int8 speeds up hold the floor; int8 in 2 layers takes 0.700x")


@pytest.mark.parametrize(("loses", "ratio", "left_out"), [(2.0, 0.9, True), (2.0, 1.1, False), (1.03, 0.9, False)])
def test_a_layer_that_int8_slows_down_stays_in_float(residual, tmp_path, monkeypatch, loses, ratio, left_out):
    before = {"stem": 1.0, "left": 1.0, "right": 1.0, "fc": 1.0}
    spent = iter([before, {**before, "stem": loses, "left": 0.5, "right": 0.5}])
    monkeypatch.setattr(ranking, "milliseconds", lambda *_: next(spent))
    model, ctx, facts = fresh(residual, tmp_path, measure=clock({"int8": 0.5, "some": ratio}))
    Quantize().run(model, ctx)
    assert facts["lowered"] == [name for name in before if not (left_out and name == "stem")]
    kind = "3 layers that int8 does not slow down" if left_out else "4 layers"
    assert facts["reason"].startswith(f"all {kind} in int8 hold the floor; int8 in ")


def test_a_layer_that_int8_slows_down_stays_in_float_under_a_plan_too(residual, tmp_path, monkeypatch):
    spent = iter([{"stem": 1.0, "left": 1.0, "fc": 1.0}, {"stem": 2.0, "left": 0.5, "fc": 1.0}])
    monkeypatch.setattr(ranking, "milliseconds", lambda *_: next(spent))
    model, ctx, facts = fresh(residual, tmp_path, measure=clock({"int8": 0.5, "some": 0.9}))
    Quantize().run(planned(model, tmp_path, {"right"}), ctx)
    assert facts["lowered"] == ["left", "fc"]
    assert facts["reason"].startswith("all 2 layers that the plan lowers and int8 does not slow down in int8 hold")


def test_order_puts_the_least_risk_per_gain_first_and_losers_last():
    risk = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 0.1}
    gain = {"a": 1.0, "b": 2.0, "c": 30.0, "d": -1.0}
    assert ranking.order(("a", "b", "c", "d"), risk, gain) == ("c", "b", "a", "d")


def test_macs_are_counted_from_shapes(residual):
    graph = onnx.shape_inference.infer_shapes(onnx.load(residual[0].path)).graph
    convolutions = {"stem": 16 * 16 * 16 * 27, "left": 8 * 8 * 16 * 144, "right": 8 * 8 * 16 * 16}
    assert ranking.macs(graph) == {**convolutions, "fc": 320}


def test_the_profile_finds_every_layer_in_float_and_in_int8(residual, tmp_path):
    model, ctx, facts = fresh(residual, tmp_path)
    lowered = Quantize().run(model, ctx)
    graph = onnx.shape_inference.infer_shapes(onnx.load(model.path)).graph
    for path in (model.path, lowered.path):
        spent = ranking.milliseconds(path, graph, smooth_images(1), 1)
        assert set(spent) == set(facts["lowered"]) and all(ms > 0 for ms in spent.values())
