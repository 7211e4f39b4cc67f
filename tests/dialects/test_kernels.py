"""Which operators of a graph make one kernel, and what each of them computes and moves."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from qdq_graphs import PLAIN, QDQ, graph

from edgeprune.dialects.kernels import kernels

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] input) => (float[1, 10] output) <float[16, 3, 3, 3] w1, float[16, 1, 3, 3] w2,
    float[16, 16, 1, 1] w3, float[1024, 10] w4>
{
    [stem] a = Conv<pads = [1, 1, 1, 1]>(input, w1)
    [gate] s = Sigmoid(a)
    [silu] b = Mul(a, s)
    [depthwise] c = Conv<pads = [1, 1, 1, 1], group = 16>(b, w2)
    [act] d = Relu(c)
    [point] e = Conv(d, w3)
    [skip] f = Add(e, b)
    [flat] g = Flatten(f)
    [fc] output = MatMul(g, w4)
}"""


def net() -> onnx.ModelProto:
    proto: onnx.ModelProto = parser.parse_model(NET)
    for info in list(proto.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), info.name))
        proto.graph.value_info.remove(info)
    return proto


def test_pointwise_operators_go_with_the_layer_before_them() -> None:
    found = {k.name: k for k in kernels(net())}
    assert list(found) == ["stem", "depthwise", "point", "fc"]
    pixels = 64
    stem, depthwise, point, fc = found.values()
    assert (stem.macs, stem.inputs, stem.outputs) == (pixels * 16 * 27, 3, 16)
    assert (stem.read, stem.written, stem.weights) == (3 * pixels, 16 * pixels, 16 * 27)
    assert (depthwise.macs, depthwise.inputs, depthwise.conv_groups) == (pixels * 16 * 9, 1, 16)
    assert point.read == 2 * 16 * pixels, "the skip is read too"
    assert (fc.macs, fc.inputs, fc.outputs, fc.weights) == (10240, 1024, 10, 10240)
    assert {k.precision for k in found.values()} == {"fp32"}


def test_precision_is_what_the_graph_says_else_what_the_rest_runs_in() -> None:
    assert [k.precision for k in kernels(graph(QDQ))] == ["int8"]
    assert [k.precision for k in kernels(graph(PLAIN))] == ["fp32"]
    assert [k.precision for k in kernels(graph(PLAIN), "fp16")] == ["fp16"]
    assert [(k.macs, k.weights, k.read) for k in kernels(graph(QDQ))] == [
        (k.macs, k.weights, k.read) for k in kernels(graph(PLAIN))
    ]


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("{ [pool] output = MaxPool<kernel_shape = [1, 1]>(input) }", ["MaxPool"]),
        ("{ [a] x = Relu(input)\n [b] output = Relu(x) }", ["Relu"]),
        ("<float[2, 2, 1, 1] w> { [a] x = Conv(input, w)\n [b] y = Conv(input, w)\n [add] output = Add(x, y) }",
         ["Conv", "Conv"]),
    ],
)  # fmt: skip
def test_what_nothing_stands_before_is_a_kernel_of_its_own(body: str, operators: list[str]) -> None:
    assert [k.operator for k in kernels(graph(body))] == operators
