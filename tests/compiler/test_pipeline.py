from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context, torch_model
from torch import nn

from edgeprune.agents.uniform import Uniform
from edgeprune.compiler import pipeline
from edgeprune.compiler.cache import Store
from edgeprune.compiler.pipeline import Pipeline, describe, step_key, with_weights
from edgeprune.errors import BadModel, BadOption, UnmetRequirement
from edgeprune.model import OnnxModel, Surgery, TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.passes.export import Export
from edgeprune.passes.prune import Prune
from edgeprune.passes.quantize import Quantize
from edgeprune.passes.sparsify import Sparsify

RUNS: list[str] = []


@dataclasses.dataclass(frozen=True)
class Scale(Pass[TorchModel, TorchModel]):
    """Multiplies every weight."""

    name = "scale"
    takes = TorchModel
    gives = TorchModel

    factor: Any = 2.0

    def run(self, model: TorchModel, ctx: Context) -> TorchModel:
        RUNS.append(self.name)
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.mul_(self.factor)
        ctx.record("seen", [np.float64(0.5), {"a": (1, 2)}])
        return model


@dataclasses.dataclass(frozen=True)
class Broken(Pass[TorchModel, TorchModel]):
    """Gives what it is told to."""

    name = "broken"
    takes = TorchModel
    gives = TorchModel

    how: str = "promise"

    def requires(self, model: TorchModel, ctx: Context) -> None:
        if self.how == "requires":
            raise UnmetRequirement("it cannot work here")

    def run(self, model: TorchModel, ctx: Context) -> Any:
        if self.how == "killed":
            (ctx.workspace / "half").write_text("")
            raise KeyboardInterrupt
        if self.how == "nan":
            with torch.no_grad():
                next(model.module.parameters()).fill_(torch.nan)
            return model
        return None


@pytest.fixture
def model() -> TorchModel:
    torch.manual_seed(0)
    return torch_model(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(784, 3)))


@pytest.fixture
def run(tmp_path: Path, model: TorchModel) -> Iterator[Any]:
    RUNS.clear()

    def go(*passes: Any, base: str = "base", on: TorchModel = model) -> Any:
        ctx, _ = context(tmp_path / "w", model)
        return Pipeline(passes).run(on, ctx, Store(tmp_path / "store"), base, "candidate")

    yield go


def test_neighbours_must_fit() -> None:
    Pipeline((Prune(), Export(), Quantize()))
    with pytest.raises(BadOption, match="pass 'prune' takes a TorchModel, but 'export' before it gives a OnnxModel"):
        Pipeline((Export(), Prune()))


def test_no_passes_give_the_model_back(run: Any, model: TorchModel) -> None:
    assert run() == (model, ())


def test_passes_run_once_and_on_a_clone(run: Any, model: TorchModel) -> None:
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    first, (step,) = run(Scale())
    again, (cached,) = run(Scale())
    assert RUNS == ["scale"]
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, before[name] * 2)
        assert torch.equal(value, again.module.state_dict()[name])
    assert (step.cached, cached.cached) == (False, True)
    assert step.facts == cached.facts == {"seen": [0.5, {"a": [1, 2]}]}
    assert (step.name, step.options, step.candidate) == ("scale", {"factor": 2.0}, "candidate")


def test_what_a_pass_freed_is_given_back_before_the_next(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "give_back", lambda: RUNS.append("back"))
    run(Scale(), Scale(3.0))
    run(Scale(), Scale(3.0))  # from the store, where nothing was asked for
    assert RUNS == ["scale", "back", "scale", "back"]


def test_a_finished_prefix_is_taken_from_the_store(run: Any) -> None:
    run(Scale(), Scale(3.0))
    _, steps = run(Scale(), Scale(4.0))
    assert [s.cached for s in steps] == [True, False]


@pytest.mark.parametrize(
    ("passes", "base"),
    [((Scale(2.5),), "base"), ((Scale(),), "other"), ((Prune(), Scale()), "base")],
    ids=["options", "base", "what went before"],
)
def test_whatever_a_pass_depends_on_is_in_its_key(run: Any, passes: Any, base: str) -> None:
    run(Scale())
    _, steps = run(*passes, base=base)
    assert steps[-1].cached is False


def test_long_arrays_of_equal_appearance_are_told_apart() -> None:
    many, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1.0
    assert repr(many) == repr(other)
    assert step_key("", Scale(many)) == step_key("", Scale(many.copy())) != step_key("", Scale(other))
    assert step_key("", Scale(torch.from_numpy(many))) != step_key("", Scale(torch.from_numpy(other)))


def test_a_users_code_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = step_key("", Scale()), step_key("", Prune())
    monkeypatch.setattr(pipeline, "code_digest", lambda things: {type(things[0]).__name__: "edited"})
    assert step_key("", Scale()) != before[0]


def test_agents_inside_options_are_named_and_described() -> None:
    described = describe(Sparsify(agent=Uniform(), evaluations=3, limits=(("macs", 5.0),)))
    assert described["agent"]["name"] == "uniform"
    assert described["limits"] == [["macs", 5.0]]
    assert describe(Scale(Path("a/b"))) == {"factor": "a/b"}
    assert describe(Scale({"b": (1, None)})) == {"factor": {"b": [1, None]}}


def test_a_killed_pass_does_not_count_and_keeps_its_workspace(run: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Broken("killed"))
    assert list((tmp_path / "store").rglob("half"))
    assert not list((tmp_path / "store").rglob("done.json"))


@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        ("promise", BadModel, "pass 'broken' promised a TorchModel and gave a NoneType"),
        ("nan", BadModel, "the weights hold NaN or infinity, first in '0.weight'"),
        ("requires", UnmetRequirement, "it cannot work here"),
    ],
)
def test_a_failure_names_its_pass_and_those_before_it(run: Any, how: str, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        run(Scale(), Broken(how))
    assert caught.value.__notes__ == ["in pass broken (of candidate, after scale)"]
    with pytest.raises(error):
        run(Scale(), Broken(how))  # nothing of it was kept


def test_an_onnx_model_is_stored_and_read_back_with_its_spec(run: Any, model: TorchModel, tmp_path: Path) -> None:
    first, _ = run(Export())
    again, (step,) = run(Export())
    assert isinstance(first, OnnxModel)
    assert (first.path, first.spec, first.digest()) == (again.path, model.spec, again.digest())
    assert step.cached
    assert not list((tmp_path / "store").rglob("*.partial"))


def test_shared_tensors_survive_the_store(tmp_path: Path, run: Any) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 3, 3, padding=1)
            self.two = self.one

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x)).mean((2, 3))

    model = torch_model(Shared())
    ctx, _ = context(tmp_path / "w2", model)
    result, _ = Pipeline((Scale(),)).run(model, ctx, Store(tmp_path / "s2"), "base", "c")
    assert isinstance(result, TorchModel)
    assert result.module.one.weight is result.module.two.weight


def test_weights_of_another_cut_are_refused(tmp_path: Path, model: TorchModel) -> None:
    (tmp_path / "w.safetensors").write_bytes(pipeline.weights(model))
    same = with_weights(model, Surgery(), tmp_path / "w.safetensors")
    assert torch.equal(same.module[0].weight, model.module[0].weight)
    cut = Surgery({"0": ((0, 1), None)})
    with pytest.raises(BadModel, match="does not fit the recorded cuts of this model"):
        with_weights(model, cut, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"junk")
    with pytest.raises(BadModel, match="does not fit the recorded cuts"):
        with_weights(model, Surgery(), tmp_path / "w.safetensors")
