from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from contexts import context, torch_model

from edgeprune.compiler.recut import Recut, read_cuts
from edgeprune.find import find
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.sparsify import Sparsify
from edgeprune.tasks.classification import Classification
from edgeprune.tasks.synthetic import Synthetic
from edgeprune.tracing import size_of

CUTS = Surgery({"stem": ((0, 2), None), "bn": ((0, 2), None), "down": (None, (0, 2))}, ("block",))


@pytest.fixture
def model() -> TorchModel:
    return torch_model(tiny.trained(), (1, 3, 12, 12))


def run(one: Recut, model: TorchModel, tmp_path: Path, **changes: Any) -> TorchModel:
    return one.run(model.clone(), context(tmp_path, model, **changes)[0])


def test_recorded_cuts_are_applied(model: TorchModel, tmp_path: Path) -> None:
    result = run(Recut.of(CUTS), model, tmp_path)
    assert result.surgery == CUTS
    assert result.module.get_parameter("stem.weight").shape == (2, 3, 3, 3)
    assert torch.equal(result.module.get_parameter("stem.weight"), model.module.get_parameter("stem.weight")[[0, 2]])
    assert not list(result.module.get_submodule("block").parameters())
    result.verify()


def test_no_cuts_are_the_model(model: TorchModel, tmp_path: Path) -> None:
    assert run(Recut(), model, tmp_path).digest() == model.digest()
    assert Recut.of(Surgery()) == Recut()


def test_statistics_are_estimated_anew_on_real_images_alone(model: TorchModel, tmp_path: Path) -> None:
    data = Classification(tiny.write_data(tmp_path / "d.npz"))
    inner = (0, 2)
    cuts = Surgery({"block.conv1": (inner, None), "block.bn1": (inner, None), "block.conv2": (None, inner)})

    def read(one: TorchModel) -> list[torch.Tensor]:
        return [one.module.get_buffer(f"{name}.running_mean") for name in ("block.bn2", "block.bn1", "bn")]

    def means(recalibration: int, task: Any) -> list[torch.Tensor]:
        return read(run(Recut.of(cuts, recalibration), model, tmp_path, task=task))

    after, inside, before = read(model)
    for recalibration, task in ((0, data), (64, None), (64, Synthetic(model))):  # as sparsify: it has no images
        assert all(map(torch.equal, means(recalibration, task), [after, inside[[0, 2]], before]))
    found = means(64, data)
    assert not torch.allclose(found[0], after, atol=0.01)
    assert torch.allclose(found[1], inside[[0, 2]], atol=1e-4), "no cut reaches it: it stays what it was trained with"
    assert torch.allclose(found[2], before, atol=1e-4)
    assert all(map(torch.equal, found, means(64, data)))


def test_what_a_search_reconstructs_is_reconstructed_alike(model: TorchModel, tmp_path: Path) -> None:
    data = Classification(tiny.write_data(tmp_path / "d.npz"))
    limits = (("macs", 0.6 * size_of(model)["macs"]),)
    step = Sparsify(agent=find("agents", "uniform")(), evaluations=4, limits=limits, reconstruction=True)
    found = step.run(model.clone(), context(tmp_path, model, task=data)[0])
    again = run(Recut.of(found.surgery, step.recalibration, True), model, tmp_path, task=data)
    assert again.digest() == found.digest()
    plain = run(Recut.of(found.surgery, step.recalibration), model, tmp_path, task=data)
    assert plain.digest() != found.digest()


@pytest.mark.parametrize(
    "raw",
    [
        None, [], 3, "x", {}, {"kept": [], "dropped": []}, {"kept": {"a": 1}, "dropped": []}, {"kept": {}},
        {"kept": {"a": [[1], [2], [3]]}, "dropped": []}, {"kept": {"a": [["x"], None]}, "dropped": []},
        {"kept": {"a": [[-1], None]}, "dropped": []}, {"kept": {"a": [[1.5], None]}, "dropped": []},
        {"kept": {}, "dropped": [1]}, {"kept": {}, "dropped": None},
    ],
)  # fmt: skip
def test_what_are_no_cuts_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match=r"its cuts (cannot be read \(|are not indices and names)"):
        read_cuts(raw)


@pytest.mark.parametrize("activations", [{"act": "swish"}, {"act": []}, {"act": 1}])
def test_activations_that_are_not_known_are_refused(activations: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^its activations are not names and kinds \(hardswish, relu, relu6, leaky_relu\)$"
    ):
        read_cuts({"kept": {}, "dropped": [], "activations": activations})
    with pytest.raises(ValueError, match=r"^its cuts cannot be read \("):
        read_cuts({"kept": {}, "dropped": [], "activations": 3})


def test_layers_in_float_that_are_no_names_are_refused() -> None:
    assert read_cuts({"kept": {}, "dropped": [], "floating": ["a"]}).floating == ("a",)
    with pytest.raises(ValueError, match=r"^its layers in float are not names$"):
        read_cuts({"kept": {}, "dropped": [], "floating": [1]})


def test_cuts_that_are_no_json_are_refused() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        Recut("x")
    assert read_cuts(CUTS.to_json()) == CUTS
