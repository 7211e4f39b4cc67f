"""ONNX graphs of a few nodes as text, some with Q/DQ nodes as TensorRT wants them."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

HEAD = '<ir_version: 7, opset_import: ["" : {opset}]>\nmodel (float[1, 2, 4, 4] input) => (float[1, 2, 4, 4] output)\n'
PLAIN = "<float[2, 2, 1, 1] w, float[2] b> { [conv] output = Conv(input, w, b) }"
QDQ = """<float s = {0.1}, int8 z = {0}, float[2, 2, 1, 1] w, float[2] ws = {0.02, 0.03}, int8[2] wz = {0, 0},
 float[2] b>
{
    [a_q] q = QuantizeLinear(input, s, z)
    [a_dq] d = DequantizeLinear(q, s, z)
    [w_q] wq = QuantizeLinear<axis = 0>(w, ws, wz)
    [w_dq] wd = DequantizeLinear<axis = 0>(wq, ws, wz)
    [conv] output = Conv(d, wd, b)
}"""
RNG = np.random.default_rng(0)
VALUES: dict[str, np.ndarray[Any, Any]] = {
    "w": RNG.normal(size=(2, 2, 1, 1)).astype(np.float32),
    "wi": RNG.integers(-127, 128, (2, 2, 1, 1)).astype(np.int8),
    "b": np.array([0.5, -1.5], np.float32),
    "bi": np.array([50, -75], np.int32),
    "dead": np.array([0.0, 0.03], np.float32),
    "g": RNG.normal(size=(2, 4, 4)).astype(np.float32),
    "nothing": np.zeros((0, 2, 1, 1), np.float32),
}


def graph(body: str, opset: int = 13) -> onnx.ModelProto:
    """Return the graph of a text, with VALUES for the initializers that it declares without any."""
    proto: onnx.ModelProto = parser.parse_model(HEAD.replace("{opset}", str(opset)) + body)
    for one in proto.graph.initializer:
        if one.name in VALUES:
            one.CopyFrom(numpy_helper.from_array(VALUES[one.name], one.name))
    declared = {i.name for i in proto.graph.initializer}
    for info in list(proto.graph.value_info):
        if info.name in VALUES and info.name not in declared:
            proto.graph.initializer.append(numpy_helper.from_array(VALUES[info.name], info.name))
            proto.graph.value_info.remove(info)
    return proto


def edit(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def run(proto: onnx.ModelProto, image: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
    """Return the output of a graph as it stands, with nothing optimized, on an image of noise unless one is given."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if image is None:
        image = np.random.default_rng(1).normal(size=(1, 2, 4, 4)).astype(np.float32)
    result: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: image})[0]
    return result
