"""TensorRT-RTX: real builds where it is installed, and what its messages say."""

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
from qdq_graphs import PLAIN, QDQ, edit, graph

from edgeprune.dialects.conform import lint
from edgeprune.engines import rtx
from edgeprune.engines.rtx import Rtx, parse_layers, parse_memory
from edgeprune.errors import BadModel, Lacking
from edgeprune.profiles import board as boards

BOARD = boards.load("rtx")
real = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
LOG = [
    "Total Activation Memory: 8192512 bytes",
    "Total Weights Memory: 1320 bytes",
    "Total number of blocks in optimized block assignment: 1",
    "Layers:\n"
    "Name: __myl_Cast_myl0_0, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [1,2,4,4], Datatype: Float, "
    "Format: (Linear) }], Outputs: [ { Name: q, Datatype: Int8 }], Metadata: [ONNX Layer: a_q]\n"
    "Name: conv_myl0_1, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [1,4,4,4], Datatype: Int8, Format: "
    "(NHWC) }], Constants: [ { Name: w, Datatype: Int8 }], Metadata: [ONNX Layer: conv][ONNX Layer: w_dq]\n"
    "a line of another kind\n"
    "Name: late, LayerType: correlation, Inputs: [ { Name: x, Datatype: Half, Format: (NHWC) }], StreamId: 0",
]  # fmt: skip


def write(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "graph.onnx"
    onnx.save(proto, path)
    return path


def test_layers_are_read_out_of_the_log() -> None:
    layers = parse_layers(LOG)
    assert [(x.name, x.kind, x.precision) for x in layers] == [
        ("__myl_Cast_myl0_0", "kgen", "fp32"), ("conv_myl0_1", "correlation", "int8"), ("late", "correlation", "fp16"),
    ]  # fmt: skip
    assert layers[1].nodes == ("conv", "w_dq") and layers[2].nodes == ()
    assert rtx.count_convolutions(layers) == {"fp16": 1, "int8": 1}
    assert parse_memory(LOG) == {"activation": 8192512, "weights": 1320}
    assert parse_layers([]) == () and rtx.count_convolutions(()) == {}


@real
def test_an_int8_graph_becomes_an_engine_whose_convolution_is_int8(tmp_path: Path) -> None:
    engine = Rtx().build(write(tmp_path, graph(QDQ, 17)), BOARD, tmp_path / "out")
    assert engine.path == tmp_path / "out" / "model.engine"
    blob = engine.path.read_bytes()
    assert blob[:4] == b"vtrt" and int.from_bytes(blob[16:24], "little") == len(blob)
    assert ".".join(map(str, blob[24:28])) == engine.version
    assert int.from_bytes(blob[32:36], "little") == 4 | 8 | 16  # 8.6, 8.9, 12.0
    assert engine.precisions == {"int8": 1}
    assert engine.memory["activation"] > 0
    assert any("conv" in layer.nodes for layer in engine.layers)
    assert engine.command[2:] == ("edgeprune.engines.rtx_child", "graph.onnx", "model.engine", "8.6", "8.9", "12.0")


@real
def test_a_float_graph_stays_float(tmp_path: Path) -> None:
    assert Rtx().build(write(tmp_path, graph(PLAIN, 17)), BOARD, tmp_path).precisions == {"fp32": 1}


REFUSED = {
    "asymmetric activations": edit(QDQ, ("int8 z = {0}", "uint8 z = {128}")),
    "a dead filter's scale": edit(QDQ, ("ws = {0.02, 0.03}", "ws = {0, 0.03}")),
    "a quantized bias": edit(
        QDQ,
        ("float[2] b>", "int32[2] bi, float[2] bs = {0.01, 0.02}, int32[2] bz = {0, 0}>"),
        ("    [conv]", "    [b_dq] b = DequantizeLinear<axis = 0>(bi, bs, bz)\n    [conv]"),
    ),
    "an operator it lacks": "{ [where] idle = NonZero(input)\n [relu] output = Relu(input) }",
}


@real
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_rules_find_the_builder_refuses(tmp_path: Path, case: str) -> None:
    """It keeps the rules honest: each stands for something that really fails."""
    proto = graph(REFUSED[case], 17)
    assert lint(proto, BOARD)
    with pytest.raises(BadModel, match=r"^TensorRT-RTX refuses this graph: ."):
        Rtx().build(write(tmp_path, proto), BOARD, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def answering(monkeypatch: pytest.MonkeyPatch, **answer: Any) -> None:
    done = subprocess.CompletedProcess(
        [], answer.pop("returncode", 0), answer.pop("stdout", ""), answer.pop("stderr", "")
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(Rtx, "unavailable", lambda *_: None)


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        ({"returncode": -11}, BadModel, "TensorRT-RTX crashed on this graph (signal 11)"),
        (
            {"returncode": 1, "stderr": "Traceback\nImportError: libtensorrt_rtx.so.1: cannot open"},
            Lacking,
            "TensorRT-RTX cannot be run here: ImportError: libtensorrt_rtx.so.1: cannot open",
        ),
        ({"returncode": 1}, Lacking, "TensorRT-RTX cannot be run here: it said nothing"),
        (
            {"stdout": "noise of a library\n" + json.dumps({"errors": ["Conv a: no", "Conv b: no", "c", "d", "e"]})},
            BadModel,
            "TensorRT-RTX refuses this graph: Conv a: no; Conv b: no; c; and 2 more",
        ),
    ],
)
def test_a_child_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    answering(monkeypatch, **answer)
    with pytest.raises(error) as caught:
        Rtx().build(tmp_path / "graph.onnx", BOARD, tmp_path / "out")
    assert str(caught.value) == sentence
    assert not (tmp_path / "out" / "model.engine").exists()


def test_a_child_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rtx, "unavailable", lambda *_: None)
    stuck = tmp_path / "stuck.py"
    stuck.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(rtx, "_CHILD", stuck)
    with pytest.raises(Lacking, match=r"did not finish within 0\.2 s"):
        Rtx(timeout=0.2).build(tmp_path / "graph.onnx", BOARD, tmp_path / "out")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Lacking, match=r"pip install 'edgeprune\[rtx\]'"):
        Rtx().build(tmp_path / "graph.onnx", BOARD, tmp_path)


def test_the_child_imports_nothing_of_edgeprune() -> None:
    text = Path(rtx.__file__).with_name("rtx_child.py").read_text(encoding="utf-8")
    assert "import edgeprune" not in text and "from edgeprune" not in text
