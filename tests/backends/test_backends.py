"""The contract of every backend found, and what is particular to ONNX Runtime."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from contexts import BOARD, context, torch_model
from onnx import TensorProto, helper
from torch import nn

from edgeprune.backends.base import Backend
from edgeprune.backends.onnxruntime import count_convolutions, session_options
from edgeprune.errors import BadModel, Lacking, MissingPackage
from edgeprune.find import find, names
from edgeprune.model import ModelSpec, OnnxModel
from edgeprune.passes.export import Export
from edgeprune.profiles import board as boards


def exported(folder: Path, board: boards.Board) -> OnnxModel:
    module = torch_model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4)))
    return Export().run(module, replace(context(folder, module)[0], board=board))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return exported(tmp_path_factory.mktemp("model"), BOARD)


@pytest.mark.parametrize("name", names("backends"))
def test_every_backend_emits_opens_and_measures(name: str, tmp_path: Path) -> None:
    backend = find("backends", name)()
    assert isinstance(backend, Backend) and backend.name == name
    if backend.version() is None and backend.elsewhere(BOARD) is None:
        pytest.skip(f"{name} is not installed")
    own = next((b for b in map(boards.load, boards.names()) if b.backend == name), BOARD)
    model, tmp_path = exported(tmp_path, own), tmp_path / "out"
    artifact = backend.emit(model, own, tmp_path)
    assert artifact.path.parent == tmp_path and artifact.runtime == name and artifact.spec == model.spec
    assert artifact.size_bytes() == artifact.path.stat().st_size > 0
    assert sum(artifact.precisions.values()) in (0, 1), "the model has one convolution"
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    if backend.elsewhere(own) is not None:
        with pytest.raises(Lacking):
            backend.open(artifact, 1)
        assert artifact.notes or artifact.engine, "it says what is to be done with what it wrote"
        return
    with backend.open(artifact, 1) as runner:
        first = {k: v.copy() for k, v in runner({"input": image}).items()}
        assert list(first) == ["output"] and first["output"].shape == (1, 4)
        np.testing.assert_array_equal(runner({"input": image})["output"], first["output"])
    memory = backend.peak_memory_bytes(artifact, 1)
    assert memory is None or 0 < memory < 500e6, "the cost of a tiny model, without Python's own or torch's"


def test_emitting_into_its_own_place_changes_nothing(model: OnnxModel, tmp_path: Path) -> None:
    backend = find("backends", "onnxruntime")()
    first = backend.emit(model, BOARD, tmp_path)
    again = backend.emit(OnnxModel(first.path, first.spec), BOARD, tmp_path)
    assert again == first and OnnxModel(again.path, again.spec).digest() == model.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_the_runtime_cannot_load_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(BadModel, match=r"^ONNX Runtime cannot load .*model\.onnx \(\w+: "):
        find("backends", "onnxruntime")().emit(OnnxModel(broken, ModelSpec((1, 3, 4, 4))), BOARD, tmp_path / "out")


def test_memory_of_a_file_that_is_not_there_is_unknown(model: OnnxModel, tmp_path: Path) -> None:
    backend = find("backends", "onnxruntime")()
    artifact = backend.emit(model, BOARD, tmp_path)
    artifact.path.unlink()
    assert backend.peak_memory_bytes(artifact, 1) is None


def test_threads_are_fixed() -> None:
    options = session_options(1)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_convolutions_count_as_what_they_compute_in() -> None:
    def conv(op: str, weight: str, domain: str = "") -> onnx.NodeProto:
        return helper.make_node(op, ["x", weight], [f"{op}{weight}{domain}"], domain=domain)

    nodes = [
        helper.make_node("Cast", ["half"], ["cast"], to=TensorProto.FLOAT),
        conv("Conv", "float"), conv("Conv", "float", "com.microsoft.nchwc"),
        conv("FusedConv", "float", "com.microsoft"), conv("Conv", "cast"),
        conv("Conv", "half"), conv("NhwcFusedConv", "half", "com.microsoft"),
        conv("QLinearConv", "float", "com.microsoft"), conv("ConvInteger", "float"), conv("MatMul", "float"),
    ]  # fmt: skip
    initializers = [
        helper.make_tensor("float", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("half", TensorProto.FLOAT16, [1], [1.0]),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [], [], initializers))
    assert count_convolutions(proto) == {"fp16": 2, "fp32": 4, "int8": 2}


openvino = pytest.mark.skipif(find("backends", "openvino")().version() is None, reason="openvino is not installed")


@openvino
@pytest.mark.parametrize(("name", "precision", "least", "most"), [("openvino", "fp32", 0.0, 1e-5),
                                                                  ("openvino-bf16", "bf16", 1e-5, 5e-2)])  # fmt: skip
def test_openvino_computes_in_what_it_says(
    name: str, precision: str, least: float, most: float, model: OnnxModel, tmp_path: Path
) -> None:
    """Left to itself it runs float32 graphs in bf16 where the processor can: asked for float32, it must not."""
    if name not in boards.load("host-cpu").runtimes:
        pytest.skip("this processor has no bf16 arithmetic")
    backend = find("backends", name)()
    artifact = backend.emit(model, BOARD, tmp_path)
    assert artifact.precisions == {precision: 1}
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    outputs = []
    for one in (backend, find("backends", "onnxruntime")()):
        with one.open(artifact, 1) as runner:
            first = runner({"input": image})["output"]
            runner({"input": -image})  # what it returned is the caller's own
            outputs.append(first)
    apart = np.abs(outputs[0] - outputs[1]).max() / outputs[1].std()
    assert least <= apart <= most
    layers = backend.layer_times(artifact, 1, runs=3)
    assert layers and sum(layer.share for layer in layers) == pytest.approx(1.0)


@openvino
def test_openvino_refuses_what_it_cannot_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(BadModel, match=r"^OpenVINO cannot load .*model\.onnx \(\w+: "):
        find("backends", "openvino")().emit(OnnxModel(broken, ModelSpec((1, 3, 4, 4))), BOARD, tmp_path / "out")


def test_openvino_that_is_not_installed(model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = find("backends", "openvino")()
    monkeypatch.setattr(type(backend), "version", lambda self: None)
    with pytest.raises(MissingPackage, match=r"^the runtime openvino needs openvino; install it with: pip install"):
        backend.emit(model, BOARD, tmp_path)
