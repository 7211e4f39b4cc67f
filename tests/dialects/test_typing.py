"""Strong and weak typing: what the types of a graph ask for, and the same graph without them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from qdq_graphs import PLAIN, QDQ, graph, run

from edgeprune.dialects.typing import precisions, to_half, weakened

DEEP = """<float[2, 2, 1, 1] w, float[2] b> {
    [one] x = Conv(input, w, b)
    [act] y = Relu(x)
    [scale] c = Constant<value = float {0.5}>()
    [mul] z = Mul(y, c)
    [two] output = Conv(z, w, b)
}"""


@pytest.mark.parametrize(
    ("body", "half"), [(PLAIN, ("fp16",)), (QDQ, ("fp16", "int8")), (DEEP, ("fp16",))], ids=["plain", "int8", "deep"]
)
def test_there_and_back(body: str, half: tuple[str, ...]) -> None:
    proto = graph(body, 17)
    strong = to_half(proto)
    onnx.checker.check_model(strong, full_check=True)
    assert precisions(strong) == half
    assert strong.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    weak, asked = weakened(strong)
    onnx.checker.check_model(weak, full_check=True)
    assert asked == half
    assert not set(precisions(weak)) - {"int8"}
    assert all(n.op_type != "Cast" for n in weak.graph.node)
    expected, spread = run(proto), float(run(proto).std())
    for other in (strong, weak):
        assert np.abs(run(other) - expected).max() < 0.02 * spread


def test_scales_stay_float32_where_opset_17_wants_them() -> None:
    strong = to_half(graph(QDQ, 17))
    types = {i.name: i.data_type for i in strong.graph.initializer}
    assert types["s"] == types["ws"] == types["w"] == TensorProto.FLOAT and types["b"] == TensorProto.FLOAT16
    [weight] = [node for node in strong.graph.node if node.name == "w_q"]
    assert weight.input[0] == "w"  # and no Cast between, which would hide that it is a weight


def test_the_given_graph_is_left_as_it_is() -> None:
    proto = graph(PLAIN, 17)
    before = proto.SerializeToString(deterministic=True)
    strong = to_half(proto)
    inner = strong.SerializeToString(deterministic=True)
    weakened(strong)
    assert proto.SerializeToString(deterministic=True) == before
    assert strong.SerializeToString(deterministic=True) == inner


def test_a_cast_from_integers_stays() -> None:
    proto = graph("{ [shape] s = Shape(input)\n [sizes] f = Cast<to = 1>(s)\n [sum] t = ReduceSum<keepdims = 0>(f)\n"
                  " [scaled] output = Mul(input, t) }")  # fmt: skip
    weak, asked = weakened(proto)
    assert asked == () and [n.op_type for n in weak.graph.node] == ["Shape", "Cast", "ReduceSum", "Mul"]
    np.testing.assert_array_equal(run(weak), run(proto))
