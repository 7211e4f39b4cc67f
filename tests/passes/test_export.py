import logging
import os
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from contexts import BOARD, Agreement, context, open_onnx, smooth_images, torch_model
from torch import nn

from edgeprune.errors import BadModel, UnmetRequirement
from edgeprune.model import METADATA_KEY, ModelSpec, OnnxModel, Surgery, TorchModel
from edgeprune.passes import export
from edgeprune.passes.export import Export
from edgeprune.passes.graph import kept_floating


def net(seed: int = 0) -> TorchModel:
    torch.manual_seed(seed)
    return torch_model(nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(),
        nn.Linear(8 * 14 * 14, 10),
    ))  # fmt: skip


SECOND_PROCESS = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from passes.test_export import net
from contexts import context
from edgeprune.passes.export import Export
model = net()
print(Export().run(model, context(Path(sys.argv[1]), model)[0]).digest())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, OnnxModel, dict]:
    model = net()
    ctx, facts = context(tmp_path_factory.mktemp("export"), model)
    return model, Export().run(model, ctx), facts


def test_a_module_that_is_called_twice_stays_in_float_at_both_calls(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.head(self.stem(x)).relu()).mean((2, 3))

    model = torch_model(Twice())
    ctx, _ = context(tmp_path, model)
    whole = Export().run(model.clone(), ctx)
    assert kept_floating(onnx.load(whole.path)) == frozenset()
    told = Export().run(replace(model.clone(), surgery=Surgery(floating=("head", "gone"))), ctx)
    assert kept_floating(onnx.load(told.path)) == {"head", "head_1"}


def test_the_graph_computes_what_the_module_does(exported):
    model, onnx_model, facts = exported
    onnx_model.verify()
    images = smooth_images(5)
    with open_onnx(onnx_model) as predict:
        found = predict(images)
    assert np.abs(found - model.predict(images)).max() < 1e-4 * found.std()
    assert 0 <= facts["difference"] < 1e-4


def test_one_file_with_fixed_names_shapes_opset_and_spec(exported):
    model, onnx_model, facts = exported
    proto = onnx.load(onnx_model.path)
    assert [i.name for i in proto.graph.input] == ["input"]
    assert [o.name for o in proto.graph.output] == ["output"]
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    assert (facts["opset"], facts["ir_version"], proto.producer_name) == (18, 10, "edgeprune")
    assert [n.name for n in proto.graph.node] == ["0", "relu_0", "3", "reshape_0", "5"], "and BatchNorm is folded"
    assert OnnxModel.read(onnx_model.path).spec == model.spec
    assert [p.name for p in onnx_model.path.parent.iterdir()] == ["model.onnx"]


def test_nothing_of_the_building_machine_is_in_the_file(exported):
    _, onnx_model, _ = exported
    data = onnx_model.path.read_bytes()
    for path in (Path.cwd(), Path.home(), Path(__file__).parent, Path(sysconfig.get_path("purelib"))):
        assert str(path).encode() not in data
    proto = onnx.load(onnx_model.path)
    assert [p.key for p in proto.metadata_props] == [METADATA_KEY]
    assert not any(n.metadata_props or n.doc_string for n in proto.graph.node)
    assert not any(v.metadata_props for v in (*proto.graph.value_info, *proto.graph.initializer))


def test_equal_models_give_equal_bytes_in_this_process_and_in_another(exported, tmp_path):
    _, onnx_model, _ = exported
    again = net()
    assert Export().run(again, context(tmp_path, again)[0]).digest() == onnx_model.digest()
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    elsewhere = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS, str(tmp_path), *paths], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=tmp_path,
    )  # fmt: skip
    assert elsewhere.stdout.split()[-1] == onnx_model.digest()


def test_other_weights_give_other_bytes(exported, tmp_path):
    other = net(seed=1)
    assert Export().run(other, context(tmp_path, other)[0]).digest() != exported[1].digest()


def test_real_images_are_compared_where_there_are_any(tmp_path):
    class Odd(nn.Module):
        """Answers otherwise for bright images, in a way that torch.export cannot see from one example."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10] * (1.0 if torch.compiler.is_exporting() else 2.0)

    model = torch_model(Odd())
    task = Agreement(model, smooth_images(8))
    with pytest.raises(BadModel, match=r"^the exported graph differs from the module by .* of the outputs' spread"):
        Export().run(model, context(tmp_path, model, task=task)[0])


def test_an_older_opset_takes_the_older_exporter(tmp_path):
    model = net()
    board = BOARD.model_copy(update={"opset": 13, "ir_version": 7})
    ctx, facts = context(tmp_path, model, board=board)
    Export().run(model, ctx).verify()
    assert (facts["opset"], facts["ir_version"]) == (13, 7)


def test_an_opset_above_the_targets_is_refused(tmp_path, monkeypatch):
    model = net()
    monkeypatch.setattr(export, "DYNAMO_OPSET", 13)  # ask the dynamo exporter for what it cannot write
    board = BOARD.model_copy(update={"opset": 13})
    with pytest.raises(BadModel, match=r"^torch writes this model as ONNX opset 18, but the target takes at most 13$"):
        Export().run(model, context(tmp_path, model, board=board)[0])


@pytest.mark.parametrize("opset", [13, 18])
def test_an_operator_without_onnx_form_is_named(tmp_path, opset):
    class Bessel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    model = torch_model(Bessel())
    board = BOARD.model_copy(update={"opset": opset})
    message = r"^the operator \S*bessel_j0 has no ONNX form; write the model's forward without it$"
    with pytest.raises(BadModel, match=message):
        Export().run(model, context(tmp_path, model, board=board)[0])
    assert not list(tmp_path.iterdir()), "no half-written output"


def test_data_dependent_control_flow_is_explained(tmp_path):
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = torch_model(Branch())
    with pytest.raises(BadModel, match=r"^torch cannot write this model as ONNX \("):
        Export().run(model, context(tmp_path, model)[0])


def test_weights_beyond_two_gigabytes_are_refused_before_any_work(tmp_path):
    with torch.device("meta"):
        module = nn.Linear(30_000, 30_000)
    model = TorchModel(module, ModelSpec((1, 3, 100, 100)), (torch.zeros(1),))
    message = r"^the weights take 3\.6 GB, but an ONNX file of one piece holds at most 2 GB; use a smaller model$"
    with pytest.raises(UnmetRequirement, match=message):
        Export().requires(model, context(tmp_path, model)[0])


def test_shared_weights_get_names_of_their_own(tmp_path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x).relu())

    model = torch_model(Twice())
    proto = onnx.load(Export().run(model, context(tmp_path, model)[0]).path)
    assert [n.name for n in proto.graph.node] == ["conv", "relu_0", "conv_1"]


def test_the_exporters_own_remarks_are_not_the_users(monkeypatch, caplog):
    talker = logging.getLogger("torch.onnx._internal.exporter._registration")
    real = torch.onnx.export

    def talking(*arguments, **options):
        talker.warning("torchvision is not installed. Skipping torchvision::nms")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return real(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", talking)
    export.to_proto(net(), BOARD.opset)
    talker.warning("heard again")
    assert [record.message for record in caplog.records if record.name == talker.name] == ["heard again"]


def test_a_difference_no_larger_than_the_modules_own_doubt_is_let_through(tmp_path: Path) -> None:
    model = net()
    ctx, facts = context(tmp_path, model)
    Export(tolerance=1e-12).run(model, ctx)
    assert 0 < facts["difference"] < 1e-5

    @contextmanager
    def off(one: OnnxModel) -> Iterator[Any]:
        with ctx.open(one) as predict:
            yield lambda images: predict(images) * np.float32(1.001)

    with pytest.raises(BadModel, match=r"^the exported graph differs from the module by "):
        Export(tolerance=1e-12).run(model, replace(ctx, open=off))


class Padded(nn.Module):
    """A shortcut as CIFAR's ResNets have it: every other pixel, and channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3))
        y = self.conv(x) + short
        return self.head(nn.functional.avg_pool2d(y, y.shape[-1]).reshape(y.shape[0], -1))


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_the_output_has_a_fixed_shape_whichever_exporter_wrote_it(opset: int, tmp_path: Path) -> None:
    model = torch_model(Padded())
    ctx, _ = context(tmp_path, model)
    made = Export().run(model, replace(ctx, board=BOARD.model_copy(update={"opset": opset})))
    [output] = onnx.load(made.path).graph.output
    assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [1, 10]


def test_both_exporters_give_the_layers_the_same_names(tmp_path: Path) -> None:
    """The older one folds a batch norm into a weight and names that anew; ranges of one export must fit the other."""
    model = torch_model(nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()), nn.Conv2d(16, 8, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ))  # fmt: skip
    names = []
    for opset in (13, 18):
        ctx, _ = context(tmp_path / str(opset), model)
        made = Export().run(model, replace(ctx, board=BOARD.model_copy(update={"opset": opset})))
        names.append([node.name for node in onnx.load(made.path).graph.node])
    assert names[0] == names[1] == ["0.0", "relu_0", "1", "mean_0", "reshape_0", "4"]
